"""What others may see of a model: names of files and folders, but not where on this machine they are."""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from opendetr.checkpoints.native import Checkpoint
from opendetr.checkpoints.origin import Origin

WEIGHTS = (".bin", ".pt", ".pth", ".safetensors")
# A path that begins at a root, at home or with dots; not the middle of an address or of "and/or".
PLACE = re.compile(r"(?<![\w:/\\.~])(?:~|\.{1,2}(?=[/\\])|[A-Za-z]:(?=[/\\]))?[/\\][^\s'\"()\[\],;]+")


def name_of_place(text: str) -> str:
    """The last part of a path on this machine; in other texts, paths are replaced by their last parts."""
    text = re.sub(r" \((?:[/~.]|\w:)[^)]*\)$", "", text)  # which earlier releases wrote
    path = Path(text)
    if text and (path.is_absolute() or text.startswith((".", "~")) or path.suffix in WEIGHTS or os.path.exists(text)):
        return "home" if path == Path.home() else path.name  # whose name is often its owner's
    return without_paths(text)


def without_paths(sentence: str) -> str:
    """A sentence in which paths from a root or from home are replaced by their last parts."""
    return PLACE.sub(lambda found: re.split(r"[/\\]", found[0].rstrip("/\\"))[-1], sentence)


def without_places(checkpoint: Checkpoint) -> Checkpoint:
    """The same model; its config and its origin name no folder of this machine."""
    config = checkpoint.config
    values = {
        "data.root": name_of_place(config.data.root), "train.init": name_of_place(config.train.init),
        "model.backbone_weights": name_of_place(config.model.backbone_weights),
    }  # fmt: skip
    origin = Origin.from_json(_renamed(checkpoint.origin.to_json()))
    return replace(checkpoint, config=config.with_values(values, "the model"), origin=origin)


def _renamed(value: Any) -> Any:
    """The same JSON value, with `name_of_place` of every text in it."""
    if isinstance(value, dict):
        return {key: _renamed(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_renamed(inner) for inner in value]
    return name_of_place(value) if isinstance(value, str) else value
