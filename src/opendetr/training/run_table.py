"""Runs beside each other: what was measured of each, and by which values their configs differ."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from opendetr.errors import UserError
from opendetr.evaluation.report import metric_in_words
from opendetr.progress import console, warn
from opendetr.recipes.recipe import load_recipe
from opendetr.training.run_folder import summary_of
from opendetr.wording import one_line

DEEPEST = 3  # folders below the one that is given


@dataclass(frozen=True)
class ComparedRun:
    """A run in a table."""

    run: str  # its folder, within the one that is given
    AP: float | None  # on val, of the best weights; None where val was not measured
    AP50: float | None
    interval: list[float] | None  # of AP, 95 %; None where it is not known
    epoch: float | None  # up to now
    minutes: float | None
    config: dict[str, Any]  # the values that are not alike in all runs, by section.key

    def to_json(self) -> dict[str, Any]:
        """Everything by the names of the fields."""
        return asdict(self)


def compare_runs(folder: Path) -> list[ComparedRun]:
    """The runs in a folder and below it, the highest AP first.

    Raises:
        UserError: there is no such folder, or no run in it.
    """
    patterns = ["/".join(["*"] * depth + ["config.toml"]) for depth in range(DEEPEST + 1)]
    found = sorted(path.parent for pattern in patterns for path in folder.glob(pattern))
    configs = {run: values for run in found if (run / "metrics.jsonl").is_file() and (values := _config_of(run))}
    if not configs:
        raise UserError(
            f"{folder} holds no run; expected a folder with runs of opendetr train in it, such as runs, or a run"
        )
    names = list(dict.fromkeys(name for values in configs.values() for name in values))
    differing = [name for name in names if len({repr(values.get(name)) for values in configs.values()}) > 1]
    rows = [_compared(folder, run, {name: values.get(name) for name in differing}) for run, values in configs.items()]
    return sorted(rows, key=lambda row: -1 if row.AP is None else row.AP, reverse=True)


def print_runs(rows: Sequence[ComparedRun]) -> None:
    """A table with a row per run."""
    table = Table(
        "run", "AP", "95 %", "AP50", "epochs", "minutes", "config", title="Val, of the best weights", box=SIMPLE_HEAD,
        collapse_padding=True, pad_edge=False,
    )  # fmt: skip
    for column in table.columns[1:-1]:
        column.justify, column.no_wrap = "right", True
    for column in (table.columns[0], table.columns[-1]):
        column.overflow = "fold"
    for row in rows:
        numbers = ["-" if value is None else metric_in_words(value) for value in (row.AP, row.AP50)]
        bounds = "" if row.interval is None else " to ".join(map(metric_in_words, row.interval))
        length = ["-" if value is None else f"{value:,.1f}" for value in (row.epoch, row.minutes)]
        differences = "\n".join(f"{name}={_in_words(value)}" for name, value in row.config.items())
        table.add_row(one_line(row.run), numbers[0], bounds, numbers[1], *length, differences)
    console.print(table)
    if len(rows) > 1 and not any(row.config for row in rows):
        console.print("The configs of these runs are alike.")


def _config_of(run: Path) -> dict[str, Any]:
    """The values of a run's config by section.key; empty, which is said, where it cannot be read."""
    try:
        sections = load_recipe(str(run / "config.toml")).to_dict()
    except UserError as error:
        warn(f"{run} is left out: {error}")
        return {}
    return {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}


def _compared(folder: Path, run: Path, config: dict[str, Any]) -> ComparedRun:
    summary = summary_of(run)
    val, seconds = summary["val"] or {}, summary["seconds"]
    name = "." if run == folder else str(run.relative_to(folder))
    minutes = None if seconds is None else seconds / 60
    return ComparedRun(name, val.get("AP"), val.get("AP50"), val.get("AP_interval"), summary["epoch"], minutes, config)


def _in_words(value: Any) -> str:
    return one_line(", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
