"""Findings about the classes of a data set: unused, rare, in one split only, or unevenly shared out."""

from collections.abc import Iterator, Sequence

import numpy as np

from opendetr.data.findings import Finding, Severity, Splits
from opendetr.wording import counted

FEW = 10  # objects of a class: too few to learn
SKEW = 3  # times as large a share of the objects in one split as in another


def examine_classes(splits: Splits, train: str | None) -> Iterator[Finding]:
    """Classes that are never used, rare, in one split only, or far more frequent in one split than in another.

    `train` is the split to learn from, where there is one.
    """
    names = next(iter(splits.values())).label_map.names
    counts = {split: np.bincount(index.labels, minlength=len(names)) for split, index in splits.items()}
    total = np.sum(list(counts.values()), axis=0)
    ids = next(iter(splits.values())).label_map.category_ids
    unused = [label for label in range(len(names)) if total[label] == 0 and ids[label] is not None]
    if unused and total.any():
        hint = "; if the first or last is missing, ids may be shifted by one" if {0, len(names) - 1} & {*unused} else ""
        were = counted(len(unused), "category is", "categories are")
        said = f"{were} listed and never used: {_named(names, unused)}{hint}"
        yield Finding(Severity.NOTE, "never used", said, len(unused))
    rare = [label for label in range(len(names)) if 0 < total[label] < FEW]
    if rare:
        said = f"classes with fewer than {FEW} objects will hardly be learned: {_named(names, rare, total)}"
        yield Finding(Severity.NOTE, "rare", said, len(rare))
    learned = None if train is None else counts[train]
    for split, of_split in counts.items():
        if learned is None or split == train or not learned.any() or not of_split.any():
            continue
        unseen = [label for label in range(len(names)) if of_split[label] and not learned[label]]
        if unseen:
            named = _named(names, unseen)
            said = f"{split} has objects of classes that {train} never shows: {named}; move some pictures over"
            yield Finding(Severity.ERROR, "class only outside train", said, len(unseen))
        absent = [label for label in range(len(names)) if learned[label] >= FEW and not of_split[label]]
        if absent:
            named = _named(names, absent)
            said = f"{split} has no object of classes that {train} shows: {named}: it cannot measure them"
            yield Finding(Severity.NOTE, "class not measured", said, len(absent))
        shares = learned / learned.sum(), of_split / of_split.sum()
        fewest = np.minimum(learned, of_split)
        skewed = [
            label for label in np.flatnonzero(fewest >= FEW).tolist()
            if not 1 / SKEW <= shares[0][label] / shares[1][label] <= SKEW
        ]  # fmt: skip
        if skewed:
            said = (
                f"{split} and {train} differ by more than {SKEW} times in the share of: {_named(names, skewed)}; "
                f"split at random"
            )
            yield Finding(Severity.WARNING, "classes differ between splits", said, len(skewed))


def _named(names: Sequence[str], labels: Sequence[int], counts: np.ndarray | None = None) -> str:
    """Classes in words, at most five."""
    shown = [f"'{names[label]}'" + ("" if counts is None else f" ({counts[label]})") for label in labels[:5]]
    return ", ".join(shown) + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")
