"""Pictures by address or in Parquet tables, and results as Parquet, for many machines (fsspec)."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opendetr.decoding import picture_suffixes
from opendetr.errors import UserError, first_line
from opendetr.inference.sources import SourcePicture, expand_sources, name_pictures, reading
from opendetr.raw_values import raw_id
from opendetr.structures import Detections

try:
    import fsspec
    import pyarrow as pa
    import pyarrow.parquet as pq
    from fsspec.implementations.local import LocalFileSystem
except ImportError as missing:
    raise UserError(f"tables and addresses need {missing.name}; install it with pip install 'opendetr[ray]'") from None


@dataclass(frozen=True)
class Stored:
    """Pictures whose bytes are in a row group of a Parquet file; read a few at a time."""

    path: str
    group: int
    first: int  # position of its first picture
    count: int
    has_ids: bool

    @property
    def positions(self) -> range:
        """Of its pictures."""
        return range(self.first, self.first + self.count)

    def __iter__(self) -> Iterator[SourcePicture]:
        columns, position = ["bytes", *(["image_id"] if self.has_ids else [])], self.first
        with reading(self.path, "as Parquet"), fsspec.open(self.path, "rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(16, [self.group], columns):
                for values in batch.to_pylist():
                    image_id = values.get("image_id", position + 1)
                    yield SourcePicture(position, image_id, "", self.path, values["bytes"] or b"")
                    position += 1


Piece = list[SourcePicture] | Stored


def list_pictures(sources: list[str], output: str) -> list[Piece]:
    """The pictures of the sources; none is read.

    Args:
        sources: pictures, folders and globs, of this machine or with the address of an fsspec file system; or Parquet
            files and folders of them, with a column `path` or `bytes`, and perhaps `image_id` (else 1, 2, 3, ...).
        output: its content is not a source.

    Raises:
        UserError: a source is empty or of another kind.
    """
    tables = [_tables(source) for source in sources]
    if all(tables):
        return _in_tables([path for paths in tables for path in paths])
    if any(tables):
        raise UserError(f"{sources[[*map(bool, tables)].index(True)]} is a Parquet table: give tables without pictures")
    if not any("://" in source for source in sources):
        paths = expand_sources(sources, Path(output.removeprefix("file://")))
        return [name_pictures([path.absolute() for path in paths])]
    found = dict.fromkeys(address for source in sources for address in _expand(source, picture_suffixes(), "pictures"))
    return [[SourcePicture(at, at + 1, address.rpartition("/")[2], address) for at, address in enumerate(found)]]


def digest(pieces: Iterable[Piece]) -> str:
    """A hash of the list of pictures; it stays the same, so that the work of earlier versions can be continued."""
    found = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        for part in piece if isinstance(piece, list) else [piece]:
            found.update(_in_digest(part).encode())
    return found.hexdigest()


def _in_digest(part: SourcePicture | Stored) -> str:
    """A picture or a row group as text; its form is that of the first version, whatever our classes become."""
    if isinstance(part, Stored):
        where = f"path={part.path!r}, group={part.group}, first={part.first}, count={part.count}"
        return f"Stored({where}, has_ids={part.has_ids})"
    name = f"position={part.position}, image_id={part.image_id}, file_name={part.file_name!r}, path={part.path!r}"
    return f"Row({name}, content=None)"


def _tables(source: str) -> list[str]:
    """The Parquet files of a source; none if it names pictures."""
    if source.endswith(".parquet"):
        return _expand(source, {".parquet"}, "Parquet files")
    if "://" not in source and not any(Path(source).glob("*.parquet")):
        return []
    files = _expand(source, {*picture_suffixes(), ".parquet"}, "pictures and no Parquet files")
    return files if all(file.endswith(".parquet") for file in files) else []


def _expand(source: str, suffixes: Iterable[str], what: str) -> list[str]:
    """The files of an address: a file, those in a folder, or those that match a glob."""
    with reading(source):
        system, root = fsspec.core.url_to_fs(source)
        files = system.glob(root) if "*" in root or "?" in root else system.find(root)
    found = sorted(file for file in files if Path(file).suffix.lower() in suffixes)
    if not found:
        raise UserError(f"{source} holds no {what}; expected a file, a folder or a glob")
    return [system.unstrip_protocol(file) for file in found]


def _in_tables(paths: list[str]) -> list[Piece]:
    found: list[Piece] = []
    first, kinds = 0, set()
    for path in paths:
        with reading(path, "as Parquet"), fsspec.open(path, "rb") as file:
            table = pq.ParquetFile(file)
            fields = table.schema_arrow
            has_ids = "image_id" in fields.names
            kinds.add(has_ids)
            if not {"path", "bytes"} & {*fields.names}:
                raise UserError(f"{path} has the columns {', '.join(fields.names)}; expected path or bytes")
            if has_ids and not pa.types.is_integer(fields.field("image_id").type):
                raise UserError(f"{path}: the column image_id must hold whole numbers")
            if "bytes" in fields.names:
                for group in range(table.num_row_groups):
                    count = table.metadata.row_group(group).num_rows
                    found.append(Stored(path, group, first, count, has_ids))
                    first += count
            else:
                rows = table.read(columns=["path", *(["image_id"] if has_ids else [])]).to_pylist()
                found.append([_named(path, first + at, row) for at, row in enumerate(rows)])
                first += len(rows)
    if len(kinds) > 1:
        raise UserError("some Parquet files have a column image_id and some have none; expected it in all or in none")
    return found


def _named(table: str, position: int, row: dict[str, Any]) -> SourcePicture:
    """A row with a path, relative to the table's folder."""
    path = row["path"] or ""
    if "://" not in path and not Path(path).is_absolute():
        path = f"{table.rpartition('/')[0]}/{path}"
    return SourcePicture(position, row.get("image_id", position + 1), path.rpartition("/")[2], path)


