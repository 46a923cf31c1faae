"""What others may see of a model: names of files and folders, but not where on this machine they are."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from opendetr.checkpoints.native import Checkpoint
from opendetr.checkpoints.origin import Origin

WEIGHTS = (".bin", ".pt", ".pth", ".safetensors")
# `alice@machine:`, `machine:/` and `file://` before a path; not the beginning of other addresses.
MACHINE = re.compile(r"[\w.+-]+@[\w.-]+:(?=\S)|(?<![\w/.])[\w.-]{2,}:(?=[/~](?!/))|file://(?=[/~])")
# A path that begins at a root, at a home or with dots; not the middle of an address or of "and/or". The names of its
# folders may have spaces, its last part may not: that would be the rest of the sentence.
PART = r"[^\s/\\'\"()\[\],;]+"
NAME = rf"{PART}(?: (?!\.{{1,2}}[/\\]|~){PART})*"
PLACE = re.compile(
    rf"(?<![\w:/\\.~])(?:~[\w.-]*|\.{{1,2}}(?=[/\\])|[A-Za-z]:(?=[/\\]))?[/\\]+(?:{NAME}[/\\]+)*(?:{PART})?"
)
HOMES = ("home", "users")  # the folders of homes, whose names are their owners'


def name_of_place(text: str, known: Iterable[str] = ()) -> str:
    """The last part of a path on this machine; in other texts, paths are replaced by their last parts."""
    text = re.sub(r" \((?:[/~.]|\w:)[^)]*\)$", "", text)  # which earlier releases wrote
    path = Path(text)
    if text and (path.is_absolute() or text.startswith((".", "~")) or path.suffix in WEIGHTS or os.path.exists(text)):
        return last_part(text)
    return without_paths(text, known)


def without_paths(sentence: str, known: Iterable[str] = ()) -> str:
    """A sentence in which paths from a root or from home, and the `known` ones, are replaced by their last parts."""
    places = sorted((place for place in known if re.search(r".[/\\].", place)), key=len, reverse=True)
    for place in places:
        sentence = sentence.replace(place, last_part(place))
    for place, short in ((str(Path.home()), "~"), (os.getcwd(), ".")):
        if len(place) > 1:  # not the root
            sentence = re.sub(re.escape(place) + r"(?![\w.-])", short, sentence)
    return PLACE.sub(lambda found: last_part(found[0]), MACHINE.sub("./", sentence))


def last_part(path: str) -> str:
    """The name of a file or folder; `home` for a home of anyone."""
    parts = re.split(r"[/\\]+", path.rstrip("/\\"))
    is_home = len(parts) > 1 and (parts[-2].lower() in HOMES or parts == ["", "root"])
    return "home" if is_home or parts[-1].startswith("~") or Path(path) == Path.home() else parts[-1]


def without_places(checkpoint: Checkpoint) -> Checkpoint:
    """The same model; its config and its origin name no folder of this machine."""
    config, origin = checkpoint.config, checkpoint.origin
    places = {
        "data.root": config.data.root, "train.init": config.train.init,
        "model.backbone_weights": config.model.backbone_weights,
    }  # fmt: skip
    known = [*places.values(), *config.data.more_roots, origin.data, origin.source, str(checkpoint.source)]
    values: dict[str, Any] = {name: name_of_place(place, known) for name, place in places.items()}
    root, *others = map(last_part, (config.data.root, *config.data.more_roots))  # which are always folders
    values |= {"data.root": root, "data.more_roots": others}
    data = " and ".join([root, *others]) if others else last_part(origin.data)
    origin = Origin.from_json(_renamed(replace(origin, data=data).to_json(), known))
    return replace(checkpoint, config=config.with_values(values, "the model"), origin=origin)


def _renamed(value: Any, known: Sequence[str]) -> Any:
    """The same JSON value, with `name_of_place` of every text in it."""
    if isinstance(value, dict):
        return {key: _renamed(inner, known) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_renamed(inner, known) for inner in value]
    return name_of_place(value, known) if isinstance(value, str) else value
