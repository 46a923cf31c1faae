"""A real Chromium, steered by Playwright, and a small model; tests are skipped with a sentence where one is missing."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from PIL import Image

from opendetr.checkpoints.native import Checkpoint, save_checkpoint
from opendetr.checkpoints.origin import Origin
from opendetr.config import LossConfig, RunConfig
from opendetr.data.transforms import Preprocessing
from opendetr.inference.detector import Detector
from opendetr.labels import LabelMap
from opendetr.model.build import build_model
from opendetr.recipes.presets import PRESETS

HOSTILE = "<img src=x onerror=alert(1)>"  # names are others' texts
NAMES = ("star", "square", HOSTILE)


@pytest.fixture(scope="module")
def chromium() -> Iterator[object]:
    """The browser of a file of tests, which open pages of their own in it; an idle one would slow down later files."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium found; `apt-get install chromium` installs what the tests of the page need")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed; `pip install -e '.[test]'` brings it"
    )
    # Chromium's sandbox refuses to start for root, as which containers run tests. Its camera is a moving test picture.
    options = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as steering:
        browser = steering.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()


@dataclass(frozen=True)
class Tiny:
    """A model with made-up weights that finds four things in a made-up picture."""

    folder: Path
    picture: Path
    detector: Detector


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Tiny:
    root = tmp_path_factory.mktemp("tiny")
    noise = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((160, 120), Image.Resampling.BICUBIC).save(root / "noise.png")
    config = replace(
        PRESETS["detr-tiny"], query_source="selected", scoring="focal", output_stride=32, encoder_strides=(16,),
        position_encoding="cell", num_queries=12, dropout=0.0, precedence=True, focus=True,
    )  # fmt: skip
    run = replace(RunConfig(), model=config, loss=LossConfig(proposal_repeats=1))
    torch.manual_seed(0)
    model = build_model(config, run.loss, len(NAMES)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "class_embed" in name and name.endswith("bias"):
                parameter.zero_()  # else all scores are low at the start
            elif not name.startswith("backbone"):
                spread = 0.02 if "bbox" in name else 0.4 if "class_embed" in name else 0.2
                parameter.add_(torch.randn_like(parameter) * spread)
    labels = LabelMap((1, 5, 9), NAMES)
    preprocessing = Preprocessing(96, 160, (0.5,) * 3, (0.2,) * 3, 32)

    def save(**known) -> Detector:
        save_checkpoint(root / "model", Checkpoint(model, run, labels, preprocessing, Origin(**known), Path()))
        return Detector.load(root / "model", device="cpu")

    found = save().predict(root / "noise.png", threshold=0.05)
    between = float(found.scores[3:5].mean())  # so that four are found
    return Tiny(root / "model", root / "noise.png", save(thresholds=(between,) * len(NAMES)))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def is_there(address: str) -> bool:
    try:
        with urlopen(f"{address}readyz", timeout=5):
            return True
    except (URLError, TimeoutError):
        return False


@contextmanager
def serving(folder: Path, *options: str, port: int | None = None) -> Iterator[str]:
    """The address of `opendetr serve`, which ends with the block."""
    port = port or free_port()
    command = [sys.executable, "-m", "opendetr", "serve", str(folder), "--port", str(port), "--engine", "torch"]
    address = f"http://127.0.0.1:{port}/"
    with subprocess.Popen([*command, "--threads", "1", *options], stdout=subprocess.DEVNULL) as server:
        try:
            while not is_there(address):
                assert server.poll() is None, "opendetr serve ended; its error stands above"
                time.sleep(0.1)
            yield address
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def served(chromium, tiny) -> Iterator[str]:
    """The address of a server of the small model."""
    with serving(tiny.folder) as address:
        yield address
