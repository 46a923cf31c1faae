"""The teaching version gives the boxes of the real one."""

import importlib.util
from pathlib import Path

import pytest
import torch

from opendetr import Detector

EXAMPLE = Path(__file__).parents[2] / "examples" / "minimal_detr.py"


@pytest.mark.skipif(not EXAMPLE.is_file(), reason="examples/ is not part of this copy")
def test_it_is_short_and_finds_the_same_boxes(tiny_run, digits):
    assert len(EXAMPLE.read_text().splitlines()) <= 100
    specification = importlib.util.spec_from_file_location("minimal_detr", EXAMPLE)
    minimal = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(minimal)
    picture = next((digits / "images").glob("test_*.png"))
    found = Detector.load(tiny_run, device="cpu").predict(picture, threshold=0.0)
    scores, names, boxes = minimal.detect(tiny_run / "best", picture)
    torch.testing.assert_close(scores, found.scores, rtol=0, atol=1e-5)
    torch.testing.assert_close(boxes, found.boxes_xyxy, rtol=0, atol=1e-2)
    assert names == found.names
