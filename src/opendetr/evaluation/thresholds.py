"""Where to cut the scores: F1 over thresholds, and the threshold that gives the best."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

GRID = np.linspace(0, 1, 101)  # thresholds of a curve


@dataclass(frozen=True)
class BestThreshold:
    """The score from which on detections are kept, chosen by F1, and what it gives; all 0..1."""

    threshold: float
    f1: float  # the harmonic mean of precision and recall
    precision: float  # of the detections that are kept, the share that is right
    recall: float  # of the objects, the share that is found


def best_threshold(
    scores: Float[np.ndarray, " K"], right: Bool[np.ndarray, " K"], objects: int
) -> BestThreshold | None:
    """The threshold with the best F1, of equals the highest; None where no detection is right.

    It lies half-way between two scores: those of another engine, which differ a little, are cut alike.

    Args:
        scores: the best first.
        right: whether a detection finds an object.
        objects: how many there are to be found.
    """
    if not right.any():
        return None
    last = np.append(scores[1:] < scores[:-1], True)  # of equal scores: they are kept or dropped together
    hits, kept = right.cumsum()[last], np.flatnonzero(last) + 1
    f1 = 2 * hits / (kept + objects)
    best = int(f1.argmax())
    lowest, below = scores[kept[best] - 1], scores[kept[best]] if kept[best] < len(scores) else 0.0
    return BestThreshold(
        float(max(lowest / 2 + below / 2, np.nextafter(below, 1))), float(f1[best]),
        float(hits[best] / kept[best]), float(hits[best] / objects),
    )  # fmt: skip


def f1_curve(scores: Float[np.ndarray, " K"], right: Bool[np.ndarray, " K"], objects: int) -> Float[np.ndarray, "101"]:
    """F1 of the detections with at least the score of each of `GRID`; arguments as of `best_threshold`."""
    kept = np.searchsorted(-scores, -GRID, side="right")
    hits = np.append(0, right.cumsum())[kept]
    curve: np.ndarray = 2 * hits / np.maximum(kept + objects, 1)
    return curve
