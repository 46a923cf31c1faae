import subprocess
import sys
from pathlib import Path

import pytest

from opendetr import api

TINY = {"preset": "detr-tiny", "image_size": 64, "batch_size": 8, "workers": 0, "device": "cpu"}


@pytest.fixture(scope="session")
def tiny_run(digits, tmp_path_factory) -> Path:
    """Two epochs of the tiny preset on digit scenes: a run to look at, never to change."""
    return api.train(digits, **TINY, epochs=2, output=tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture
def opendetr():
    """Runs the command line as a process."""

    def run(*words: object, **options) -> subprocess.CompletedProcess[str]:
        code = "from opendetr.cli import main; main()"
        command = [sys.executable, "-c", code, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)

    return run
