"""The examples run as they stand."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import torch
from tiny import TINY

from free_port import free_port
from opendetr import api
from opendetr.checkpoints.loading import load_checkpoint
from opendetr.checkpoints.pickles import read_pickle

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run_example(monkeypatch):
    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    return run


def test_detect_finetune_and_convert(run_example, tiny_run, digits, tmp_path, capsys):
    run_example("finetune.py", tiny_run, digits, tmp_path / "run", 1)
    assert load_checkpoint(tmp_path / "run").config.train.init == str(tiny_run)
    run_example("convert.py", tmp_path / "run", tmp_path / "again", "opendetr")
    run_example("detect.py", tmp_path / "again", *sorted((digits / "images").glob("test_*.png"))[:2])
    assert "The model is in" in capsys.readouterr().out


@pytest.mark.slow
def test_models_of_others_go_in_and_out(run_example, digits, tmp_path, capsys):
    """A run with the paper's architecture to an official file, from there to Hugging Face's folder, and back."""
    options = {**TINY, "backbone": "resnet18", "backbone_weights": "none", "val_split": "none"}
    run = api.train(digits, **options, epochs=1, output=tmp_path / "run", overrides=["model.output_stride=32"])
    run_example("convert.py", run, tmp_path / "official", "official")
    run_example("convert.py", tmp_path / "official" / "checkpoint.pth", tmp_path / "hf")  # huggingface by default
    run_example("convert.py", tmp_path / "hf", tmp_path / "again", "official")
    pictures = sorted((digits / "images").glob("test_*.png"))[:2]
    run_example("detect.py", tmp_path / "official" / "checkpoint.pth", *pictures)
    run_example("detect.py", tmp_path / "hf", *pictures)
    run_example("finetune.py", tmp_path / "hf", digits, tmp_path / "tuned", 1)
    first, again = (
        read_pickle(tmp_path / name / "checkpoint.pth", "weights")["model"] for name in ("official", "again")
    )
    assert first.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert load_checkpoint(tmp_path / "tuned").label_map.names == tuple("0123456789")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["here.onnx", "here.onnx", "half"], "not 'half'"),
        (["here.onnx", "gone.jpg", "0.5"], "'gone.jpg' does not exist"),
        (["gone.onnx", "here.onnx", "0.5"], "'gone.onnx' does not exist"),
    ],
)
def test_run_onnx_refuses_what_it_cannot_use_in_a_sentence(run_example, arguments, words, tmp_path, capsys):
    (tmp_path / "here.onnx").touch()
    there = [str(tmp_path / name) if name == "here.onnx" else name for name in arguments]
    with pytest.raises(SystemExit) as ended:
        run_example("run_onnx.py", *there)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.count("\n") == 1
    assert words in said


@pytest.mark.parametrize("name", ["convert.py", "detect.py", "finetune.py", "run_onnx.py"])
def test_without_arguments_one_sentence_says_what_is_needed(run_example, name, capsys):
    with pytest.raises(SystemExit) as ended:
        run_example(name)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.count("\n") == 1
    assert name in said


# The notebook has no magic words and shows what its last lines give, so that executing its cells runs all of it.
# nbclient would start a kernel for the same, and brings ipykernel, pyzmq and tornado with it.
@pytest.fixture
def cells():
    notebook = json.loads((EXAMPLES / "first_detector.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    return notebook["cells"]


@pytest.mark.slow
def test_the_notebook_runs_from_its_first_cell_to_its_last(cells, tiny_run, tmp_path, capsys):
    small = {
        "folder": str(tmp_path), "scenes": 16, "training": TINY | {"epochs": 1},
        "checking": {"seconds": 0.5, "image_size": 64, "recipe": str(tiny_run / "config.toml")},
    }  # fmt: skip
    namespace = {"__name__": "notebook"}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), namespace)
            if "parameters" in cell["metadata"].get("tags", []):
                assert small.keys() <= namespace.keys()
                namespace.update(small)
    assert {"run", "explained", "digits", "digits.onnx"} <= {path.name for path in tmp_path.iterdir()}
    assert namespace["detections"]._repr_png_() is not None
    assert "agree with PyTorch" in capsys.readouterr().out


def test_the_notebook_has_no_outputs_and_its_links_lead_somewhere(cells):
    for cell in cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        for link in re.findall(r"\]\(([^):]+)\)", "".join(cell["source"])):
            assert (EXAMPLES / link).is_file(), link
    assert len({cell["id"] for cell in cells}) == len(cells)


def test_a_page_is_served_so_that_it_may_use_threads(tmp_path):
    (tmp_path / "index.html").write_text("the page")
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, EXAMPLES / "serve_web_folder.py", tmp_path, str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        while server.poll() is None:
            try:
                answer = urlopen(f"http://127.0.0.1:{port}/")
                break
            except URLError:  # it does not listen yet
                continue
        assert server.poll() is None, server.stderr.read()
        assert answer.read() == b"the page"
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    finally:
        server.kill()
        server.communicate()
