"""Whether scores can be read as probabilities: reliability, its expected error, and the temperature that would mend it.

Nothing here changes a score.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import minimize_scalar

LOWEST = 0.05  # of the scores looked at: the many queries that answer nothing would hide the others
BINS = 10
TEMPERATURES = 0.05, 20.0  # the least and the greatest that is looked for


@dataclass(frozen=True)
class ReliabilityBin:
    """The detections with scores in a part of 0..1."""

    lower: float
    upper: float
    detections: int
    score: float  # their mean
    right: float  # the share of them that finds an object of its class at an IoU of .5


@dataclass(frozen=True)
class Calibration:
    """How far scores are from the share of detections that are right."""

    detections: int  # with a score of at least `LOWEST`
    bins: list[ReliabilityBin]  # those that hold any
    error: float | None  # expected calibration error, 0..1; None without detections
    temperature: float | None  # by which logits would have to be divided; None where all are right, or none
    error_after: float | None  # the expected calibration error that this would leave

    @property
    def bias(self) -> float:
        """Mean score minus the share that is right: above 0 the model is too sure of itself."""
        return sum(one.detections * (one.score - one.right) for one in self.bins) / max(1, self.detections)


def calibrate(scores: Float[np.ndarray, " K"], right: Bool[np.ndarray, " K"]) -> Calibration:
    """Compare the scores of detections with the share that is right (Kueppers et al. 2020, without the boxes)."""
    chosen = scores >= LOWEST
    scores, right = scores[chosen], right[chosen]
    bins = reliability(scores, right)
    if not len(scores):
        return Calibration(0, bins, None, None, None)
    temperature = fitted_temperature(scores, right)
    after = None if temperature is None else expected_error(reliability(tempered(scores, temperature), right))
    return Calibration(len(scores), bins, expected_error(bins), temperature, after)


def reliability(scores: Float[np.ndarray, " K"], right: Bool[np.ndarray, " K"]) -> list[ReliabilityBin]:
    """The detections in bins of equal width, without empty ones; the last bin holds a score of 1."""
    bin_of = np.minimum((scores * BINS).astype(int), BINS - 1)
    return [
        ReliabilityBin(
            number / BINS, (number + 1) / BINS, int(of.sum()), float(scores[of].mean()), float(right[of].mean())
        )
        for number in range(BINS)
        if (of := bin_of == number).any()
    ]


def expected_error(bins: list[ReliabilityBin]) -> float:
    """The mean distance between score and share that is right, over detections (Guo et al. 2017, ECE)."""
    return sum(one.detections * abs(one.score - one.right) for one in bins) / sum(one.detections for one in bins)


def tempered(scores: Float[np.ndarray, " K"], temperature: float) -> Float[np.ndarray, " K"]:
    """The scores if their logits were divided by the temperature."""
    scores = scores.clip(1e-7, 1 - 1e-7)
    adjusted: np.ndarray = 1 / (1 + ((1 - scores) / scores) ** (1 / temperature))
    return adjusted


def fitted_temperature(scores: Float[np.ndarray, " K"], right: Bool[np.ndarray, " K"]) -> float | None:
    """The temperature with the highest likelihood (Guo et al. 2017); None where it would be without bound."""
    if right.all() or not right.any():
        return None

    def surprise(logarithm: float) -> float:
        adjusted = tempered(scores, np.exp(logarithm)).clip(1e-12, 1 - 1e-12)
        return -float(np.log(np.where(right, adjusted, 1 - adjusted)).mean())

    return float(np.exp(minimize_scalar(surprise, bounds=np.log(TEMPERATURES), method="bounded").x))
