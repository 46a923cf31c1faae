"""The folder of a run: `config.toml`, `metrics.jsonl`, `last` and `best`, written and read here."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from opendetr.checkpoints.finite import require_finite, tensors_in
from opendetr.checkpoints.native import Checkpoint, copy_checkpoint, save_checkpoint, write_metrics
from opendetr.checkpoints.origin import Origin
from opendetr.checkpoints.pickles import read_pickle
from opendetr.checkpoints.shapes import require_stored
from opendetr.checkpoints.versions import newer_is_said
from opendetr.config import RunConfig
from opendetr.errors import UserError, said_of
from opendetr.evaluation.coco import CocoMetrics
from opendetr.files import (
    append_line,
    current_folder,
    read_json_lines,
    read_note,
    require_folder,
    without_infinity,
    write_text,
)
from opendetr.progress import warn
from opendetr.recipes.recipe import load_recipe
from opendetr.wording import counted


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
    kept_ap: float = -1.0  # on val, of the `best` of a run that is continued, whose log may be lost; -1: unknown
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
        """Copy the log of another folder up to its `last`, and what is known of its `best`; says what is lost."""
        lines, damaged = _read_log(folder)
        self.history = [line for line in lines if line["epoch"] <= until_epoch + 1e-4]
        noted = read_note(current_folder(folder / "best") / "metrics.json").get("val")
        ap = noted.get("AP") if isinstance(noted, dict) else None
        self.kept_ap = float(ap) if isinstance(ap, int | float) else -1.0
        path = folder / "metrics.jsonl"
        if damaged or not path.exists():
            lost = f"{path} has {counted(damaged, 'damaged line')}" if damaged else f"{path} is gone"
            warn(
                f"{lost}: the run goes on, its curves lack what is lost, and its best weights stay the best until "
                f"their AP, {self.best_ap:.3f}, is reached"
            )

    @property
    def measured(self) -> list[dict[str, Any]]:
        """The lines with figures of val."""
        return [line for line in self.history if "val_AP" in line]

    @property
    def best_ap(self) -> float:
        """The highest AP on val so far; at least 0, so that an undefined AP (-1) is never the best."""
        return max([0.0, self.kept_ap, *(float(line["val_AP"]) for line in self.measured)])

    def waited(self, counts: Callable[[Mapping[str, Any]], bool]) -> int:
        """Evaluations in a row, up to the last, without a better AP, as far as their line counts."""
        measured = self.measured
        aps = [line["val_AP"] for line in measured]
        best = aps.index(max(aps)) if aps and max(aps) >= self.kept_ap else -1  # the first of equals
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
    """The lines of a run's `metrics.jsonl` that can be read, each with its `kind`: `step`, `epoch` or `val`.

    Earlier versions wrote epochs only, without a kind, with the figures of val among the others.
    """
    return _read_log(run)[0]


def _read_log(run: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines, and the number of those that are damaged."""
    values, damaged = read_json_lines(run / "metrics.jsonl")
    lines = [{"kind": "epoch", **line} for line in values if isinstance(line, dict) and _is_line(line)]
    return lines, damaged + len(values) - len(lines)


def _is_line(line: Mapping[str, Any]) -> bool:
    counted = ("step", "val_AP", "val_AP50")
    return _is_number(line.get("epoch")) and all(_is_number(line[name]) for name in counted if name in line)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def summary_of(run: Path) -> dict[str, Any]:
    """What a run has come to: its folder, the weights that other commands use, and what was measured of them on val."""
    history = read_metrics(run)
    measured = [line for line in history if "val_AP" in line]
    # of equals the last one is kept
    best = max(measured, key=lambda line: (line["val_AP"], line.get("step", 0)), default={})
    return {
        "run": str(run),
        "weights": str(run / ("best" if (run / "best").is_dir() else "last")),
        **{name: history[-1].get(name) if history else None for name in ("epoch", "step", "seconds")},
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


def load_training_state(run: Path) -> Any:
    """The training state in the `last` of a run; UserError if it cannot be continued."""
    path = resumable_folder(run) / "training.pt"
    with said_of(f"--resume {run}"):
        state = read_pickle(path, "the state of a training, as opendetr train writes it")
        require_stored(tensors_in(state), str(path))
        require_finite(tensors_in(state), str(path))
    return state


def make_new_folder(folder: Path) -> Path:
    """Make the folder, or the first of FOLDER-2, FOLDER-3, ... that does not exist: no two programs get the same."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for candidate in (folder, *(folder.with_name(f"{folder.name}-{number}") for number in range(2, 10_000))):
        with suppress(FileExistsError):
            candidate.mkdir()
            return candidate
    raise UserError(f"{folder} and the 9,998 folders after it exist; give --output")


def require_free(output: Path | None, resume: Path | None) -> None:
    """Check that the run folder can be written; UserError if it is a file, or holds another run than `resume`."""
    if output is None:
        return
    require_folder(output)
    if resume != output and any((output / name).exists() for name in ("last", "best", "metrics.jsonl")):
        raise UserError(
            f"--output {output} holds a run already; give another folder, or continue it with --resume {output}"
        )
