"""The learning rate range test: one short training whose rate grows shows which rates fit (Smith 2017, section 3.3)."""

import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opendetr.checkpoints.adapt import train_mode
from opendetr.config import RunConfig
from opendetr.data.findings import Finding, Severity
from opendetr.data.index import DatasetIndex
from opendetr.progress import waiting
from opendetr.training.choices import ObjectSizes
from opendetr.training.setup import assemble

FIRST, LAST = 1e-4, 1e3  # rates, as factors of the config's
STEPS, FEWEST_STEPS = 84, 28  # twelve and four for a factor of ten
SMOOTHED = 0.8  # the share of the mean of losses that a step keeps
NOISE = 0.05  # of the first loss: a smaller fall tells nothing
FALLEN = 0.1  # of the whole fall of the loss: from there on a rate teaches
FAR = 5.0  # the factor beyond what fits from which on a rate is called wrong


@dataclass(frozen=True)
class RangeTest:
    """The losses of a training whose learning rates grow; rates are factors of the config's."""

    factors: list[float]  # of every step
    losses: list[float]  # smoothed, after the step

    @property
    def lowest(self) -> float:
        """The first rate that teaches."""
        losses = np.array(self.losses)
        enough = losses[0] - FALLEN * (losses[0] - losses.min())
        return self.factors[int((losses <= enough).argmax())]

    @property
    def highest(self) -> float:
        """The rate after which the loss rises; the last one where it does not."""
        return self.factors[int(np.argmin(self.losses))]

    def verdict(self, lr: float) -> Finding:
        """What the test shows of the config's learning rate `lr`."""
        low, high = self.lowest, self.highest
        if len(self.factors) < FEWEST_STEPS:
            said = f"which rates fit is open: {len(self.factors)} steps are too few to judge; raise --seconds"
            return Finding(Severity.NOTE, "learning rate", said)
        if min(self.losses) > (1 - NOISE) * self.losses[0]:
            said = f"which rates fit is open: the loss falls at none from {lr * FIRST:.1g} to {lr * LAST:.1g}"
            return Finding(Severity.NOTE, "learning rate", said)
        fit = f"the loss falls from {lr * low:.1g} on, and rises after {lr * high:.1g}"
        if low / FAR <= 1 <= high * FAR:
            return Finding(Severity.NOTE, "learning rate", f"train.lr = {lr:g} fits: {fit}")
        too, better = ("high", high / 3) if high < 1 else ("low", math.sqrt(low * high))
        said = f"train.lr = {lr:g} is too {too}: {fit}; try --set train.lr={lr * better:.1g}"
        return Finding(Severity.WARNING, "learning rate", said)


def range_test(config: RunConfig, index: DatasetIndex, objects: ObjectSizes, seconds: float) -> RangeTest:
    """Train on a split for a few steps, from far below the config's learning rates to far above them.

    Args:
        config: as for a training without augmentation.
        index: the pictures to learn.
        objects: the sizes of the objects, for the size of the pictures.
        seconds: the rate grows with the time where it is over before the steps are.
    """
    factors, losses, mean = list[float](), list[float](), 0.0
    with tempfile.TemporaryDirectory() as folder, waiting("testing learning rates", seconds):
        trainer = assemble(config, index, None, Path(folder) / "run", time.time(), objects=objects)
        trainer.pictures.show(trainer.state, small=False)
        train_mode(trainer.model)
        begun = time.time()
        while (part := max(len(factors) / STEPS, (time.time() - begun) / seconds)) < 1:
            factor = FIRST * (LAST / FIRST) ** part
            for group in trainer.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            loss = trainer.step(trainer.pictures.next_batches(1))["loss"]
            if not math.isfinite(loss):
                break
            factors.append(factor)
            mean = SMOOTHED * mean + (1 - SMOOTHED) * loss
            losses.append(mean / (1 - SMOOTHED ** len(factors)))
            if losses[-1] > 10 * losses[0]:
                break
    return RangeTest(factors, losses)
