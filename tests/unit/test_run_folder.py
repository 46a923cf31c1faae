"""metrics.jsonl: appended to, read back whatever wrote it, and what patience makes of it."""

import json

import pytest

from opendetr.errors import UserError
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


def test_another_line_that_is_no_json_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch\n{"epoch": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2 cannot be read as JSON"):
        read_metrics(tmp_path)


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
