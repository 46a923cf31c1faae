"""What a run leaves on disk, and how it is picked up again."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from opendetr.checkpoints.native import Checkpoint, copy_checkpoint, save_checkpoint
from opendetr.config import RunConfig
from opendetr.evaluation.coco import CocoMetrics
from opendetr.files import append_line, read_json_lines, write_json, write_text


@dataclass
class RunState:
    """Where a run is."""

    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps of the unfinished epoch
    skipped: int = 0  # steps left out because their gradient was not finite
    progress: float = 0.0  # up to here, 0..1, flips have been tried as far as they were due


@dataclass
class RunFolder:
    """`metrics.jsonl`, `last` and `best` of a run.

    The order of writing makes every moment a good one to be killed: the log first (lines beyond `last` are dropped when
    resuming), then `last`, then what evaluation found, and `best` before anything speaks of it.
    """

    path: Path
    history: list[dict[str, Any]] = field(default_factory=list)  # the lines of metrics.jsonl
    _is_begun: bool = False  # whether the file holds our history, and only needs to grow

    def log(self, line: Mapping[str, Any]) -> None:
        """Add a line; numbers that are not finite become null, as JSON has no word for them."""
        self.history.append({k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()})
        path = self.path / "metrics.jsonl"
        if self._is_begun:
            append_line(path, json.dumps(self.history[-1]))
        else:
            write_text(path, "".join(json.dumps(line) + "\n" for line in self.history))
            self._is_begun = True

    def write_config(self, config: RunConfig) -> None:
        """Write config.toml."""
        write_text(self.path / "config.toml", config.to_toml())

    def read_history(self, folder: Path, until_epoch: float) -> None:
        """Take over the lines that another folder's `last` has lived through."""
        self.history = [line for line in read_metrics(folder) if line["epoch"] <= until_epoch + 1e-4]

    @property
    def measured(self) -> list[dict[str, Any]]:
        """The lines with figures of val."""
        return [line for line in self.history if "val_AP" in line]

    @property
    def best_ap(self) -> float:
        """The highest AP on val so far; 0 before the first, so that an undefined AP (-1) is never the best."""
        return max((line["val_AP"] for line in self.measured), default=0.0)

    def waited(self, counts: Callable[[Mapping[str, Any]], bool]) -> int:
        """Evaluations in a row, up to the last, without a better AP, as far as their line counts."""
        measured = self.measured
        aps = [line["val_AP"] for line in measured]
        best = aps.index(max(aps)) if aps else 0  # the first of equals
        return sum(map(counts, measured[best + 1 :]))

    def save_last(self, checkpoint: Checkpoint, training_state: dict[str, Any]) -> None:
        """Write the weights as they are, with what resuming needs."""
        save_checkpoint(self.path / "last", replace(checkpoint, metrics=self._origin(checkpoint)), training_state)

    def record_evaluation(self, checkpoint: Checkpoint, metrics: CocoMetrics, when: Mapping[str, Any]) -> None:
        """Write what was measured of `last`; it becomes `best` where no AP on val has been higher yet."""
        origin = self._origin(checkpoint) | {"val": metrics.to_json()}
        write_json(self.path / "last" / "metrics.json", origin)
        if metrics.summary["AP"] >= self.best_ap:
            copy_checkpoint(self.path / "last", self.path / "best")
        self.log({"kind": "val", **when, **{f"val_{name}": value for name, value in metrics.summary.items()}})

    def _origin(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """What the checkpoint came from, with the last that was said of its training."""
        said = next((line for line in reversed(self.history) if line["kind"] != "val"), None)
        return checkpoint.metrics | ({} if said is None else {"training": said})


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`, each with its `kind`: `step`, `epoch` or `val`.

    Earlier versions wrote epochs only, without a kind, with the figures of val among the others.

    Raises:
        UserError: the file is damaged.
    """
    return [{"kind": "epoch", **line} for line in read_json_lines(run / "metrics.jsonl", "the log of a run")]


def random_state() -> dict[str, Any]:
    """The state of torch's generators."""
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # a GPU that is not used shall not be started
    cuda = torch.cuda.get_rng_state_all() if in_use else []
    mps = [torch.mps.get_rng_state()] if torch.backends.mps.is_available() else []
    return {"random": torch.get_rng_state(), "cuda_random": cuda, "mps_random": mps}


def restore_random_state(state: Mapping[str, Any]) -> None:
    """The inverse of `random_state`."""
    torch.set_rng_state(state["random"])
    of_gpus = state["cuda_random"][: torch.cuda.device_count()]  # there may be fewer than before
    for number, of_gpu in enumerate(of_gpus):
        torch.cuda.set_rng_state(of_gpu, number)
    for of_mps in state.get("mps_random", ()) if torch.backends.mps.is_available() else ():
        torch.mps.set_rng_state(of_mps)
