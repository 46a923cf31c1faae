"""A real Chromium, steered by Playwright, and a small model; tests are skipped with a sentence where one is missing."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from patience import PATIENCE
from PIL import Image
from tab import WIDE, watched

from in_process_server import running
from opendetr.checkpoints.native import Checkpoint, save_checkpoint
from opendetr.checkpoints.origin import Origin
from opendetr.config import LossConfig, RunConfig
from opendetr.data.transforms import Preprocessing
from opendetr.inference.detector import Detector
from opendetr.labels import LabelMap
from opendetr.model.build import build_model
from opendetr.recipes.presets import PRESETS
from opendetr.serving.settings import ModelSettings, ServeSettings

HOSTILE = "<img src=x onerror=alert(1)>"  # names are others' texts
NAMES = ("star", "square", HOSTILE)
# The first draws no windows, and takes less of the processor.
PROGRAMS = "chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"


@pytest.fixture(scope="module")
def chromium() -> Iterator[object]:
    """The browser of a file of tests, which open pages of their own in it; an idle one would slow down later files."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("no Chromium found; `apt-get install chromium` installs what the tests of the page need")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed; `pip install -e '.[test]'` brings it"
    )
    # Chromium's sandbox refuses to start for root, as which containers run tests. Its camera is a moving test picture.
    # Tabs of a site share a process, and what it has compiled.
    options = [
        "--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--process-per-site",
    ]  # fmt: skip
    with playwright.sync_playwright() as steering:
        browser = steering.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def only_tab(chromium) -> Iterator[Any]:
    """The one tab of a file of tests, in English: a new one takes twice the processor time of a new load."""
    context = chromium.new_context(viewport=WIDE, locale="en-US", reduced_motion="reduce")
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


@pytest.fixture
def wrong() -> list[str]:
    """What goes wrong in the tabs that are watched."""
    return []


@pytest.fixture
def tab(only_tab, wrong) -> Iterator[Any]:
    """The tab, as large and light as at first; what goes wrong in it fails the test."""
    only_tab.set_viewport_size(WIDE)
    only_tab.emulate_media(color_scheme="light")
    with watched(only_tab, wrong):
        yield only_tab
        only_tab.unroute_all()
        only_tab.evaluate("localStorage.clear()")
    assert not wrong


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


@pytest.fixture(scope="module")
def served(chromium, tiny) -> Iterator[str]:
    """The address of a server of the small model."""
    settings = ServeSettings(ModelSettings(str(tiny.folder), device="cpu", engine="torch", threads=1))
    with running(settings) as (address, _):
        yield address
