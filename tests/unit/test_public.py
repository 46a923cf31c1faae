"""What others see of a model names no folder of this machine."""

from pathlib import Path

import pytest

from opendetr.checkpoints.public import name_of_place, without_paths


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/me/cells", "cells"), (str(Path.home()), "home"),
        ("/home/me/my cells/", "my cells"), ("~/cells", "cells"), ("./a/b", "b"),
        ("models/mine.pth", "mine.pth"), ("detr-r50", "detr-r50"), ("", ""), ("a word " * 100, "a word " * 100),
        ("hf://me/cells", "hf://me/cells"),
        ("the local cache (/home/me/.cache/hub/model.safetensors)", "the local cache"),
    ],
)  # fmt: skip
def test_a_place_is_called_by_its_last_part(text, shown):
    assert name_of_place(text) == shown


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        ("read from /home/me/a.pth, by name", "read from a.pth, by name"),
        ("What ~/runs/cells attends to", "What cells attends to"),
        (r"weights of 'C:\Users\me\a.pth'", "weights of 'a.pth'"),
        ("boxes and/or masks at 4/8 of https://hub/me/cells", "boxes and/or masks at 4/8 of https://hub/me/cells"),
        ("What runs/cells attends to", "What runs/cells attends to"),
    ],
)
def test_paths_in_sentences(sentence, shown):
    assert without_paths(sentence) == shown
