"""`benchmarks/cuda.py` in its small mode, so that it runs where there is a GPU at last."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def cuda():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        patch.setenv("HF_HUB_OFFLINE", "1")
        before = set(sys.modules)
        yield importlib.import_module("cuda_report")
        for name in set(sys.modules) - before:
            if name.startswith(("cuda", "training_step")):
                del sys.modules[name]


@pytest.fixture(scope="module")
def found(cuda, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    cuda.main(["--small", "--device", "cpu", "--output", str(folder)])
    return json.loads((folder / "gpu.json").read_text()), (folder / "gpu.md").read_text()


@pytest.mark.slow
def test_a_step_is_compared_in_another_memory_layout(cuda, found):
    report, page = found
    assert [each["model"] for each in report["agreements"]] == ["DETR-R50", "recipe fast"]
    for each in report["agreements"]:
        assert cuda.Agreement(**each).agrees()
        assert each["gradients"] > 0  # the layouts add up in another order
    assert "not reached" not in page.split("## DETR-R50")[0]


def test_a_device_that_computes_something_else_is_found(cuda, monkeypatch):
    agreement, scale = sys.modules["cuda_agreement"], cuda.SMALL
    config = cuda.load_recipe("paper").with_values({**scale.paper, "model.dropout": 0.0}, "this test")

    def off(model, device):
        placed = cuda_place(model, device)
        next(placed.transformer.parameters()).data *= 1.01
        return placed

    cuda_place = agreement.place
    monkeypatch.setattr(agreement, "place", off)
    assert not agreement.compare("off", config, scale.compared, cuda.resolve_device("cpu")).agrees()


@pytest.mark.slow
def test_every_side_that_is_there_is_timed_in_every_setting(cuda, found):
    report, page = found
    every = ("opendetr", "official code", "transformers")
    missing = [line for line in report["left_out"] if line.startswith(every[1:])]
    sides = [
        side for side in ("opendetr", "official code", "transformers") if not any(side in line for line in missing)
    ]
    rows = {(row["what"], row["setting"], row["side"]) for row in report["timings"]}
    assert rows == {
        (what, setting, side)
        for what in ("training", "prediction") for setting in cuda.SMALL.settings for side in sides
    }  # fmt: skip
    assert report["left_out"] == missing  # and all of them do the same work
    for row in report["timings"]:
        assert row["milliseconds"] > 0
        assert (row["matching"] is not None) == (row["what"] == "training" and row["side"] == "opendetr")
        assert row["gigabytes"] is None  # no GPU
    assert all(f"| {row['what']} | 1 | {row['setting']} | {row['side']} |" in page for row in report["timings"])


def test_ours_in_bf16_is_compared_with_the_official_code_in_fp32(cuda):
    report = cuda.Report("", "")
    report.timings = [
        cuda.Timed("training", 1, setting, side, milliseconds, 1, None)
        for setting, side, milliseconds in (
            ("fp32", "official code", 90.0), ("bf16", "official code", 60.0), ("bf16", "opendetr", 30.0),
            ("bf16", "transformers", 30.0),
        )
    ]  # fmt: skip
    assert [report.ratio(timed) for timed in report.timings] == [1.0, 1.0, 3.0, 2.0]
    assert "| 3.00 | - |  | reached (wanted 3) |" in report.page()


@pytest.mark.slow
def test_the_digits_are_learned_and_measured(found):
    report, page = found
    assert set(report["learned"]) == {"digits"}
    assert 0 <= report["learned"]["digits"]["AP50"] <= 1
    assert "| digits | 0." in page


def test_what_there_is_no_time_for_is_said(cuda, monkeypatch, tmp_path):
    monkeypatch.setattr(cuda, "left", lambda: 5.0)
    report = cuda.Report("", "")
    cuda.learn(report, replace(cuda.WHOLE, scenes=8), cuda.resolve_device("cpu"), tmp_path)
    assert len(report.left_out) == 2
    assert all("learning" in line for line in report.left_out)
    assert report.learned == {}


def test_a_whole_run_needs_a_gpu(cuda, capsys):
    with pytest.raises(SystemExit):
        cuda.main(["--device", "cpu"])
    assert "there is no GPU here" in capsys.readouterr().err


def test_the_script_does_not_stand_in_the_way_of_the_package_of_its_name():
    """torch imports `cuda.bindings`; a script in this folder has the folder first in its path."""
    code = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import torch; print(torch.ones(1).item())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "1.0"
