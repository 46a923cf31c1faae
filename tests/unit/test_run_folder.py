"""metrics.jsonl: appended to, read back whatever wrote it, and what patience makes of it."""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from opendetr.errors import UserError
from opendetr.files import write_json
from opendetr.training.free_folder import make_new_folder
from opendetr.training.resume import require_state
from opendetr.training.run_folder import RunFolder, read_metrics


def val(step: int, ap: float) -> dict:
    return {"kind": "val", "epoch": step / 10, "step": step, "seconds": float(step), "val_AP": ap, "val_AP50": ap}


def test_lines_are_added_and_not_written_again(tmp_path):
    folder, path = RunFolder(tmp_path), tmp_path / "metrics.jsonl"
    folder.log({"kind": "step", "epoch": 0.1, "step": 1, "loss": float("nan")})
    first = path.stat().st_ino
    folder.log({"kind": "step", "epoch": 0.2, "step": 2, "loss": 3.0})
    assert path.stat().st_ino == first  # a file that is written anew is another one
    assert [line["loss"] for line in read_metrics(tmp_path)] == [None, 3.0]


def test_a_torn_last_line_is_dropped_by_readers_and_by_who_continues(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "step", "epoch": 0.5, "step": 5}\n{"kind": "epoch", "epo')
    assert [line["step"] for line in read_metrics(tmp_path)] == [5]
    folder = RunFolder(tmp_path)
    folder.read_history(tmp_path, 1.0)
    folder.log({"kind": "epoch", "epoch": 1.0, "step": 10})
    assert [line["step"] for line in read_metrics(tmp_path)] == [5, 10]
    assert path.read_text().count("\n") == 2


@pytest.mark.parametrize(
    ("text", "left", "said"),
    [
        ('{"epoch": 1}\n{"epoch\n{"epoch": 2}\n', [1, 2], "has 1 damaged line:"),
        ('{"epoch": 1}\n{"epoch": 2, "val_AP": 0.9', [1], "has 1 damaged line:"),
        ("\0" * 300, [], "has 1 damaged line:"),
        ('{"epoch": 1}\n{"kind": "val", "epoch": 0.5, "val_AP": "x"}\n', [1], "has 1 damaged line:"),
        ('{"epoch": 1, "step": []}\n{"epoch": 2, "val_AP50": null}\n', [], "has 2 damaged lines:"),
        ('[1]\n{"epoch": "x"}\n{"step": 3}\n' + "[" * 100_000 + "\n", [], "has 4 damaged lines:"),
        (None, [], "is gone:"),
    ],
)
def test_who_continues_says_what_the_log_has_lost_and_keeps_the_best_weights(tmp_path, capsys, text, left, said):
    """What `best` has reached stands beside it: no worse weights take its place when the log is lost."""
    write_json(tmp_path / "best" / "metrics.json", {"val": {"AP": 0.25}})
    if text is not None:
        (tmp_path / "metrics.jsonl").write_text(text)
    assert [line["epoch"] for line in read_metrics(tmp_path)] == left
    folder = RunFolder(tmp_path)
    folder.read_history(tmp_path, 2.0)
    assert [line["epoch"] for line in folder.history] == left
    assert folder.best_ap == 0.25
    assert f"metrics.jsonl {said}" in " ".join(capsys.readouterr().out.split())
    folder.log(val(30, 0.1))
    assert (folder.best_ap, folder.waited(lambda line: True)) == (0.25, 1)
    folder.log(val(40, 0.3))
    folder.log(val(50, 0.2))
    assert (folder.best_ap, folder.waited(lambda line: True)) == (0.3, 1)


def test_nothing_is_said_of_a_whole_log(tmp_path, capsys):
    RunFolder(tmp_path).log(val(10, 0.1))
    RunFolder(tmp_path).read_history(tmp_path, 2.0)
    assert capsys.readouterr().out == ""


def test_of_programs_that_start_together_each_makes_a_folder_of_its_own(tmp_path):
    """All threads choose at the same moment; none takes a folder that another has made."""
    start = threading.Barrier(8)

    def choose(_: int) -> Path:
        start.wait()
        return make_new_folder(tmp_path / "runs" / "cells")

    with ThreadPoolExecutor(8) as pool:
        chosen = list(pool.map(choose, range(8)))
    assert sorted(path.name for path in chosen) == ["cells", *(f"cells-{number}" for number in range(2, 9))]
    (tmp_path / "runs" / "file").write_text("")
    assert make_new_folder(tmp_path / "runs" / "file").name == "file-2"


STATE = {
    "state": {"epoch": 1, "step": 0}, "steps_per_epoch": 2, "spent": 1.0, "began": 0.5, "total_seconds": None,
    "optimizer": {}, "weights": None, "random": torch.zeros(1, dtype=torch.uint8), "cuda_random": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: {}, "it lacks 'began'"),
        (lambda state: [state], "it is of the type list"),
        (lambda state: state | {"code": "import os"}, "it has the unknown key 'code'"),
        (lambda state: state | {"steps_per_epoch": 0}, "'steps_per_epoch' is 0"),
        (lambda state: state | {"steps_per_epoch": True}, "its 'steps_per_epoch' is of the type bool"),
        (lambda state: state | {"spent": float("nan")}, "its 'spent' is no number from 0 to"),
        (lambda state: state | {"state": {"epoch": 10**5000, "step": 0}}, "its 'epoch' is no number from 0 to"),
        (lambda state: state | {"state": {"epoch": 1, "step": 0, "plan": 1}}, "it has the unknown key 'plan'"),
        (lambda state: state | {"sizing": {"__class__": 1}}, "it has the unknown key '__class__'"),
        (lambda state: state | {"optimizer": None}, "its 'optimizer' is of the type NoneType"),
    ],
)
def test_a_training_state_of_another_kind_is_refused(tmp_path, change, said):
    require_state(STATE, tmp_path)
    with pytest.raises(UserError, match=re.escape(said)):
        require_state(change(STATE), tmp_path)


