"""What `--data`, `--classes` and `--rename` mean: one or several data sets, with some classes kept or renamed."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from opendetr.config import DataConfig
from opendetr.errors import UserError, nearest
from opendetr.locations import FilePath, file_path

DataRoots = str | FilePath | Sequence[str | FilePath]  # a data set, or several that are joined
Renames = Mapping[str, str] | str | Iterable[str]  # old and new names of classes, or texts old=new


@dataclass(frozen=True)
class DataSource:
    """Data sets that are joined by the names of their classes.

    Args:
        roots: folders, zip archives, or addresses that fsspec opens; at least one.
        classes: the classes that are kept, by their names after renaming; a text may hold several, with commas
            between. None keeps all.
        renamed: `old=new` for every class with another name; classes of one name become one.
        voc_origin: the number of the first pixel in Pascal VOC's coordinates.
        val_share: the share of the pictures of train that are val; 0 leaves the splits as they are.
        split_seed: chooses these pictures.
    """

    roots: tuple[str, ...]
    classes: tuple[str, ...] = ()
    renamed: tuple[str, ...] = ()
    voc_origin: int = 0
    val_share: float = 0.0
    split_seed: int = 0

    def __post_init__(self) -> None:
        if self.voc_origin not in (0, 1):
            raise UserError(f"--voc-origin {self.voc_origin}: expected 0 or 1, the number of the first pixel")
        if not 0 <= self.val_share < 1:
            raise UserError(f"--val-share {self.val_share:g}: expected a share above 0 and below 1, such as 0.2")
        for text in self.renamed:
            old, equals, new = text.partition("=")
            if not (equals and old.strip() and new.strip()):
                raise UserError(f"--rename {text}: expected OLD=NEW, the names of a class, e.g. --rename car=vehicle")

    @classmethod
    def of(
        cls, data: DataRoots, classes: str | Iterable[str] | None = None, rename: Renames | None = None,
        voc_origin: int = 0,
    ) -> "DataSource":  # fmt: skip
        """As users give them; folders of this machine become absolute."""
        several: list[str | FilePath] = [data] if isinstance(data, str | FilePath) else list(data)
        if not several or not all(map(str, several)):
            raise UserError("--data is empty: give the folder of a data set")
        return cls(tuple(map(_absolute, several)), texts_of(classes), texts_of(rename), voc_origin)

    @classmethod
    def of_config(cls, config: DataConfig) -> "DataSource":
        """The data of a run."""
        return cls(
            (config.root, *config.more_roots), config.classes, config.renamed, config.voc_origin, config.val_share,
            config.split_seed,
        )  # fmt: skip

    def to_config(self) -> dict[str, str | float | tuple[str, ...]]:
        """The values of a run's config."""
        first, *others = self.roots
        return {
            "data.root": first, "data.more_roots": tuple(others), "data.classes": self.classes,
            "data.renamed": self.renamed, "data.voc_origin": self.voc_origin, "data.val_share": self.val_share,
            "data.split_seed": self.split_seed,
        }  # fmt: skip

    @property
    def is_joined(self) -> bool:
        """Whether names alone say which class is which: ids may be those of several sets."""
        return len(self.roots) > 1 or bool(self.renamed)

    @property
    def name(self) -> str:
        """The name of the first set, for a folder of results."""
        path = PurePath(self.roots[0].rpartition("::")[2].rpartition("://")[2])
        return path.stem if path.suffix.lower() == ".zip" else path.name

    def missing(self) -> str | None:
        """The first set that is not there."""
        return next((root for root in self.roots if not file_path(root).exists()), None)

    def as_options(self) -> list[str]:
        """The options of a command that read the same data."""
        given = [("--data", self.roots), ("--classes", self.classes), ("--rename", self.renamed)]
        words = [word for option, values in given for value in values for word in (option, value)]
        return words + (["--voc-origin", str(self.voc_origin)] if self.voc_origin else [])

    def narrowed(self, classes: str | Iterable[str] | None, rename: Renames | None) -> "DataSource":
        """The same sets with other classes, where any are given."""
        return replace(self, classes=texts_of(classes) or self.classes, renamed=texts_of(rename) or self.renamed)

    def __str__(self) -> str:
        return " and ".join(self.roots)

    def new_names(self, names: Sequence[str]) -> list[str]:
        """The names of classes after renaming."""
        pairs = dict(_pair(text, names) for text in self.renamed)
        return [pairs.get(name, name) for name in names]

    def require_known(self, names: set[str], all_names: Callable[[], set[str]]) -> None:
        """Check that the classes that are named are there.

        Args:
            names: those of the split.
            all_names: gives those of all splits, where a name is not among `names`.

        Raises:
            UserError: with the nearest name.
        """
        for option, wanted in (("--rename", self._old_names), ("--classes", self._wanted)):
            if wanted(names) and (lacking := wanted(every := all_names())):
                known = every if option == "--rename" else set(self.new_names(sorted(every)))
                raise UserError(f"{option} {lacking[0]}: {self} has no such class; {nearest(lacking[0], known)}")

    def _old_names(self, names: set[str]) -> list[str]:
        """The old names that are not among these."""
        return [old for old, _ in (_pair(text, names) for text in self.renamed) if old not in names]

    def _wanted(self, names: set[str]) -> list[str]:
        """The classes to keep whose names are not among these."""
        after = set(self.new_names(sorted(names)))
        return sorted(self.kept_names(after) - after)

    def kept_names(self, names: Iterable[str]) -> set[str]:
        """The names that `classes` asks for; those it could mean where a text is none of `names`."""
        known = set(names)
        kept: set[str] = set()
        for text in self.classes:
            kept |= {text} if text in known else {part.strip() for part in text.split(",") if part.strip()}
        return kept


def config_of(
    data: DataRoots | None, classes: str | Iterable[str] | None = None, rename: Renames | None = None
) -> dict[str, Any]:
    """The values of a run's config that are asked for; what is None or empty is not."""
    values: dict[str, Any] = {}
    if data is not None:
        values = DataSource.of(data).to_config()
        values = {name: values[name] for name in ("data.root", "data.more_roots")}
    if classes:
        values["data.classes"] = texts_of(classes)
    if rename:
        values["data.renamed"] = texts_of(rename)
    return values


def texts_of(given: Mapping[str, str] | str | Iterable[str] | None) -> tuple[str, ...]:
    """Options that are given as one text, as several, or as old and new names."""
    if given is None:
        return ()
    if isinstance(given, Mapping):
        return tuple(f"{old}={new}" for old, new in given.items())
    return (given,) if isinstance(given, str) else tuple(given)


def _absolute(data: str | FilePath) -> str:
    text = str(data)
    return text if "://" in text else str(Path(text).resolve())


def _pair(text: str, names: Collection[str]) -> tuple[str, str]:
    """Old and new name; names may have an equals sign."""
    pairs = [(text[:at].strip(), text[at + 1 :].strip()) for at, letter in enumerate(text) if letter == "="]
    return next((pair for pair in pairs if pair[0] in names), pairs[0])