class Parts:
    """Results as Parquet files in the folder `parts`, a row per picture; each is written atomically.

    Ids are texts there, for Parquet has no numbers beyond 64 bits; `raw_id` reads them as they were.
    """

    SCHEMA = pa.schema([
        ("position", pa.int64()), ("image_id", pa.string()), ("file_name", pa.string()),
        ("detections", pa.list_(pa.struct([
            ("category_id", pa.string()), ("name", pa.string()), ("bbox", pa.list_(pa.float64())),
            ("score", pa.float64()),
        ]))),
    ])  # fmt: skip

    def __init__(self, output: str) -> None:
        """Take a folder on this machine, or the address of one.

        Raises:
            UserError: there is no such file system.
        """
        try:
            self.system, root = fsspec.core.url_to_fs(output)
        except (ValueError, ImportError) as error:
            raise UserError(f"--output {output} cannot be used ({first_line(error)})") from None
        self.folder = f"{root}/parts"
        self.local = Path(root) if isinstance(self.system, LocalFileSystem) else None

    def done(self, settings: dict[str, Any]) -> set[int]:
        """The positions of the pictures that are done; the settings are stored beside the first parts.

        Raises:
            UserError: there are parts with other settings.
        """
        note = f"{self.folder}/_settings.json"  # readers of Parquet folders ignore such names
        if self.system.exists(note):
            if json.loads(self.system.cat_file(note)) != settings:
                raise UserError(
                    f"{self.folder} holds results of another model, other pictures or settings; give another --output, "
                    f"or remove that folder"
                )
        else:
            self.system.makedirs(self.folder, exist_ok=True)
            self._write(note, json.dumps(settings).encode())
        tables = (self._read(part, ["position"]) for part in self._files())
        return {position for table in tables for position in table["position"].to_pylist()}

    def write(self, name: str, found: list[tuple[int, Detections]]) -> None:
        """Write positions with their detections as the part of that name."""
        rows = []
        for position, detections in found:
            row = {"position": position, "image_id": str(detections.image_id), "file_name": detections.file_name}
            entries = [{**entry, "category_id": str(entry["category_id"])} for entry in detections.to_coco()]
            rows.append({**row, "detections": entries})  # the schema leaves out what is in the row already
        content = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, self.SCHEMA), content)
        self._write(f"{self.folder}/part-{name}.parquet", content.getvalue().to_pybytes())

    def entries(self) -> Iterator[dict[str, Any]]:
        """The COCO results of all parts, in the order of the pictures."""
        parts = [self._read(part) for part in self._files()]
        whole = pa.concat_tables([self.SCHEMA.empty_table(), *parts]).sort_by("position")
        for batch in whole.to_batches(1024):
            for row in batch.to_pylist():
                for entry in row["detections"]:
                    ids = {"image_id": raw_id(row["image_id"]), "file_name": row["file_name"]}
                    yield {**ids, **entry, "category_id": raw_id(entry["category_id"])}

    def _files(self) -> list[str]:
        return sorted(self.system.glob(f"{self.folder}/part-*.parquet"))

    def _read(self, part: str, columns: list[str] | None = None) -> pa.Table:
        try:
            return pq.read_table(pa.BufferReader(self.system.cat_file(part)), columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"{part} cannot be read ({first_line(error)}); remove it, and its pictures are done again"
            ) from None

    def _write(self, path: str, content: bytes) -> None:
        folder, _, name = path.rpartition("/")
        temporary = f"{folder}/.{name}.tmp"
        self.system.pipe_file(temporary, content)
        self.system.mv(temporary, path)
