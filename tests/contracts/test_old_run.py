"""A run written by commit dd1bd25 loads, says the same, resumes and exports: what people have trained is never lost."""

import json
import shutil
from pathlib import Path

import pytest
from accelerate import Accelerator

from opendetr import api

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


def test_it_exports(tmp_path):
    file = tmp_path / "old.pt2"
    assert api.export(STORED / "run", file).problems() == []
    assert api.val(file, PICTURES).summary["AP50"] == pytest.approx(EXPECTED["ap50"], abs=0.02)
