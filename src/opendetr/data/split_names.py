"""The names of splits, as data sets write them."""

import re

USUAL_NAMES = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}
CORRECTED = ".corrected.json"  # how the names of files end that a label review has written
APART = ("train", "val", "test")  # splits that are meant to have no picture in common
_SPLIT = re.compile(r"(train|training|val|valid|validation|dev|test|testing|trainval|minival)[0-9]*", re.IGNORECASE)


def usual_name(name: str) -> str:
    """`val` for `valid`, `Train` and the like; other names as they are."""
    lower = name.lower()
    return USUAL_NAMES.get(lower, lower if lower in APART else name)


def is_split_name(name: str) -> bool:
    """Whether a folder or file of this name is a split's."""
    return _SPLIT.fullmatch(name) is not None
