"""What a run leaves when it is killed, when the disk is full, and when another run writes to the same folder."""

import errno
import os
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from tiny import TINY

from opendetr import api, files
from opendetr.checkpoints import native
from opendetr.checkpoints.native import load_folder
from opendetr.errors import UserError
from opendetr.evaluation.analysis import AnalysedMetrics, Analysis
from opendetr.evaluation.coco import SUMMARY_NAMES
from opendetr.files import read_note
from opendetr.training import run_folder
from opendetr.training.run_folder import LOCK, RunFolder, kept_epochs, load_training_state, read_metrics, was_saved
from opendetr.training.setup import prepare_training

KILLS = Path(__file__).parents[2] / "benchmarks" / "kills.py"


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_run_that_is_killed_and_resumed_is_the_run_that_was_not_killed():
    """Six kills, where most could be lost: weights, log, AP and the choice of the best are equal to the last bit."""
    command = [sys.executable, str(KILLS), "--only", "paper", "--six"]
    found = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert found.returncode == 0, found.stdout + found.stderr
    assert "| paper | 6 | 6 |" in found.stdout


STATE = {"state": {"epoch": 1}, "weights": torch.arange(1000.0)}


class FullDisk:
    """Fails one of the operations of this process that need room, after so many that succeed."""

    def __init__(self, monkeypatch):
        self.left = -1
        for where, name in (
            (files.io.FileIO, "write"), (Path, "write_bytes"), (Path, "replace"), (Path, "mkdir"), (Path, "chmod"),
            (os, "fsync"), (os, "link"), (shutil, "copy2"),
        ):  # fmt: skip
            if where is files.io.FileIO:
                full = type("FullFile", (where,), {name: self.failing(where.write)})
                monkeypatch.setattr(files.io, "FileIO", full)
            else:
                monkeypatch.setattr(where, name, self.failing(getattr(where, name)))
        open_file = Path.open
        fails = self.failing(open_file)

        def opens(path, mode="r", *arguments, **options):
            return (fails if "a" in mode else open_file)(path, mode, *arguments, **options)  # a line of the log

        monkeypatch.setattr(Path, "open", opens)

    def failing(self, work):
        def act(*arguments, **options):
            self.left -= 1
            if self.left == -1:
                self.failed = work.__name__
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "the file")
            return work(*arguments, **options)

        return act


def session_of_one_epoch(checkpoint, measured, run, epoch):
    """What a session writes that trains an epoch; it continues the run that is there."""
    folder = RunFolder(run, continued=run if was_saved(run) else None)
    folder.history = [line for line in read_metrics(run) if line["epoch"] < epoch]
    where = {"epoch": epoch, "step": 2 * epoch, "seconds": 1.0}
    folder.begin(checkpoint.config, {"epoch": epoch})
    folder.log({"kind": "epoch", **where})
    with torch.no_grad():
        checkpoint.model.query_embed.weight.fill_(epoch)
    checkpoint = replace(checkpoint, origin=replace(checkpoint.origin, data=f"epoch {epoch}"))
    folder.save_last(checkpoint, STATE | {"state": {"epoch": epoch}}, is_measured=True)
    folder.record_evaluation(checkpoint, measured, (), where)
    folder.keep_last(epoch, most=1)


def contents(run):
    """The files of a run but its manifest, which lists every session."""
    paths = [path for path in run.rglob("*") if path.is_file() and path.name != "manifest.json"]
    return {str(path.relative_to(run)): path.read_bytes() for path in paths}


def files_of(folder, found):
    """The files of a model folder but the figures of `last`, which follow it."""
    return {name: content for name, content in found.items()
            if name.startswith(f"{folder}/") and name != "last/metrics.json"}  # fmt: skip


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_write_of_a_session_costs_nothing_that_was_saved(tiny_run, tmp_path, monkeypatch):
    """Manifest, log, `last`, `.previous`, figures, `best` and `checkpoints`; with room again the run goes on."""
    checkpoint, run = load_folder(tiny_run / "last"), tmp_path / "run"
    values = read_note(tiny_run / "evaluation.json")["metrics"]
    summary, analysis = {name: values[name] for name in SUMMARY_NAMES}, Analysis.from_json(values["analysis"])
    measured = AnalysedMetrics(summary, values["per_class"], analysis)
    before, after = tmp_path / "before", tmp_path / "after"
    session_of_one_epoch(checkpoint, measured, before, 1)
    shutil.copytree(before, after)
    session_of_one_epoch(checkpoint, measured, after, 2)
    old, new = contents(before), contents(after)
    disk, at, is_over = FullDisk(monkeypatch), -1, False
    while not is_over:
        at, said = at + 1, ""
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(before, run)
        disk.left = at
        try:
            session_of_one_epoch(checkpoint, measured, run, 2)
        except UserError as error:
            said = str(error)
            assert re.search(rf"cannot be written \(No space left on device\): {run}/last is as it was saved", said)
        is_over, disk.left = disk.left >= 0, 10**6
        assert said or is_over or disk.failed == "link"  # a copy does as well
        found, figures = contents(run), read_note(run / "last" / "metrics.json")
        assert figures["data"] in ("epoch 1", "epoch 2")
        for folder in ("last", "best", "checkpoints/epoch-0001", "checkpoints/epoch-0002"):  # none is half of each
            assert files_of(folder, found) in (files_of(folder, old), files_of(folder, new)), (at, said, folder)
        assert found["config.toml"] == old["config.toml"]
        assert found["metrics.jsonl"].startswith(old["metrics.jsonl"])
        assert read_note(run / "manifest.json")["sessions"][0] == {"epoch": 1}
        session_of_one_epoch(checkpoint, measured, run, 2)
        assert contents(run) == new
    assert 60 < at < 1000


