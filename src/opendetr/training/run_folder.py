"""The folder of a run: `config.toml`, `metrics.jsonl`, `last` and `best`, written and read here."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from opendetr.checkpoints.finite import require_finite, tensors_in
from opendetr.checkpoints.native import Checkpoint, copy_checkpoint, save_checkpoint, write_metrics
from opendetr.checkpoints.origin import Origin
from opendetr.checkpoints.versions import newer_is_said
from opendetr.config import RunConfig
from opendetr.errors import UserError, first_line
from opendetr.evaluation.coco import CocoMetrics
from opendetr.files import (
    append_line,
    current_folder,
    read_json_lines,
    read_note,
    refuse_pointer,
    require_folder,
    without_infinity,
    write_text,
)
from opendetr.recipes.recipe import load_recipe


@dataclass
class RunFolder:
    """`config.toml`, `metrics.jsonl`, `last` and `best` of a run, as they are written.

    The order of writing keeps the folder valid if the program is killed at any moment: the log first (lines beyond
    `last` are dropped when resuming), then `last`, then the figures of an evaluation, and `best` before its line in the
    log.
    """

    path: Path
    is_written: bool = True  # by this process: of several only the first one writes
    history: list[dict[str, Any]] = field(default_factory=list)  # the lines of metrics.jsonl
    _is_begun: bool = False  # whether the file holds our history, and only needs to grow

    def log(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """Add a line, and return it as written: with null for numbers that are not finite, which JSON cannot write."""
        written: dict[str, Any] = without_infinity(line)
        if not self.is_written:
            return written
        self.history.append(written)
        path = self.path / "metrics.jsonl"
        if self._is_begun:
            append_line(path, json.dumps(written))
        else:
            write_text(path, "".join(json.dumps(line) + "\n" for line in self.history))
            self._is_begun = True
        return written

    def write_config(self, config: RunConfig) -> None:
        """Write config.toml."""
        if self.is_written:
            write_text(self.path / "config.toml", config.to_toml())

    def read_history(self, folder: Path, until_epoch: float) -> None:
        """Copy the log of another folder up to its `last`."""
        self.history = [line for line in read_metrics(folder) if line["epoch"] <= until_epoch + 1e-4]

    @property
    def measured(self) -> list[dict[str, Any]]:
        """The lines with figures of val."""
        return [line for line in self.history if "val_AP" in line]

    @property
    def best_ap(self) -> float:
        """The highest AP on val so far; at least 0, so that an undefined AP (-1) is never the best."""
        return max([0.0, *(float(line["val_AP"]) for line in self.measured)])

    def waited(self, counts: Callable[[Mapping[str, Any]], bool]) -> int:
        """Evaluations in a row, up to the last, without a better AP, as far as their line counts."""
        measured = self.measured
        aps = [line["val_AP"] for line in measured]
        best = aps.index(max(aps)) if aps else 0  # the first of equals
        return sum(map(counts, measured[best + 1 :]))

    def save_last(self, checkpoint: Checkpoint, training_state: dict[str, Any]) -> None:
        """Write the model, with what resuming needs."""
        save_checkpoint(self.path / "last", replace(checkpoint, origin=self._origin(checkpoint)), training_state)

    def record_evaluation(self, checkpoint: Checkpoint, metrics: CocoMetrics, when: Mapping[str, Any]) -> None:
        """Write the metrics of `last`, and copy it to `best` if no AP on val was higher before."""
        origin = replace(self._origin(checkpoint), val=metrics.to_json())
        write_metrics(self.path / "last", origin)
        if metrics.summary["AP"] >= self.best_ap:
            copy_checkpoint(self.path / "last", self.path / "best")
        self.log({"kind": "val", **when, **{f"val_{name}": value for name, value in metrics.summary.items()}})

    def _origin(self, checkpoint: Checkpoint) -> Origin:
        """The origin of the checkpoint, with the last figures of its training."""
        said = next((line for line in reversed(self.history) if line["kind"] != "val"), None)
        return checkpoint.origin if said is None else replace(checkpoint.origin, training=said)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`, each with its `kind`: `step`, `epoch` or `val`; UserError if it is damaged.

    Earlier versions wrote epochs only, without a kind, with the figures of val among the others.
    """
    return [{"kind": "epoch", **line} for line in read_json_lines(run / "metrics.jsonl", "the log of a run")]


def summary_of(run: Path) -> dict[str, Any]:
    """What a run has come to: its folder, the weights that other commands use, and what was measured of them on val."""
    history = read_metrics(run)
    measured = [line for line in history if "val_AP" in line]
    best = max(measured, key=lambda line: (line["val_AP"], line["step"]), default={})  # the last of equals is kept
    return {
        "run": str(run),
        "weights": str(run / ("best" if (run / "best").is_dir() else "last")),
        **{name: history[-1][name] for name in ("epoch", "step", "seconds")},
        "val": {name.removeprefix("val_"): value for name, value in best.items() if name.startswith("val_")} or None,
        "val_epoch": best.get("epoch"),
    }


def read_config(run: Path) -> RunConfig:
    """The config of a run, with all values that were chosen at its start; UserError if it cannot be continued."""
    folder = resumable_folder(run)
    version = read_note(folder / "metrics.json").get("version")
    with newer_is_said(version, "continue with that version"):
        return load_recipe(str(folder / "config.toml"))


def resumable_folder(run: Path) -> Path:
    """The `last` of a run; UserError if it cannot be continued."""
    folder = current_folder(run / "last")
    if not (folder / "training.pt").is_file():
        raise UserError(
            f"--resume {run}: {folder / 'training.pt'} does not exist; expected a run folder written by opendetr train"
        )
    return folder


def load_training_state(run: Path) -> dict[str, Any]:
    """The training state in the `last` of a run; UserError if it cannot be continued."""
    path = resumable_folder(run) / "training.pt"
    refuse_pointer(path)
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds of errors for a damaged file
        raise UserError(f"--resume {run}: {path} is damaged ({first_line(error)})") from None
    require_finite(tensors_in(state), str(path))
    return state


def require_free(output: Path, resume: Path | None) -> None:
    """Check that the run folder can be written; UserError if it is a file, or holds another run than `resume`."""
    require_folder(output)
    if resume != output and any((output / name).exists() for name in ("last", "best", "metrics.jsonl")):
        raise UserError(
            f"--output {output} holds a run already; give another folder, or continue it with --resume {output}"
        )
