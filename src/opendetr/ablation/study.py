"""A study is data: rows of config values, shipped as TOML or given with `--set`."""

import itertools
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from opendetr.errors import UserError, nearest

RowResults = dict[tuple[str, int], dict[str, Any]]  # measured values, by row and seed


@dataclass(frozen=True)
class StudyRow:
    """One training of a study."""

    name: str
    values: dict[str, Any] = field(default_factory=dict)  # dotted names of the config
    paper: dict[str, float] = field(default_factory=dict)  # the paper's difference to its baseline on COCO, in points

    @property
    def folder(self) -> str:
        """The name of the row's folder."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.name).strip("-")


@dataclass(frozen=True)
class Study:
    """Rows to be compared."""

    name: str
    title: str
    about: str
    baseline: str
    rows: list[StudyRow]
    measure: str = "split"  # measure: AP on the split; AP by decoder layer; share of many digits found
    needs_selected: bool = False  # whether it is about queries that are selected


@dataclass(frozen=True)
class Settings:
    """The settings that all rows of a study share."""

    data: str
    recipe: str
    split: str = "val"
    epochs: int | None = None
    minutes: float | None = None
    fixed: dict[str, Any] = field(default_factory=dict)  # config values of all rows
    digits: bool = False  # the data are digit scenes, made where they are missing


def study_names() -> list[str]:
    """The studies shipped with the package."""
    files = resources.files("opendetr.studies").iterdir()
    return sorted(path.name.removesuffix(".toml") for path in files if path.name.endswith(".toml"))


def load_study(name: str) -> Study:
    """A shipped study.

    Raises:
        UserError: there is none of that name; names the nearest.
    """
    if name not in study_names():
        raise UserError(f"ablate {name}: unknown study; {nearest(name, study_names())}")
    content = tomllib.loads(resources.files("opendetr.studies").joinpath(f"{name}.toml").read_text(encoding="utf-8"))
    rows = [StudyRow(row["name"], row.get("set", {}), row.get("paper", {})) for row in content.pop("rows")]
    return Study(name=name, rows=rows, **content)


def choose_study(name: str | None, overrides: Sequence[str]) -> tuple[Study, dict[str, Any]]:
    """The shipped study of that name, or for None one of the overrides with several values, `section.key=VALUE,VALUE`.

    The other overrides, `section.key=VALUE`, are returned as config values that all its rows share.

    Raises:
        UserError: no such study, none at all, or two.
    """
    axes = parse_axes(overrides)
    several = {key: values for key, values in axes.items() if len(values) > 1}
    fixed = {key: values[0] for key, values in axes.items() if len(values) == 1}
    if name is not None and several:
        raise UserError(f"--set {next(iter(several))}: several values make a study of their own; leave out '{name}'")
    if name is not None:
        return load_study(name), fixed
    if not several:
        raise UserError(
            f"ablate needs a study or --set section.key=VALUE,VALUE; studies are: {', '.join(study_names())}"
        )
    return own_study(several), fixed


def own_study(axes: dict[str, list[Any]]) -> Study:
    """Every combination of the given values (dotted config name -> values); the first is the baseline.

    Raises:
        UserError: two rows would have one name or one folder.
    """
    rows = []
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values))
        rows.append(StudyRow(", ".join(f"{name}={value}" for name, value in chosen.items()), chosen))
    named: dict[str, str] = {}
    for row in rows:
        folder = row.folder.casefold()  # some file systems take upper and lower case for the same
        if folder in named:
            raise UserError(
                f"--set: the rows '{named[folder]}' and '{row.name}' would share the folder '{row.folder}'; give every "
                f"value once, and values that differ in more than signs and upper or lower case"
            )
        named[folder] = row.name
    return Study("own", "Study of " + " and ".join(axes), "Values given with --set.", rows[0].name, rows)


def parse_axes(texts: Sequence[str]) -> dict[str, list[Any]]:
    """`section.key=1,2,3` as a name with its values; values are TOML, and anything that is not is a text.

    Raises:
        UserError: there is no `=`, or no value after it.
    """
    axes = {}
    for text in texts:
        name, separator, values = text.partition("=")
        if not separator or not values.strip():
            raise UserError(f"--set {text}: expected section.key=VALUE or section.key=VALUE,VALUE,...")
        try:
            axes[name.strip()] = list(tomllib.loads(f"values = [{values}]")["values"])
        except tomllib.TOMLDecodeError:
            axes[name.strip()] = [value.strip() for value in values.split(",")]
    return axes
