"""The examples run as they stand."""

import runpy
import sys
from pathlib import Path

import pytest

from opendetr.checkpoints.loading import load_checkpoint

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