def test_a_library_says_what_the_disk_says(tmp_path, monkeypatch):
    """PyTorch itself says: unexpected pos 64 vs 0."""

    class FullFile(files.io.FileIO):
        def write(self, content):
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(files.io, "FileIO", FullFile)
    with pytest.raises(OSError, match="Disk quota exceeded"), native.open_for_library(tmp_path / "x.pt") as file:
        torch.save(torch.zeros(100_000), file)


def test_two_runs_into_one_folder(digits, tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "WAITED", 0.0)
    lock = FileLock(tmp_path / LOCK)
    with lock, pytest.raises(UserError, match=f"another training writes to {tmp_path} now"):
        api.train(digits, **TINY, epochs=1, output=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {LOCK}


def test_a_run_that_another_one_has_saved_while_this_one_waited_is_not_overwritten(tiny_run):
    with pytest.raises(UserError, match=f"another training has written to {tiny_run} meanwhile"):
        RunFolder(tiny_run).begin(load_folder(tiny_run).config)


def test_a_run_that_another_one_has_continued_meanwhile_is_not_overwritten(tiny_run, tmp_path):
    """Its `last` is no longer the one that was read: both would count the same epochs."""
    run = shutil.copytree(tiny_run, tmp_path / "run")
    trainer = prepare_training(load_folder(run).config, run, 0.0, resume=run)
    RunFolder(run).save_last(load_folder(run), load_training_state(run))
    with pytest.raises(UserError, match=f"another training has continued {run} meanwhile: repeat this command"):
        trainer.fit()


def test_models_of_some_epochs_are_kept_evenly_spread(digits, tmp_path):
    """Also over a resume, and where the run goes on in another folder."""
    run, more = tmp_path / "run", tmp_path / "more"
    api.train(digits, **TINY, epochs=2, keep=2, output=run)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["epoch-0001", "epoch-0002"]
    of_second = load_folder(run / "checkpoints" / "epoch-0002")
    assert of_second.origin.val == load_folder(run / "last").origin.val is not None
    assert not (run / "checkpoints" / "epoch-0002" / "training.pt").exists()
    api.train(resume=run, output=more, epochs=4)
    assert sorted(path.name for path in (more / "checkpoints").iterdir()) == ["epoch-0002", "epoch-0004"]
    again = load_folder(more / "checkpoints" / "epoch-0002").model.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in of_second.model.state_dict().items())


def test_a_model_that_is_being_removed_is_whole_or_gone(tiny_run, tmp_path, monkeypatch):
    """When the program is killed in the middle of that; the next session removes the rest."""
    folder, checkpoint = RunFolder(tmp_path), load_folder(tiny_run)
    for epoch in (1, 2):
        folder.save_last(checkpoint, STATE)
        if epoch == 2:
            monkeypatch.setattr(shutil, "rmtree", remove_a_part)
        with pytest.raises(KeyboardInterrupt) if epoch == 2 else nullcontext():
            folder.keep_last(epoch, most=1)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "checkpoints").glob("epoch-*")] == ["epoch-0002"]
    RunFolder(tmp_path, continued=tmp_path).begin(checkpoint.config)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["epoch-0002"]


def remove_a_part(folder, **_):
    if folder.exists():
        min(folder.iterdir()).unlink()
        raise KeyboardInterrupt


@pytest.mark.parametrize("most", range(1, 9))
def test_what_is_kept_was_kept_before(most):
    for epoch in range(1, 100):
        kept = kept_epochs(epoch, most)
        assert len(kept) <= most
        assert set(kept) - {epoch} <= set(kept_epochs(epoch - 1, most))
        assert len(kept) > (most - 1) // 2 or epoch <= most


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=rf"--output {tmp_path}/run: {tmp_path} cannot be written"):
        api.train(tmp_path / "no data", output=tmp_path / "run", epochs=1, recipe="paper", preset="detr-tiny")


def test_a_run_that_goes_on_elsewhere_takes_everything_along(digits, tiny_run, tmp_path):
    api.train(resume=tiny_run, output=tmp_path / "more", epochs=3)
    assert load_training_state(tmp_path / "more")["state"]["epoch"] == 3
    log = [(run / "metrics.jsonl").read_text().splitlines() for run in (tiny_run, tmp_path / "more")]
    assert log[1][: len(log[0])] == log[0]
    assert load_training_state(tiny_run)["state"]["epoch"] == 2
