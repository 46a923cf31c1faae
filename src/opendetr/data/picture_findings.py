"""Findings about the files of pictures: damaged, uniform, doubled, in two splits, not listed. They read every file."""

import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from opendetr.cores import available_cores
from opendetr.data.check import require_size
from opendetr.data.findings import Finding, PicturePlace, Severity, Splits
from opendetr.data.index import DatasetIndex, Record
from opendetr.data.near_duplicates import SIDE, difference_hash, near_pairs
from opendetr.data.split_names import APART, usual_name
from opendetr.decoding import decoded, picture_suffixes
from opendetr.errors import UserError
from opendetr.images import QUARTER_TURNS
from opendetr.locations import file_path
from opendetr.pixels import orientation_of, to_rgb
from opendetr.progress import show_progress
from opendetr.wording import counted

UNIFORM = 1.0  # standard deviation of all values, 0..255, below which a picture shows nothing


class Glance(NamedTuple):
    """What one reading of a picture's file tells."""

    hash: np.ndarray  # [256] bool, of `difference_hash`
    spread: float  # standard deviation of its values, 0..255
    problem: str  # why it cannot be used; empty where it can be


NOT_READ = Glance(np.zeros(SIDE * SIDE, dtype=bool), UNIFORM, "")


def glance_at(index: DatasetIndex, seconds: float = float("inf")) -> list[Glance]:
    """Read every picture of a split once, by several threads, with a bar; after `seconds` no further one."""
    deadline = time.monotonic() + seconds

    def glance(record: Record) -> Glance:
        if time.monotonic() > deadline:
            return NOT_READ
        try:
            small, size = decoded(record.path, str(record.path), _small_copy)
            require_size(record, size, index)
        except UserError as error:
            return Glance(np.zeros(SIDE * SIDE, dtype=bool), UNIFORM, str(error))
        return Glance(difference_hash(small), float(np.asarray(small, dtype=np.float32).std()), "")

    with ThreadPoolExecutor(available_cores()) as threads:
        found = threads.map(glance, index.records)
        return list(show_progress(found, f"reading {index.source.name}", len(index)))


