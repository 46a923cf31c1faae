"""Results on disk, written picture by picture: memory does not grow, and stopped work can be continued."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from opendetr.errors import UserError
from opendetr.files import read_note, write_json, write_lines
from opendetr.inference.sources import SourcePicture
from opendetr.progress import console
from opendetr.wording import counted


@dataclass(frozen=True)
class Shard:
    """One of several equal parts of the work, each done by a machine of its own."""

    number: int = 1  # from 1
    count: int = 1

    @classmethod
    def parse(cls, text: str | None) -> "Shard":
        """`2/4` is the second of four; None is all of the work.

        Raises:
            UserError: the text is anything else.
        """
        if text is None:
            return cls()
        number, _, count = text.partition("/")
        if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
            raise UserError(f"--shards {text}: expected I/N, part I of N, e.g. 2/4")
        return cls(int(number), int(count))

    def of(self, pictures: Sequence[SourcePicture]) -> Sequence[SourcePicture]:
        """The part's share of all pictures: every N-th, so that parts take equally long."""
        return pictures[self.number - 1 :: self.count]

    @property
    def name(self) -> str:
        """Of its results file."""
        return "detections.json" if self.count == 1 else f"detections.{self.number}-of-{self.count}.json"


class Results:
    """The detections of many pictures on their way to `detections.json`.

    A journal beside it, one line per picture, holds the results until all are there; stopped work continues from it.
    """

    def __init__(
        self, folder: Path, shard: Shard, settings: dict[str, Any], *, continues: bool = True, name: str | None = None
    ) -> None:
        """Read the journal in the folder; stopped work is continued, unless `continues` is False (a video).

        `name` is that of the results file, by default the shard's.

        Raises:
            UserError: the folder holds unfinished work with other settings.
        """
        self.path, self.shard = folder / (name or shard.name), shard
        self.journal = _journal_path(self.path)
        self.settings = json.loads(json.dumps(settings))
        self.sizes: dict[int, tuple[int, int]] = {}  # position -> height, width of the picture
        earlier = self._read(continues)
        self.offsets = earlier if continues else {}  # position -> where its line begins
        self.sizes = self.sizes if continues else {}
        if self.offsets:
            done = counted(len(self.offsets), "picture is", "pictures are")
            console.print(f"{done} done; continuing from {self.journal}")
        self._file: Any = None

    def __enter__(self) -> "Results":
        if self.offsets:
            self._file = self.journal.open("rb+")
            self._file.truncate(self._end)  # a line that was cut off
            self._file.seek(self._end)
        else:
            self._file = self.journal.open("wb")
            self._file.write(json.dumps(self.settings).encode() + b"\n")
            self._file.flush()  # other parts of the work look for it
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def add(self, position: int, entries: list[dict[str, Any]], size: tuple[int, int]) -> None:
        """Keep the detections of one picture of `size` (height, width)."""
        self.offsets[position], self.sizes[position] = self._file.tell(), size
        self._file.write(json.dumps([position, entries, size]).encode() + b"\n")
        self._file.flush()

    def finish(self, left_out: int = 0) -> int:
        """Write the results in the order of the pictures and remove the journal; returns the number of pictures.

        A shard also gets a file with a hash of its settings, so that only parts of one work are merged, the number of
        pictures that were left out, and the sizes of the others.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        if self.shard.count > 1:
            self.path.unlink(missing_ok=True)  # it may have other settings
            about = {"settings": _digest(self.settings), "left_out": left_out, "sizes": list(self.sizes.items())}
            write_json(_about_path(self.path), about)
        write_entries(self.path, self._entries())
        self._file.close()  # Windows removes no file that is open
        self.journal.unlink()
        return len(self.offsets)

    def _entries(self) -> Iterator[dict[str, Any]]:
        with self.journal.open("rb") as file:
            for position in sorted(self.offsets):
                file.seek(self.offsets[position])
                yield from json.loads(file.readline())[1]

    def _read(self, continues: bool) -> dict[int, int]:
        """Where the lines of an earlier journal with the same settings begin."""
        found: dict[int, int] = {}
        if not self.journal.is_file():
            return found
        with self.journal.open("rb") as file:
            first = file.readline()
            if not first.endswith(b"\n"):  # nothing was done yet
                return found
            earlier = json.loads(first)
            self._end = file.tell()
            while (line := file.readline()).endswith(b"\n"):  # the last line may have been cut off
                try:
                    position, _, size = json.loads(line)
                    found[position], self.sizes[position] = self._end, tuple(size)
                except ValueError:
                    break
                self._end = file.tell()
        if found:
            self._require_same(earlier, continues)
        return found

    def _require_same(self, earlier: dict[str, Any], continues: bool) -> None:
        if not continues and earlier.keys() == self.settings.keys():
            return
        names = self.settings.keys() | earlier.keys()
        if differ := [name for name in names if self.settings.get(name) != earlier.get(name)]:
            raise UserError(
                f"{self.path.parent} holds unfinished work with other settings ({', '.join(sorted(differ))} differ): "
                f"give those again to continue it, choose another --output, or remove {self.journal}"
            )


def is_finished(folder: Path, shard: Shard, settings: dict[str, Any]) -> bool:
    """Whether a part of exactly this work is there, with all its pictures."""
    path = folder / shard.name
    about = read_note(_about_path(path))
    return path.is_file() and about.get("settings") == _digest(settings) and about.get("left_out") == 0


def pictures_left(folder: Path, shard: Shard, pictures: int) -> int:
    """How many of a shard's `pictures` are to do, if what is in the folder is of the same work.

    An estimate without the model, whose settings `is_finished` compares.
    """
    part = folder / shard.name
    if shard.count > 1 and part.is_file() and read_note(_about_path(part)).get("left_out") == 0:
        return 0
    try:
        with _journal_path(part).open("rb") as file:
            return max(0, pictures - sum(1 for _ in file) + 1)  # the first line has the settings
    except OSError:
        return pictures


def is_begun(folder: Path, count: int, settings: dict[str, Any]) -> bool:
    """Whether a part of exactly this work, in `count` parts, has begun or is finished."""
    digest = _digest(json.loads(json.dumps(settings)))

    def begun(part: Path) -> bool:
        return read_note(_about_path(part)).get("settings") == digest or _header(_journal_path(part)) == digest

    return any(begun(folder / Shard(number, count).name) for number in range(1, count + 1))


def merge_shards(folder: Path, count: int, settings: dict[str, Any], pictures: Sequence[SourcePicture]) -> Path | None:
    """Write `detections.json` of all parts, as one run writes it; None while a part with these settings is missing."""
    parts = [folder / Shard(number, count).name for number in range(1, count + 1)]
    digest = _digest(settings)
    if not all(part.is_file() and read_note(_about_path(part)).get("settings") == digest for part in parts):
        return None
    turn = {(picture.file_name, picture.image_id): picture.position for picture in pictures}
    entries = [entry for part in parts for entry in json.loads(part.read_text(encoding="utf-8"))]
    entries.sort(key=lambda entry: turn[entry["file_name"], entry["image_id"]])
    target = folder / Shard().name
    write_entries(target, iter(entries))
    return target


def sizes_of_shards(folder: Path, count: int) -> dict[int, tuple[int, int]]:
    """Height and width of the pictures of all parts, by position."""
    notes = [read_note(_about_path(folder / Shard(number, count).name)) for number in range(1, count + 1)]
    return {position: (height, width) for note in notes for position, (height, width) in note["sizes"]}


class StoredEntries:
    """COCO results in a file that `write_entries` wrote: each iteration reads them again, one at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                if (entry := line.strip().lstrip(",")) not in ("[", "]"):
                    yield json.loads(entry)


def write_entries(path: Path, entries: Iterable[dict[str, Any]]) -> None:
    """Write COCO results, one line each; they need not fit in memory."""

    def lines() -> Iterator[str]:
        yield "["
        for number, entry in enumerate(entries):
            yield ("," if number else "") + json.dumps(entry, allow_nan=False)
        yield "]"

    write_lines(path, lines())


def _journal_path(results: Path) -> Path:
    return results.with_name(f".{results.name}.journal")


def _header(journal: Path) -> str | None:
    """The hash of the settings that a journal begins with; None where there is none."""
    try:
        with journal.open("rb") as file:
            return _digest(json.loads(file.readline()))
    except (OSError, ValueError):
        return None


def _about_path(part: Path) -> Path:
    return part.with_name(f".{part.name}.settings")


def _digest(settings: dict[str, Any]) -> str:
    """A hash of all settings but the engine: each machine may have its own, and all agree with PyTorch."""
    common = {name: value for name, value in settings.items() if name != "engine"}
    return hashlib.blake2b(json.dumps(common, sort_keys=True).encode(), digest_size=16).hexdigest()
