"""A run written by commit dd1bd25 loads, says the same, resumes and exports: what people have trained is never lost."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from opendetr import api
from opendetr.engines.file_kinds import read_metadata

STORED = Path(__file__).parent / "stored" / "run-of-dd1bd25"
EXPECTED = json.loads((STORED / "expected.json").read_text())
PICTURES = STORED / "pictures"
# Another processor or version of torch rounds otherwise: pixels of a box, scores, and relative for losses.
PIXELS, SCORE, LOSS = 0.05, 1e-3, 2e-2


def test_it_detects_what_it_did(tmp_path):
    written = api.predict(
        STORED / "run", [str(PICTURES / "images")], tmp_path, threshold=0.0, drawn=False, device="cpu"
    )
    found = json.loads(Path(written).read_text())
    assert len(found) == len(EXPECTED["detections"])
    for now, then in zip(found, EXPECTED["detections"]):
        assert (now["file_name"], now["name"]) == (then["file_name"], then["name"])
        assert now["bbox"] == pytest.approx(then["bbox"], abs=PIXELS)
        assert now["score"] == pytest.approx(then["score"], abs=SCORE)


def test_it_goes_on_learning_as_it_did(tmp_path, monkeypatch):
    losses, backward = [], Accelerator.backward

    def record(accelerator, loss):
        losses.append(float(loss.detach()))
        backward(accelerator, loss)

    monkeypatch.setattr(Accelerator, "backward", record)
    run = tmp_path / "run"
    shutil.copytree(STORED / "run", run)
    api.train(PICTURES, resume=run, epochs=4)
    assert losses == pytest.approx(EXPECTED["losses_after_resuming"], rel=LOSS)
    assert (run / "best" / "model.safetensors").is_file()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The run as a .pt2, and its certificate; other kinds of files are in integration/test_export.py."""
    file = tmp_path_factory.mktemp("exported") / "old.pt2"
    return file, api.export(STORED / "run", file, data=PICTURES)


def test_it_is_measured_as_it_was():
    assert api.val(STORED / "run", PICTURES).summary["AP50"] == pytest.approx(EXPECTED["ap50"], abs=0.02)


@pytest.mark.slow
def test_it_exports(exported):
    """What is compared with the run, AP too, is the file as it was written and read."""
    file, certificate = exported
    assert certificate.problems() == []
    assert certificate.ap["engine"] == pytest.approx(certificate.ap["torch"], abs=1e-3)
    assert read_metadata(file)["certificate"]["holds"]


@pytest.mark.slow
def test_its_file_names_no_folder_of_this_machine(exported):
    """torch keeps the line of code behind every operation, with its path."""
    file, _ = exported
    with zipfile.ZipFile(file) as parts:
        content = b"".join(parts.read(name) for name in parts.namelist())
    for place in (Path(torch.__file__).parents[1], Path(api.__file__).parent, file.parent, Path.home()):
        assert str(place).encode() not in content
