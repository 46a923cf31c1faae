"""The page prepares a picture as Python does: the same sizes, the same pixels, the same numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from node import Node, require_node
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from opendetr.data.sizes import resized_shape, snapped_shape
from opendetr.data.transforms import Preprocessing

NATIVE = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    require_node()
    return Node(tmp_path_factory.mktemp("page") / "modules")


def in_full(preprocessing):
    """As `model.json` has it."""
    names = ("image_size", "max_size", "mean", "std", "multiple_of", "rounding", "resampling", "resizer")
    return {name: getattr(preprocessing, name) for name in names}


def prepared(picture, preprocessing):
    """Python's input of a picture [H, W, 3]."""
    image = Image.fromarray(picture)
    if preprocessing.resizer == "pillow":
        # From version 13 on Pillow resizes columns before rows where that is faster: here always rows first.
        height, width = preprocessing.shape(image.height, image.width)
        kind = Image.Resampling[preprocessing.resampling.upper()]
        image = image.resize((width, image.height), kind).resize((width, height), kind)
        preprocessing = replace(preprocessing, image_size=min(height, width), max_size=max(height, width))
    image = tv_tensors.Image(v2.functional.pil_to_tensor(image))
    return preprocessing.transform()(image).as_subclass(torch.Tensor)


PREPARE = """
import { preprocess } from "./model/preprocess.js";
---
answer = given.map(({ width, height, channels, data, preprocessing }) => {
  const input = preprocess({ width, height, channels, data: Uint8ClampedArray.from(data) }, preprocessing);
  return { width: input.width, height: input.height, data: [...input.data] };
});
"""


def test_sizes_are_the_same(node):
    rng = np.random.default_rng(0)
    sides = [(int(h), int(w)) for h, w in rng.integers(1, 1200, (400, 2))]
    sides += [(480, 640), (640, 480), (1, 1), (1, 5000), (500, 333), (427, 640), (37, 37)]
    rules = [
        (size, longest, rounding, multiple)
        for size, longest in ((800, 1333), (320, 427), (37, 50), (64, 64))
        for rounding in ("official", "transformers", "nearest", "down")
        for multiple in (1, 32)
    ]
    found = node(
        """
import { resizedShape, snappedShape } from "./model/preprocess.js";
---
answer = given.rules.map(([size, longest, rounding, multiple]) =>
  given.sides.map(([h, w]) => snappedShape(...resizedShape(h, w, size, longest, rounding), multiple)));
""",
        {"sides": sides, "rules": rules},
    )
    for (size, longest, rounding, multiple), answers in zip(rules, found, strict=True):
        expected = [list(snapped_shape(*resized_shape(*side, size, longest, rounding), multiple)) for side in sides]
        assert answers == expected, (size, longest, rounding, multiple)


@pytest.mark.parametrize("resampling", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resizer", ["torchvision", "pillow"])
def test_every_number_of_the_input_is_the_same(node, resampling, resizer):
    """Noise, edges and flat areas, made smaller, larger, in one direction only, and by a lot."""
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (61, 83, 3), dtype=np.uint8)
    edges = np.zeros((90, 40, 3), np.uint8)
    edges[20:50, 7:30] = (255, 10, 128)
    pictures = (noise, edges, np.full((5, 300, 3), 255, np.uint8), 255 * rng.integers(0, 2, (64, 64, 3), np.uint8))
    cases = [
        (picture, Preprocessing(size, longest, MEAN, STD, multiple, resampling=resampling, resizer=resizer))
        for picture in pictures
        for size, longest, multiple in ((32, 60, 1), (61, 83, 1), (100, 180, 32), (7, 400, 1), (64, 64, 1))
    ]
    given = [
        {"width": picture.shape[1], "height": picture.shape[0], "channels": 3, "data": picture.ravel().tolist(),
         "preprocessing": in_full(preprocessing)}
        for picture, preprocessing in cases
    ]  # fmt: skip
    for (picture, preprocessing), found in zip(cases, node(PREPARE, given), strict=True):
        expected = prepared(picture, preprocessing)
        assert (found["height"], found["width"]) == tuple(expected.shape[1:])
        numbers = torch.tensor(found["data"]).view(expected.shape)
        if resizer == "torchvision" and resampling == "bilinear" and not NATIVE:
            levels = (numbers - expected).abs() * torch.tensor(STD)[:, None, None] * 255
            assert levels.max() < 1.01  # there torchvision resizes floats, and Python itself differs by a level
        else:
            torch.testing.assert_close(numbers, expected, rtol=0, atol=0)


def test_the_fourth_channel_of_a_canvas_is_left_out(node):
    rgb = np.random.default_rng(2).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    rgba = np.concatenate([rgb, np.full((20, 30, 1), 255, np.uint8)], 2)
    preprocessing = in_full(Preprocessing(16, 24, MEAN, STD))
    given = [
        {"width": 30, "height": 20, "channels": pixels.shape[2], "data": pixels.ravel().tolist(),
         "preprocessing": preprocessing}
        for pixels in (rgb, rgba)
    ]  # fmt: skip
    without, with_alpha = node(PREPARE, given)
    assert without == with_alpha
