"""Whether a split still has the pictures and boxes that a run learned from, by three digests of every picture."""

import hashlib
import re
from collections import Counter

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from opendetr.data.index import DatasetIndex
from opendetr.wording import counted


def picture_digests(index: DatasetIndex) -> Int[Tensor, "N 3"]:
    """Of every picture, in its order: digests of its file's name, of its id, and of its size, labels and boxes.

    Folders are no part of it: the data set may be moved.
    """
    rows = np.empty((len(index), 3), np.int64)
    for row, record in zip(rows, index.records):
        name = re.split(r"[/\\]", str(record.path))[-1]
        size = np.array([record.width, record.height], "<i8")
        objects = (size, record.labels.astype("<i8"), record.boxes_xyxy.astype("<f8"))
        row[:] = _digest(name), _digest(repr(record.image_id)), _digest(b"".join(map(np.ndarray.tobytes, objects)))
    return torch.from_numpy(rows)


def changes_in_words(before: Int[Tensor, "N 3"], now: Int[Tensor, "M 3"]) -> str:
    """What differs between two lists of pictures, as clauses; empty where nothing does."""
    if torch.equal(before, now):
        return ""
    (old_names, old), (new_names, new) = (_counts(digests) for digests in (before, now))
    added, removed = (new_names - old_names).total(), (old_names - new_names).total()
    differing = (new - old).total() - added
    clauses = [f"{counted(number, 'picture')} {'was' if number == 1 else 'were'} {what}" for number, what in (
        (added, "added"), (removed, "removed")) if number]  # fmt: skip
    if differing:
        clauses.append(f"size or boxes of {counted(differing, 'picture')} differ")
    return " and ".join(clauses) or "its pictures have another order or other ids"


def _counts(digests: Tensor) -> tuple[Counter[int], Counter[tuple[int, int]]]:
    """How often each name, and each name with these objects, is there."""
    pairs = [(name, objects) for name, _, objects in digests.tolist()]
    return Counter(name for name, _ in pairs), Counter(pairs)


def _digest(content: str | bytes) -> int:
    content = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)
