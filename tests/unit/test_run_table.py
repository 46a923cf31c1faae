"""Runs beside each other."""

import json

import pytest

from opendetr.config import RunConfig
from opendetr.errors import UserError
from opendetr.training.run_table import compare_runs, print_runs


def make_run(folder, ap=None, interval=None, **overrides):
    """A run folder as far as a comparison reads it."""
    folder.mkdir(parents=True)
    config = RunConfig().with_overrides(f"{name.replace('__', '.')}={value}" for name, value in overrides.items())
    (folder / "config.toml").write_text(config.to_toml())
    lines = [{"kind": "epoch", "epoch": 2.0, "step": 20, "seconds": 90.0, "loss": 3.0}]
    if ap is not None:
        measured = {"val_AP": ap, "val_AP50": 2 * ap} | ({} if interval is None else {"val_AP_interval": interval})
        lines.append({"kind": "val", "epoch": 2.0, "step": 20, "seconds": 90.0, **measured})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_runs_are_compared_by_what_differs(tmp_path, capsys):
    make_run(tmp_path / "slow", 0.2, train__lr=1e-5)
    make_run(tmp_path / "group" / "large", 0.4, (0.35, 0.45), model__num_queries=300)
    make_run(tmp_path / "new")
    make_run(tmp_path / "of an earlier version", 0.3)
    (tmp_path / "no run").mkdir()
    rows = compare_runs(tmp_path)
    assert [(row.run, row.AP, row.interval) for row in rows] == [
        ("group/large", 0.4, [0.35, 0.45]), ("of an earlier version", 0.3, None),
        ("slow", 0.2, None), ("new", None, None),
    ]  # fmt: skip
    assert [row.config for row in rows] == [
        {"model.num_queries": 300, "train.lr": 1e-4}, {"model.num_queries": 100, "train.lr": 1e-4},
        {"model.num_queries": 100, "train.lr": 1e-5}, {"model.num_queries": 100, "train.lr": 1e-4},
    ]  # fmt: skip
    assert rows[0].minutes == 1.5
    print_runs(rows)
    said = capsys.readouterr().out
    assert "0.350 to 0.450" in said
    assert "model.num_queries=300" in "".join(said.split())
    assert "…" not in said


def test_one_run_and_a_damaged_one(tmp_path, capsys):
    make_run(tmp_path / "a", 0.2)
    make_run(tmp_path / "b", 0.3)
    (tmp_path / "b" / "config.toml").write_text("[model\n")
    (row,) = compare_runs(tmp_path)
    assert (row.run, row.config) == ("a", {})
    assert "b is left out" in capsys.readouterr().out.replace("\n", "")
    assert [row.run for row in compare_runs(tmp_path / "a")] == ["."]


def test_a_folder_without_runs_is_one_sentence(tmp_path):
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(UserError, match=f"{folder} holds no run; expected a folder with runs of opendetr train"):
            compare_runs(folder)