def test_logs_of_earlier_versions_are_read(tmp_path):
    """Epochs without a kind, with val's figures among theirs."""
    old = [
        {"epoch": 1.0, "step": 5, "loss": 2.0, "val_AP": 0.3, "val_AP50": 0.5},
        {"epoch": 2.0, "step": 10, "loss": 1.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
    folder = RunFolder(tmp_path)
    folder.read_history(tmp_path, 2.0)
    assert [line["kind"] for line in folder.history] == ["epoch", "epoch"]
    assert (folder.best_ap, folder.measured[-1]["val_AP50"]) == (0.3, 0.5)


def test_lines_beyond_what_was_saved_are_forgotten(tmp_path):
    folder = RunFolder(tmp_path)
    for step, ap in ((10, 0.1), (20, 0.2), (30, 0.3)):
        folder.log(val(step, ap))
    again = RunFolder(tmp_path)
    again.read_history(tmp_path, 2.0)
    assert [line["step"] for line in again.history] == [10, 20]
    assert len(read_metrics(tmp_path)) == 3  # until there is something new to say
    again.log(val(30, 0.1))
    assert [line["val_AP"] for line in read_metrics(tmp_path)] == [0.1, 0.2, 0.1]


@pytest.mark.parametrize(
    ("aps", "since", "waited"),
    [
        ([], 0, 0),
        ([0.1, 0.2, 0.3], 0, 0),
        ([0.1, 0.3, 0.2, 0.3], 0, 2),  # as good is not better
        ([0.3, 0.2, 0.2, 0.2], 30, 2),  # of those that count
        ([-1, -1], 0, 1),  # undefined
    ],
)
def test_evaluations_without_a_better_ap_are_counted(tmp_path, aps, since, waited):
    folder = RunFolder(tmp_path)
    for number, ap in enumerate(aps, start=1):
        folder.log(val(10 * number, ap))
    assert folder.waited(lambda line: line["step"] >= since) == waited
    again = RunFolder(tmp_path)
    again.read_history(tmp_path, 100.0)  # a resumed run goes on counting
    assert again.waited(lambda line: line["step"] >= since) == waited
