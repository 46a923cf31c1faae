import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny import TINY

from free_port import free_port
from opendetr import api
from opendetr.model import precision
from opendetr.training import flips, speed


@pytest.fixture(scope="session", autouse=True)
def machine_hardly_measured():
    """Measuring a machine takes longer than the steps of a tiny run; tests/unit measures it in earnest.

    It is one that gains nothing from bf16, so that `auto` is fp32 everywhere.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "LOOKED_AT", (32, 64))
        patch.setattr(precision, "gain_of_products", lambda device: 1.0)
        yield


@pytest.fixture(scope="module", autouse=True)
def few_pictures_tried():
    """Most of a tiny run would be flips tried; tests/unit/test_flips.py tries them in earnest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flips, "PICTURES", 6)
        patch.setattr(flips, "MOST_PICTURES", 6)
        yield


@pytest.fixture(scope="session", autouse=True)
def small_figures():
    """Drawing figures at their size takes half of the time of an explanation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("opendetr._matplotlib.DPI", 30)
        yield


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are made and not drawn, for tests of what stands beside them; those of `explain` are drawn in others."""
    blank = io.BytesIO()
    Image.new("L", (120, 120)).save(blank, "PNG")
    for room in ("_matplotlib", "explanation.folder"):
        monkeypatch.setattr(f"opendetr.{room}.png_of", lambda figure: blank.getvalue())


@pytest.fixture(scope="session")
def tiny_run(digits, tmp_path_factory) -> Path:
    """Two epochs of the tiny preset on digit scenes: a run to look at, never to change."""
    return api.train(digits, **TINY, epochs=2, output=tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="session")
def together() -> Callable[..., list[dict[str, Any]]]:
    """Calls functions of `in_processes.py` in two processes, as torchrun would; the answers of the two processes.

    A run is the name of a function and its arguments.
    """

    def call(**runs: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
        port = str(free_port())
        shared = os.environ | {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        program = Path(__file__).with_name("in_processes.py")
        processes = [
            subprocess.Popen(
                [sys.executable, str(program), json.dumps(runs)], env=shared | {"RANK": rank, "LOCAL_RANK": rank},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for rank in ("0", "1")
        ]  # fmt: skip
        try:
            said = [process.communicate(timeout=240) for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert [process.returncode for process in processes] == [0, 0], said[0][1] + said[1][1]
        return [json.loads(output.rpartition("found:")[2]) for output, _ in said]

    return call
