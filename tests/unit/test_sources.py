from pathlib import Path

import numpy as np
import pytest
import torch

from opendetr.inference.sources import distinct_names, distinct_stems, file_stem, picture_reader


@pytest.mark.parametrize(
    ("pictures", "names"),
    [
        (["a/1.png", "b/1.png", "c/1.png"], ["1.png", "1-2.png", "1-3.png"]),
        (["a/1-2.png", "a/1.png", "b/1.png"], ["1-2.png", "1.png", "1-3.png"]),
        (["a/1.png", "a/1.jpg", "a/1.tif"], ["1.png", "1.jpg", "1-2.png"]),  # drawn as PNG
        (["a/Cat.jpg", "b/cat.JPG", "b/CAT.png"], ["Cat.jpg", "cat-2.jpg", "CAT.png"]),  # one file on Windows and macOS
    ],
)
def test_no_picture_is_drawn_over_another(pictures, names):
    assert distinct_names([Path(picture) for picture in pictures]) == names


@pytest.mark.parametrize("pixels", [np.zeros((3, 4, 3), np.uint8), torch.zeros(3, 3, 4, dtype=torch.uint8)])
def test_what_a_camera_writes_over_its_own_array_does_not_change_the_picture(pixels):
    read, _ = picture_reader(pixels)
    pixels += 200
    assert read().getpixel((0, 0)) == (0, 0, 0)


def test_no_explanation_is_written_over_another():
    assert distinct_stems([Path("a/Cat.jpg"), Path("a/cat.png"), Path("dog.png")]) == ["Cat", "cat-2", "dog"]


@pytest.mark.parametrize(
    ("source", "stem"), [("street.mp4", "street"), ("webcam:1", "webcam-1"), ("rtsp://camera:554", "camera-554")]
)
def test_what_is_no_file_gets_a_name_that_a_file_may_have(source, stem):
    assert file_stem(source) == stem
