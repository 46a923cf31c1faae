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
        ("hf://me/cells", "hf://me/cells"), ("/home/alice", "home"), ("/Users/alice/", "home"), ("~alice", "home"),
        (r"C:\Users\alice", "home"), (r"C:\Users\alice\my cells\a.pth", "a.pth"), (r"\\server\alice\cells", "cells"),
        ("alice@machine:/home/alice/data", "data"), ("alice@machine:data/cells", "cells"),
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
        ("weights of /home/alice/My Models/w.pth, frozen", "weights of w.pth, frozen"),
        ("What /home/alice/My Models/run attends to in /data/of alice/a.jpg", "What run attends to in a.jpg"),
        ("read in /home/alice, by name", "read in home, by name"),
        ("from ~alice/cells", "from cells"),
        ("from alice@machine:/home/alice/data and machine:/mnt/alice/more", "from data and more"),
        ("from alice@machine:~/data", "from data"),
        ("opened file:///home/alice/a.pth", "opened a.pth"),
        (r"weights of \\server\alice\My Models\w.pth", "weights of w.pth"),
        ("weights of //server/alice/w.pth", "weights of w.pth"),
        ("at http://localhost:8000/home, env://", "at http://localhost:8000/home, env://"),
        (f"read from {Path.home()}/My Models/w.pth", "read from w.pth"),
        (f"read from {Path.cwd()}/My Models/w.pth", "read from w.pth"),
        (r"weights of 'C:\Users\me\a.pth'", "weights of 'a.pth'"),
        ("boxes and/or masks at 4/8 of https://hub/me/cells", "boxes and/or masks at 4/8 of https://hub/me/cells"),
        ("What runs/cells attends to", "What runs/cells attends to"),
    ],
)
def test_paths_in_sentences(sentence, shown):
    assert without_paths(sentence) == shown


def test_a_place_that_is_known_is_replaced_as_it_is_written():
    """Nobody else can tell where its name ends."""
    known = ["/data/cells of alice", "data", ""]
    assert without_paths("learned from /data/cells of alice and more data", known) == (
        "learned from cells of alice and more data"
    )
