"""Results on disk: written picture by picture, so that memory stays flat and what was done is never done again."""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from opendetr.errors import UserError
from opendetr.files import write_lines
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

    def positions(self, total: int) -> range:
        """The part's share of `total` pictures: every N-th, so that parts take equally long."""
        return range(self.number - 1, total, self.count)

    @property
    def name(self) -> str:
        """Of its results file."""
        return "detections.json" if self.count == 1 else f"detections.{self.number}-of-{self.count}.json"


class Results:
    """The detections of many pictures on their way to `detections.json`.

    A journal beside it, one line per picture, holds what is done until all is; work that was stopped goes on from it.
    """

    def __init__(self, folder: Path, shard: Shard, settings: dict[str, Any]) -> None:
        """Open the journal.

        Args:
            folder: where the results go.
            shard: the part of the work.
            settings: what the results depend on; a journal with other settings is begun anew.
        """
        self.path = folder / shard.name
        self.journal = folder / f".{shard.name}.journal"
        self.settings = json.loads(json.dumps(settings))
        self.offsets = self._read()  # position -> where its line begins
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

    def finish(self) -> int:
        """Write `detections.json`, in the order of the pictures, and forget the journal; returns their number."""
        self._file.flush()
        os.fsync(self._file.fileno())
        write_entries(self.path, self._entries())
        self.journal.unlink()
        return len(self.offsets)

    def _entries(self) -> Iterator[dict[str, Any]]:
        with self.journal.open("rb") as file:
            for position in sorted(self.offsets):
                file.seek(self.offsets[position])
                yield from json.loads(file.readline())[1]

    def _read(self) -> dict[int, int]:
        """Where the lines of an earlier journal with the same settings begin."""
        found: dict[int, int] = {}
        if not self.journal.is_file():
            return found
        with self.journal.open("rb") as file:
            try:
                if json.loads(file.readline()) != self.settings:
                    return {}
                self._end = file.tell()
                while line := file.readline():
                    found[json.loads(line)[0]] = self._end
                    self._end = file.tell()
            except (ValueError, IndexError, TypeError, KeyError):  # the last line, cut off
                pass
        return found


def merge_shards(folder: Path, count: int) -> Path | None:
    """`detections.json` of all parts, once the last of them is there; None before."""
    parts = [folder / Shard(number, count).name for number in range(1, count + 1)]
    if not all(part.is_file() for part in parts):
        return None
    entries = [entry for part in parts for entry in json.loads(part.read_text(encoding="utf-8"))]
    entries.sort(key=lambda entry: entry["image_id"])
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
