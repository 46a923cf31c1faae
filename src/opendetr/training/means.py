"""What the steps report, averaged: over the micro-batches of a step, and over the steps of an epoch."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

# Means over matched pairs, weighted by the number of pairs, which is the figure `pairs`.
PER_PAIR = ("matched_accuracy", "matched_iou", "class_error")


def combine(
    parts: list[dict[str, Tensor]], over_processes: Callable[[Tensor], Tensor] = lambda here: here
) -> dict[str, float]:
    """The figures of a step from those of its micro-batches on all processes, with one copy to the host.

    Losses and `pairs` are summed; the rest are means. `over_processes` sums a tensor over them.
    """
    names = [name for name in parts[0] if name != "pairs"]
    table = torch.stack([torch.stack([part[name].float() for name in names]) for part in parts])
    pairs = torch.stack([part["pairs"] for part in parts]).to(table.device)
    weights = [pairs if name in PER_PAIR else torch.ones_like(pairs) for name in names]
    summed = [(values * weight).sum() for values, weight in zip(table.unbind(1), weights)]
    *sums, all_pairs, batches = over_processes(
        torch.stack([*summed, pairs.sum(), torch.ones_like(pairs).sum()])
    ).tolist()
    divisors = {name: max(1.0, all_pairs) for name in PER_PAIR}
    return {"pairs": all_pairs} | {
        name: total if name.startswith("loss") else total / divisors.get(name, batches)
        for name, total in zip(names, sums)
    }


class EpochMeans:
    """Running means of what steps report."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.pictures, self.steps = 0, 0
        self.begun = self.spoken = time.time()

    def state(self) -> dict[str, Any]:
        """What `restored` needs."""
        seconds = time.time() - self.begun
        return {"sums": dict(self.sums), "pictures": self.pictures, "steps": self.steps, "seconds": seconds}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> "EpochMeans":
        """The means that had this state."""
        means = cls()
        means.sums, means.pictures, means.steps = dict(state["sums"]), state["pictures"], state["steps"]
        means.begun -= state["seconds"]
        return means

    def add(self, parts: dict[str, float], pictures: int) -> None:
        """Add a step over that many pictures."""
        for name, value in parts.items():
            weight = parts["pairs"] if name in PER_PAIR else 1
            self.sums[name] = self.sums.get(name, 0.0) + value * weight
        self.pictures, self.steps = self.pictures + pictures, self.steps + 1

    def pause(self, seconds: float) -> None:
        """Leave out this time of something else."""
        self.begun += seconds

    def values(self) -> dict[str, float]:
        """The means so far."""
        pairs = max(1.0, self.sums["pairs"])
        return {
            name: round(total / (pairs if name in PER_PAIR else self.steps), 6)
            for name, total in self.sums.items()
            if name != "pairs"
        }

    def line(self) -> dict[str, float]:
        """The means and the throughput, for a line of the log."""
        return {"pictures_per_second": round(self.pictures_per_second, 3), **self.values()}

    @property
    def pictures_per_second(self) -> float:
        """Throughput, with the time of reading."""
        return self.pictures / (time.time() - self.begun)

    def is_time_to_speak(self) -> bool:
        """Whether a minute has passed since it was last true."""
        if time.time() - self.spoken < 60:
            return False
        self.spoken = time.time()
        return True


def line_in_words(line: dict[str, Any], *, with_accuracy: bool) -> str:
    """A line of metrics.jsonl; with one class the accuracy of matched queries is always 100 %, and says nothing."""
    accuracy = f", accuracy {_number(line['matched_accuracy'])} %" if with_accuracy else ""
    return (
        f"epoch {round(line['epoch'], 2):g}  step {line['step']}  {line['seconds'] / 60:.1f} min  "
        f"loss {_number(line['loss'])}  matched: IoU {_number(line['matched_iou'])}{accuracy}"
    )


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"
