"""The log of a label review: every decision is on the disk before it counts, and can be undone; nothing is overwritten.

A line of `SPLIT.decisions.jsonl` is a decision, or the undoing of one. `SPLIT.corrected.json`, beside it, is the labels
with the decisions made; it follows from source and log, and is written anew whenever the log has grown. The first line
tells by a fingerprint of what labels the log is: to others it says nothing.
"""

import hashlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from opendetr.data.corrections import ENDING, Correction, Edit, annotation_ids, corrected, id_of
from opendetr.errors import UserError
from opendetr.files import append_line, read_json_lines, sync, write_text
from opendetr.raw_values import RawId, next_free

WAITED = 5.0  # seconds for another program that writes a decision


class Conflict(Exception):  # noqa: N818 - what happened, as the answer says it
    """Another window has decided meanwhile; the message is a sentence. The log is as the other one left it."""


@dataclass(frozen=True)
class Decision:
    """A line of the log that decides."""

    number: int  # of the line, from 0
    correction: Correction
    at: str  # when
    is_live: bool  # whether it was not undone

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"number": self.number, "at": self.at, "live": self.is_live, **self.correction.to_json()}


class LabelLog:
    """The decisions about one split, in files that several programs may write.

    Args:
        coco: the labels of the split as the content of a COCO file.
        split: its name.
        folder: where the files are, once something is decided.

    Raises:
        UserError: the decisions there are about other labels, or a corrected file is there without them.
    """

    def __init__(self, coco: Mapping[str, Any], split: str, folder: Path) -> None:
        self.coco, self.split = coco, split
        self.path, self.corrected = folder / f"{split}.decisions.jsonl", folder / f"{split}{ENDING}.json"
        self._annotations = dict(zip(annotation_ids(coco), coco["annotations"]))
        self._first_id = next_free(self._annotations)
        self._of_image: dict[Any, dict[RawId, Mapping[str, Any]]] = defaultdict(dict)
        for own_id, one in self._annotations.items():
            self._of_image[id_of(one, "image_id")][own_id] = one
        self._sizes = {id_of(one): (one.get("width"), one.get("height")) for one in coco["images"]}
        self._categories = {id_of(one) for one in coco["categories"]}
        self._seen: tuple[int, int] | None = None
        self._lines: list[dict[str, Any]] = []
        self._written = -1  # lines that the corrected file holds
        self._fingerprint = _fingerprint(coco)
        self._require_own()

    @property
    def version(self) -> int:
        """How many lines the log has."""
        return len(self._read())

    @property
    def decisions(self) -> list[Decision]:
        """All decisions in their order, those that were undone too."""
        lines = self._read()
        undone = {line.get("undo") for line in lines}
        found = []
        for number, line in enumerate(lines):
            with suppress(ValueError):  # a line that undoes, or one of a later version
                found.append(Decision(number, Correction.from_json(line), str(line.get("at")), number not in undone))
        return found

    def decide(self, values: Mapping[str, Any], version: int) -> Decision:
        """Write a decision; when this returns, it is on the disk.

        Args:
            values: of a `Correction`, as JSON has them; an added object needs no id.
            version: how many lines of the log whoever decides has seen.

        Raises:
            UserError: what is decided fits neither the labels nor a picture of the split.
            Conflict: another one has decided about the same meanwhile.
        """
        with _locked(self.path):
            values = dict(values)
            if values.get("edit") == Edit.ADD:
                values["annotation"] = self._first_id + self.version
            try:
                correction = Correction.from_json(values)
            except ValueError as error:
                raise UserError(f"this is no decision: {error}") from None
            place = correction.bbox or (0, 0, 0, 0)
            about = None if correction.edit == Edit.ADD else correction.annotation
            for other in self.decisions:
                if other.is_live and other.number >= version and other.correction.is_about(
                    correction.image_id, about, place
                ):  # fmt: skip
                    raise Conflict("another window has decided about this object meanwhile; here is what it decided")
            self._require_fitting(correction)
            line = correction.to_json() | {"at": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
            if correction.edit != Edit.ADD and correction.annotation is not None:
                before = self.labels_of(correction.image_id)[correction.annotation]
                line["was"] = {name: before.get(name) for name in ("category_id", "bbox")}
            return Decision(self._append(line), correction, line["at"], True)

    def undo(self, version: int) -> Decision | None:
        """Undo the latest decision that counts; None where there is none.

        Raises:
            Conflict: the log has grown since its `version` lines were seen.
        """
        with _locked(self.path):
            live = [one for one in self.decisions if one.is_live]
            if version != self.version:
                raise Conflict("another window has decided or undone meanwhile; nothing was undone")
            if not live:
                return None
            self._append({"undo": live[-1].number, "at": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
            return live[-1]

    def corrected_labels(self) -> dict[str, Any]:
        """The content of the corrected file."""
        live = (one.correction for one in self.decisions if one.is_live)
        return {**self.coco, "annotations": list(corrected(self._annotations, live).values())}

    def labels_of(self, image_id: RawId) -> dict[RawId, Mapping[str, Any]]:
        """The annotations of one picture by their ids, with the decisions made."""
        live = [one.correction for one in self.decisions if one.is_live and one.correction.image_id == image_id]
        return corrected(self._of_image.get(image_id, {}), live)

    def is_behind(self) -> bool:
        """Whether the corrected file lacks decisions, as after a program that was killed."""
        if not self.version or self._written == self.version:
            return False
        return not self.corrected.exists() or self.corrected.stat().st_mtime_ns < self.path.stat().st_mtime_ns

    def write_corrected(self) -> int:
        """Write the corrected file where the log has grown since; returns how many lines of the log it holds.

        Nothing is written without a decision. Others may decide while it is written.
        """
        if not self.version:
            return 0
        with _locked(self.corrected):  # of two programs, the one that writes later has read later
            with _locked(self.path):
                version, labels = self.version, self.corrected_labels()
            if version != self._written:
                write_text(self.corrected, "".join(_json_pieces(labels)), durable=True)
            self._written = version
        return version

    def _require_own(self) -> None:
        """Check that the files there are about these labels."""
        log, file, split = self.path.name, self.corrected.name, self.split
        if not self.version:
            if self.corrected.exists():
                raise UserError(
                    f"{file} is there without its decisions, {log}, and would be overwritten: put the decisions beside "
                    f"it to continue, or rename {file} to begin anew"
                )
        elif self._read()[0].get("source") != self._fingerprint:
            raise UserError(
                f"the decisions in {log} are about other labels: those of split '{split}' have changed since. Put the "
                f"old labels back to continue, or move {log} and {file} away to begin anew"
            )

    def _require_fitting(self, one: Correction) -> None:
        """Check what a decision names against the labels."""
        if one.image_id not in self._sizes:
            raise UserError(f"image {one.image_id} is not in split '{self.split}'; reload the page")
        if one.category_id is not None and one.category_id not in self._categories:
            raise UserError(f"category {one.category_id} is not in split '{self.split}'; choose one of its classes")
        if one.edit != Edit.ADD and one.annotation is not None and one.annotation not in self.labels_of(one.image_id):
            raise UserError(
                f"image {one.image_id} of split '{self.split}' has no annotation {one.annotation}, or none any more; "
                f"reload the page"
            )
        width, height = self._sizes[one.image_id]
        if one.bbox is not None and isinstance(width, int) and isinstance(height, int):
            x, y, w, h = one.bbox
            if min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0):
                raise UserError(f"the box {list(one.bbox)} lies outside its picture of {width}x{height} pixels")

    def _append(self, line: Mapping[str, Any]) -> int:
        self._require_own()  # another program may have begun it
        number = self.version
        self._cut_incomplete_line()
        append_line(self.path, json.dumps(line if number else {"source": self._fingerprint, **line}))
        sync(self.path)
        if not number:
            sync(self.path.parent)
        return number

    def _cut_incomplete_line(self) -> None:
        """Remove the end of a log whose program was killed while it wrote: nobody was told that this line counts."""
        if self.path.exists():
            content = self.path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.truncate(self.path, whole)

    def _read(self) -> list[dict[str, Any]]:
        """The lines, which are read again where the file has changed."""
        try:
            state = self.path.stat()
        except FileNotFoundError:
            self._seen, self._lines = None, []
            return self._lines
        seen = (state.st_size, state.st_mtime_ns)
        if seen != self._seen:
            values, _ = read_json_lines(self.path)
            self._lines, self._seen = [one for one in values if isinstance(one, dict)], seen
        return self._lines


def _locked(path: Path) -> FileLock:
    """No two programs write a file at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.lock"), timeout=WAITED)


def _fingerprint(coco: Mapping[str, Any]) -> str:
    """Tells the content of a COCO file from any other."""
    digest = hashlib.blake2b(digest_size=16)
    for piece in _json_pieces(coco):
        digest.update(piece.encode())
    return digest.hexdigest()


def _json_pieces(values: Mapping[str, Any]) -> Iterator[str]:
    """A COCO file in pieces, an entry a line: encoding one large text would stop all other threads meanwhile."""
    before = "{"
    for name, value in values.items():
        yield f"{before}{json.dumps(name)}: "
        before = ",\n"
        if isinstance(value, list) and value:
            for number, one in enumerate(value):
                yield f"{',' if number else '['}\n{json.dumps(one)}"
            yield "]"
        else:
            yield json.dumps(value)
    yield "}\n"


def writable_folder(folder: Path, asked: Path | None) -> Path:
    """The folder of a review's files: the one that is asked for by `--review`, else that of the labels.

    It is made with the first decision.

    Raises:
        UserError: it cannot be written.
    """
    chosen = asked or folder
    there = chosen
    while not there.exists() and there != there.parent:
        there = there.parent
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise UserError(
            f"the folder {chosen.name} cannot be written, so no label can be reviewed: give a folder for the decisions "
            f"and the corrected file by --review DIR"
        )
    return chosen