def _small_copy(image: Image.Image) -> tuple[Image.Image, tuple[int, int]]:
    """A picture in RGB, of a JPEG at an eighth of its size, and the upright size of the whole."""
    width, height = image.size
    drafted = image.draft("RGB", (max(SIDE, width // 8), max(SIDE, height // 8)))
    turned = orientation_of(image) in QUARTER_TURNS
    small = to_rgb(image)
    if drafted is None:
        return small, small.size
    return small, (height, width) if turned else (width, height)


def examine_pictures(splits: Splits, glances: Mapping[str, list[Glance]]) -> Iterator[Finding]:
    """Findings about the files of all splits; `glances` are those of `glance_at`, by split."""
    for split, index in splits.items():
        if unread := sum(one is NOT_READ for one in glances[split]):
            said = f"{split}: {unread:,} of {counted(len(index), 'picture')} were not read: there was no time"
            yield Finding(Severity.NOTE, "not read", said, unread)
        broken = [at for at, one in enumerate(glances[split]) if one.problem]
        if broken:
            said = (
                f"{split}: {counted(len(broken), 'picture cannot', 'pictures cannot')} be used: "
                f"{glances[split][broken[0]].problem}"
            )
            yield Finding(Severity.ERROR, "picture cannot be used", said, len(broken), _pictures(split, broken))
        plain = [at for at, one in enumerate(glances[split]) if one.spread < UNIFORM and not one.problem]
        if plain:
            said = (
                f"{split}: {counted(len(plain), 'picture shows', 'pictures show')} one colour only, first "
                f"{index.paths[plain[0]]}: remove them"
            )
            yield Finding(Severity.WARNING, "uniform picture", said, len(plain), _pictures(split, plain))
    yield from _listed_twice(splits)
    yield from _alike(splits, glances)
    yield from _letter_case(splits)


def _pictures(split: str, positions: list[int]) -> tuple[PicturePlace, ...]:
    return tuple(PicturePlace(split, at) for at in positions)


def _real(path: str) -> str:
    return path if "://" in path else os.path.realpath(path)


def parts_of_others(splits: Splits) -> list[str]:
    """Splits of unusual names that list only pictures of other splits, such as trainval; they need no second look."""
    files = {split: {_real(path) for path in index.paths} for split, index in splits.items()}
    found: list[str] = []
    for split in splits:
        others = [files[other] for other in splits if other != split and other not in found]
        if usual_name(split) not in APART and others and files[split] <= set().union(*others):
            found.append(split)
    return found


def _listed_twice(splits: Splits) -> Iterator[Finding]:
    """Pairs of splits that list the same files."""
    names = list(splits)
    files = {split: {_real(path): at for at, path in enumerate(index.paths)} for split, index in splits.items()}
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            if both := sorted(files[one].keys() & files[other].keys()):
                said = f"{other} lists {counted(len(both), 'picture')} of {one}, first {both[0]}: what is learned from "
                said += "one cannot be measured on the other"
                places = _pictures(other, [files[other][path] for path in both])
                matters = {one, other} & {"val", "test"} and "train" in (one, other)
                severity = Severity.WARNING if matters else Severity.NOTE
                yield Finding(severity, "listed in two splits", said, len(both), places)


def _alike(splits: Splits, glances: Mapping[str, list[Glance]]) -> Iterator[Finding]:
    """Different files that show the same, within a split or across splits."""
    first_place: dict[str, PicturePlace] = {}
    splits_of: dict[str, set[str]] = {}
    hashes = []
    for split, index in splits.items():
        for at, path in enumerate(index.paths):
            real = _real(path)
            if real not in first_place:
                first_place[real] = PicturePlace(split, at)
                hashes.append(glances[split][at].hash)
            splits_of.setdefault(real, set()).add(split)
    files = list(first_place)
    pairs = near_pairs(np.array(hashes).reshape(-1, SIDE * SIDE))
    kinds: dict[str, list[tuple[str, str]]] = {}
    for one, other in pairs:
        a, b = files[one], files[other]
        where = "across splits" if splits_of[a] != splits_of[b] else "within a split"
        what = "copies" if _same_bytes(a, b) else "near duplicates"
        kinds.setdefault(f"{what} {where}", []).append((a, b))
    for kind, those in kinds.items():
        a, b = those[0]
        in_words = [f"{file_path(path).name} ({', '.join(sorted(splits_of[path]))})" for path in (a, b)]
        advice = "keep them on one side" if "across" in kind else "keep one of each"
        said = f"{counted(len(those), 'pair of pictures shows', 'pairs of pictures show')} the same ({kind}), first "
        said += f"{in_words[0]} and {in_words[1]}: {advice}"
        severity = Severity.WARNING if "across" in kind or "copies" in kind else Severity.NOTE
        places = tuple(first_place[path] for pair in those for path in pair)
        yield Finding(severity, kind, said, len(those), places)


def _same_bytes(one: str, other: str) -> bool:
    first, second = file_path(one), file_path(other)
    return first.stat().st_size == second.stat().st_size and first.read_bytes() == second.read_bytes()


def _letter_case(splits: Splits) -> Iterator[Finding]:
    """Files whose names differ in letter case only: one file on Windows and macOS."""
    names: dict[str, str] = {}
    clashes = []
    for path in dict.fromkeys(path for index in splits.values() for path in index.paths):
        if names.setdefault(path.casefold(), path) != path:
            clashes.append((names[path.casefold()], path))
    if clashes:
        one, other = (file_path(path).name for path in clashes[0])
        said = (
            f"{counted(len(clashes), 'pair of files has', 'pairs of files have')} names that differ in letter case "
            f"only, first {one} and {other}: on Windows and macOS they are one file; rename them"
        )
        yield Finding(Severity.WARNING, "letter case", said, len(clashes))


def not_listed(splits: Splits) -> Iterator[Finding]:
    """Pictures in the folders of listed ones that no split lists, where these are all splits of the data set."""
    known = {_real(path) for index in splits.values() for path in index.paths}
    folders = {str(file_path(path).parent) for index in splits.values() for path in index.paths}
    found = sorted(
        str(path)
        for folder in folders
        for path in file_path(folder).iterdir()
        if path.suffix.lower() in picture_suffixes() and not path.name.startswith(".") and _real(str(path)) not in known
    )
    if found:
        said = f"{counted(len(found), 'picture is', 'pictures are')} on disk but not listed, first {found[0]}"
        yield Finding(Severity.NOTE, "not listed", said, len(found))
