"""Results on disk: written picture by picture, so that memory stays flat and what was done is never done again."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from opendetr.errors import UserError
from opendetr.files import write_json, write_lines
from opendetr.inference.sources import SourcePicture
from opendetr.progress import console


@dataclass(frozen=True)
class Shard:
    """One of several equal parts of the work, each done by a machine of its own."""

    number: int = 1  # from 1
    count: int = 1

    @classmethod
    def parse(cls, text: str | None) -> "Shard":
        """`2/4`, the second of four; all of it where nothing is given.

        Raises:
            UserError: it is anything else.
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

    A journal beside it, one line per picture, holds what is done until all is; work that was stopped goes on from it.
    """

    def __init__(self, folder: Path, shard: Shard, settings: dict[str, Any], *, continues: bool = True) -> None:
        """Open the journal.

        Args:
            folder: where the results go.
            shard: the part of the work.
            settings: what the results depend on.
            continues: work that was stopped goes on; a video begins anew.

        Raises:
            UserError: work that was begun there with other settings is not finished.
        """
        self.path, self.shard = folder / shard.name, shard
        self.journal = folder / f".{shard.name}.journal"
        self.settings = json.loads(json.dumps(settings))
        earlier = self._read(continues)
        self.offsets = earlier if continues else {}  # position -> where its line begins
        if self.offsets:
            console.print(f"{len(self.offsets)} pictures are done; the work goes on from {self.journal}")
        self._file: Any = None

    def __enter__(self) -> "Results":
        if self.offsets:
            self._file = self.journal.open("rb+")
            self._file.truncate(self._end)  # a line that was cut off
            self._file.seek(self._end)
        else:
            self._file = self.journal.open("wb")
            self._file.write(json.dumps(self.settings).encode() + b"\n")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def add(self, position: int, entries: list[dict[str, Any]]) -> None:
        """Keep the detections of one picture."""
        self.offsets[position] = self._file.tell()
        self._file.write(json.dumps([position, entries]).encode() + b"\n")
        self._file.flush()

    def finish(self, left_out: int = 0) -> int:
        """Write the results in the order of the pictures and forget the journal; returns the number of pictures.

        Beside a shard's stands what it depends on, so that only parts of one work are put together, and how many
        pictures were left out.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        if self.shard.count > 1:
            self.path.unlink(missing_ok=True)  # it may be of other settings
            write_json(_about_path(self.path), {"settings": _digest(self.settings), "left_out": left_out})
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
            self._require_same(json.loads(first), continues)
            self._end = file.tell()
            while (line := file.readline()).endswith(b"\n"):  # the last line may have been cut off
                try:
                    found[json.loads(line)[0]] = self._end
                except ValueError:
                    break
                self._end = file.tell()
        return found

    def _require_same(self, earlier: dict[str, Any], continues: bool) -> None:
        if not continues and earlier.keys() == self.settings.keys():
            return
        differ = [
            name for name in self.settings.keys() | earlier.keys() if self.settings.get(name) != earlier.get(name)
        ]
        if differ:
            raise UserError(
                f"{self.path.parent} holds unfinished work with other settings ({', '.join(sorted(differ))} differ): "
                f"give those again to go on, choose another --output, or remove {self.journal}"
            )


def is_finished(folder: Path, shard: Shard, settings: dict[str, Any]) -> bool:
    """Whether a part of exactly this work is there, with every picture of it."""
    path = folder / shard.name
    return path.is_file() and _about(path) == {"settings": _digest(settings), "left_out": 0}


def merge_shards(folder: Path, count: int, settings: dict[str, Any], pictures: Sequence[SourcePicture]) -> Path | None:
    """`detections.json` of all parts, as one run writes it, once the last of them is there; None before.

    Args:
        folder: of the parts.
        count: of the parts.
        settings: of the work; parts of another work that were left there do not count.
        pictures: of all parts.
    """
    parts = [folder / Shard(number, count).name for number in range(1, count + 1)]
    digest = _digest(settings)
    if not all(part.is_file() and _about(part).get("settings") == digest for part in parts):
        return None
    turn = {(picture.file_name, picture.image_id): picture.position for picture in pictures}
    entries = [entry for part in parts for entry in json.loads(part.read_text(encoding="utf-8"))]
    entries.sort(key=lambda entry: turn[entry["file_name"], entry["image_id"]])
    target = folder / Shard().name
    write_entries(target, iter(entries))
    return target


def write_entries(path: Path, entries: Iterable[dict[str, Any]]) -> None:
    """Write COCO results, one line each; they need not fit in memory."""

    def lines() -> Iterator[str]:
        yield "["
        for number, entry in enumerate(entries):
            yield ("," if number else "") + json.dumps(entry, allow_nan=False)
        yield "]"

    write_lines(path, lines())


def _about_path(part: Path) -> Path:
    return part.with_name(f".{part.name}.settings")


def _about(part: Path) -> dict[str, Any]:
    """What a part depends on and lacks; nothing where that is not known."""
    try:
        found = json.loads(_about_path(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest(settings: dict[str, Any]) -> str:
    """Of all but the engine: each machine may have its own, and all of them agree with PyTorch."""
    common = {name: value for name, value in settings.items() if name != "engine"}
    return hashlib.blake2b(json.dumps(common, sort_keys=True).encode(), digest_size=16).hexdigest()
