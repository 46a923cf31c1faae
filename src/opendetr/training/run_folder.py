"""The folder of a run: `config.toml`, `metrics.jsonl`, `last` and `best`, written and read here."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from opendetr.checkpoints.finite import require_finite, tensors_in
from opendetr.checkpoints.native import Checkpoint, copy_checkpoint, save_checkpoint, write_metrics
from opendetr.checkpoints.origin import Origin
from opendetr.checkpoints.pickles import read_pickle
from opendetr.checkpoints.shapes import require_stored
from opendetr.checkpoints.versions import newer_is_said
from opendetr.config import RunConfig
from opendetr.errors import UserError, said_of
from opendetr.evaluation.analysis import AnalysedMetrics
from opendetr.evaluation.coco import CocoMetrics
from opendetr.files import (
    append_line,
    current_folder,
    link_or_copy,
    read_json_lines,
    read_note,
    remove_folder,
    remove_leftovers,
    replacing_folder,
    sync,
    tidy_folder,
    without_infinity,
    write_text,
)
from opendetr.progress import warn
from opendetr.recipes.recipe import load_recipe
from opendetr.training.manifest import write_manifest
from opendetr.wording import counted

if TYPE_CHECKING:  # it imports Accelerate, which readers of runs do not need
    from opendetr.training.run_tracker import RunTracker

LOCK = ".lock"  # held by the program that writes the folder
WAITED = 10.0  # seconds for the lock: the loader processes of a program that was killed hold it for some seconds more
EVALUATION = "evaluation.json"  # the latest one, as far as the page shows it: a resumed run goes on with it
PREVIOUS = ".previous"  # the `last` before the one that is measured now: it returns if that one answers with NaN
MATCHES = "matches.json"  # which queries the objects of val were matched with, at the last two evaluations
CHECKPOINTS = "checkpoints"  # models of earlier epochs, for watching a model learn


@dataclass
class RunFolder:
    """`config.toml`, `metrics.jsonl`, `last` and `best` of a run, as they are written.

    The order of writing keeps the folder valid, and the run exact, if the program is killed at any moment: the log
    first, then `last`, whose training state says how many lines of the log it knows and whether an evaluation is due;
    then `config.toml`, and of an evaluation its matches, its page, the figures in `last`, `best`, and at the end its
    line in the log. A resumed run forgets the lines that `last` does not know, and makes what is due and has no line.
    """

    path: Path
    is_written: bool = True  # by this process: of several only the first one writes
    history: list[dict[str, Any]] = field(default_factory=list)  # the lines of metrics.jsonl
    kept_ap: float = -1.0  # on val, of the `best` of a run that is continued, whose log may be lost; -1: unknown
    continued: Path | None = None  # the run that is continued, perhaps in this folder
    seen: tuple[int, int] | None = None  # the `identity` of the `last` that is continued, from before it was read
    tracker: "RunTracker | None" = None  # gets the lines too
    _is_begun: bool = False  # whether the file holds our history, and only needs to grow
    _config: str = ""  # what config.toml holds

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other programs from writing to the folder; if this one is killed, the folder is free.

        Raises:
            UserError: another program holds it, or it cannot be written.
        """
        if not self.is_written:
            yield
            return
        with self._failures_are_said():
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / LOCK)
            try:
                lock.acquire(timeout=WAITED)
            except Timeout:
                raise UserError(
                    f"another training writes to {self.path} now: wait until it ends, or give another --output"
                ) from None
            except NotImplementedError:  # by file systems without locks
                pass
        try:
            yield
        finally:
            if self.tracker is not None:
                self.tracker.end()
            lock.release()

    def begin(self, config: RunConfig, session: Mapping[str, Any] | None = None) -> None:
        """Make the folder ready: without what a killed program left, with the run that is continued, if any.

        `session` goes into the manifest.
        """
        if not self.is_written:
            return
        if was_saved(self.path):  # since it was looked at, before the lock
            if self.continued != self.path:
                raise UserError(f"another training has written to {self.path} meanwhile: give another --output")
            if self.seen is not None and identity(self.path) != self.seen:
                raise UserError(f"another training has continued {self.path} meanwhile: repeat this command to go on")
        with self._failures_are_said():
            kept = self.path / CHECKPOINTS
            interrupted = {kept / path.stem.removeprefix(".") for path in kept.glob(".epoch-*")}
            for folder in (*(self.path / name for name in ("last", "best", PREVIOUS)), *interrupted):
                tidy_folder(folder)
            remove_leftovers(self.path)
            if session is not None:  # first: what has a config or a `last` is continued, and knows its sessions
                write_manifest(self.path, session, self.continued)
            log = self.path / "metrics.jsonl"
            if self.history:
                self._write_history()
            else:
                log.unlink(missing_ok=True)
                (self.path / MATCHES).unlink(missing_ok=True)
            if self.continued is not None and self.continued != self.path:
                self._copy(self.continued)
            self.write_config(config)

    def _copy(self, run: Path) -> None:
        """Take over the files of another run; `last` at the end, for a folder with it can be resumed."""
        for note in (EVALUATION, MATCHES):
            if (run / note).is_file():
                shutil.copy2(run / note, self.path / note)
        best, last = (current_folder(run / name) for name in ("best", "last"))
        if best.is_dir():
            copy_checkpoint(best, self.path / "best")
        for kept in (run / CHECKPOINTS).glob("epoch-*"):
            copy_checkpoint(kept, self.path / CHECKPOINTS / kept.name)
        with replacing_folder(self.path / "last", durable=True) as new:
            shutil.copytree(last, new, dirs_exist_ok=True)

    @contextmanager
    def _failures_are_said(self) -> Iterator[None]:
        """Turn a failure to write, such as a full disk, into one sentence, a UserError."""
        try:
            yield
        except OSError as error:
            kept = "nothing of the run was saved yet"
            if was_saved(self.path):
                kept = f"{self.path / 'last'} is as it was saved before"
            raise UserError(
                f"{error.filename or self.path} cannot be written ({error.strerror or error}): {kept}; make room, or "
                f"let the folder be written, and continue with --resume {self.path}"
            ) from None

    def log(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """Add a line, and return it as written: with null for numbers that are not finite, which JSON cannot write."""
        written: dict[str, Any] = without_infinity(line)
        if not self.is_written:
            return written
        self.history.append(written)
        with self._failures_are_said():
            if self._is_begun:
                append_line(self.path / "metrics.jsonl", json.dumps(written))
            else:
                self._write_history()
        if self.tracker is not None:
            self.tracker.send(written)
        return written

    def _write_history(self) -> None:
        lines = "".join(json.dumps(line) + "\n" for line in self.history)
        write_text(self.path / "metrics.jsonl", lines, durable=True)
        self._is_begun = True

    def write_config(self, config: RunConfig) -> None:
        """Write config.toml where it has changed."""
        text = config.to_toml()
        if self.is_written and text != self._config:
            with self._failures_are_said():
                write_text(self.path / "config.toml", text, durable=True)
            self._config = text

    def read_history(self, folder: Path, until_epoch: float, known_lines: int | None = None) -> None:
        """Read what the `last` of a run knows of its log, and what is known of its `best`; says what is lost.

        Args:
            folder: of the run that is continued.
            until_epoch: where its `last` is.
            known_lines: of the log when `last` was written. After them only the evaluation of `last` counts. None is
                unknown, as in runs of earlier versions.
        """
        self.continued = folder
        lines, damaged = _read_log(folder)
        known = len(lines) if known_lines is None else known_lines
        if known < len(lines) and lines[known]["kind"] == "val":
            known += 1
        self.history = [line for line in lines[:known] if line["epoch"] <= until_epoch + 1e-4]
        noted = read_note(current_folder(folder / "best") / "metrics.json").get("val")
        ap = noted.get("AP") if isinstance(noted, dict) else None
        self.kept_ap = float(ap) if isinstance(ap, int | float) else -1.0
        path = folder / "metrics.jsonl"
        if known_lines is not None and len(lines) >= known_lines:
            return  # a torn line after those that count is none that is lost
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

    def save_last(self, checkpoint: Checkpoint, training_state: dict[str, Any], *, is_measured: bool = False) -> None:
        """Write the model, with what resuming needs; where it is measured next, the one before it stays until then."""
        last = self.path / "last"
        with self._failures_are_said():
            if is_measured and last.is_dir():
                with replacing_folder(self.path / PREVIOUS) as previous:
                    shutil.copytree(last, previous, copy_function=link_or_copy, dirs_exist_ok=True)
            if (log := self.path / "metrics.jsonl").is_file():
                sync(log)  # `last` must not know lines that a loss of power takes away
            known = {"log_lines": len(self.history)}
            origin = self._origin(checkpoint)
            save_checkpoint(last, replace(checkpoint, origin=origin), training_state | known)
        self.write_config(checkpoint.config)

    def undo_last(self) -> None:
        """Put the `last` before this one back, or none: this one answers with numbers that are not finite."""
        if not self.is_written:
            return
        last, previous = self.path / "last", self.path / PREVIOUS
        with self._failures_are_said():
            if previous.is_dir():
                with replacing_folder(last, durable=True) as new:
                    shutil.copytree(previous, new, dirs_exist_ok=True)
            else:
                remove_folder(last)
            self.forget_previous()

    def forget_previous(self) -> None:
        """Remove the `last` before this one, which is measured, or will not be."""
        if self.is_written and (self.path / PREVIOUS).is_dir():
            with self._failures_are_said():
                remove_folder(self.path / PREVIOUS)

    def keep_last(self, epoch: int, most: int) -> None:
        """Copy the model of `last` to `checkpoints` where its epoch is one of `kept_epochs`; the others are removed."""
        if not (self.is_written and most):
            return
        kept = {self.path / CHECKPOINTS / f"epoch-{number:04}" for number in kept_epochs(epoch, most)}
        now = self.path / CHECKPOINTS / f"epoch-{epoch:04}"
        with self._failures_are_said():
            if now in kept and not now.is_dir():
                copy_checkpoint(self.path / "last", now)
            for folder in self._kept():
                if folder not in kept:
                    remove_folder(folder)

    def _kept(self) -> list[Path]:
        return sorted((self.path / CHECKPOINTS).glob("epoch-*"))

    def exchange_matches(self, step: int, matches: list[list[int]]) -> Any:
        """Keep the matches of val at an evaluation, and return those of the one before; None where there are none.

        An evaluation that a killed run has made may be made again: those of the one before it are still there.
        """
        if not self.is_written:
            return None
        noted = read_note(self.path / MATCHES)
        before = max((int(known) for known in noted if known.isdecimal() and int(known) < step), default=None)
        kept = {} if before is None else {str(before): noted[str(before)]}
        with self._failures_are_said():
            write_text(self.path / MATCHES, json.dumps(kept | {str(step): matches}))
        return kept.get(str(before))

    def record_evaluation(
        self, checkpoint: Checkpoint, metrics: AnalysedMetrics, thresholds: Sequence[float], when: Mapping[str, Any],
        symptoms: Mapping[str, str] | None = None, match_stability: float | None = None,
    ) -> None:  # fmt: skip
        """Write metrics and thresholds of `last`, and copy it to `best` if no AP on val was higher before.

        `thresholds` are those per class that were fitted on this evaluation; `symptoms` are those that it shows first.
        """
        val = CocoMetrics(metrics.summary, metrics.per_class).to_json()  # the curves are in evaluation.json
        origin = replace(self._origin(checkpoint), val=val, thresholds=thresholds)
        with self._failures_are_said():
            write_metrics(self.path / "last", origin)
            if metrics.summary["AP"] >= self.best_ap:
                copy_checkpoint(self.path / "last", self.path / "best")
        self.forget_previous()
        more = {"AP_interval": metrics.analysis.intervals.get("AP"), "match_stability": match_stability}  # or null
        said = {f"val_{name}": value for name, value in (metrics.summary | more).items()}
        self.log({"kind": "val", **when, **said, **({"symptoms": symptoms} if symptoms else {})})

    def _origin(self, checkpoint: Checkpoint) -> Origin:
        """The origin of the checkpoint, with the last figures of its training."""
        said = next((line for line in reversed(self.history) if line["kind"] != "val"), None)
        return checkpoint.origin if said is None else replace(checkpoint.origin, training=said)


def kept_epochs(epoch: int, most: int) -> range:
    """Which of the finished epochs have a model in `checkpoints`: at most `most`, evenly spread.

    While there are few it is every epoch, then every second, every fourth: whatever is kept now was kept before.
    """
    stride = 1
    while epoch // stride > most:
        stride *= 2
    return range(stride, epoch + 1, stride)


def identity(run: Path) -> tuple[int, int]:
    """What differs between any two written `last`: number and time of the file with the training state."""
    found = (resumable_folder(run) / "training.pt").stat()
    return found.st_ino, found.st_mtime_ns


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl` that can be read, each with its `kind`: `step`, `epoch`, `val`, `symptoms`.

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
    folder = run if is_unsaved(run) else resumable_folder(run)
    version = read_note(folder / "metrics.json").get("version")
    with newer_is_said(version, "continue with that version"):
        return load_recipe(str(folder / "config.toml"))


def was_saved(run: Path) -> bool:
    """Whether a run has a `last` with its training state."""
    return (current_folder(run / "last") / "training.pt").is_file()


def is_unsaved(run: Path) -> bool:
    """Whether a folder is that of a run that was ended before it saved anything but its config: it can begin anew."""
    models = (run, current_folder(run / "last"), current_folder(run / "best"))
    return (run / "config.toml").is_file() and not any((folder / "model.safetensors").exists() for folder in models)


def resumable_folder(run: Path) -> Path:
    """The `last` of a run; UserError if it cannot be continued."""
    if not was_saved(run):
        path = run / "last" / "training.pt"
        raise UserError(f"--resume {run}: {path} does not exist; expected a run folder written by opendetr train")
    return current_folder(run / "last")


def load_training_state(run: Path) -> Any:
    """The training state in the `last` of a run; UserError if it cannot be continued."""
    path = resumable_folder(run) / "training.pt"
    with said_of(f"--resume {run}"):
        state = read_pickle(path, "the state of a training, as opendetr train writes it")
        require_stored(tensors_in(state), str(path))
        require_finite(tensors_in(state), str(path))
    return state
