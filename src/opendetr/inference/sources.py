"""What a source names: a picture, a folder, a glob."""

import glob
from pathlib import Path

from opendetr.data.images import SUFFIXES, Picture
from opendetr.errors import UserError


def expand_source(source: str | Path) -> Picture | list[Picture]:
    """A file as it is; a folder or a glob as the sorted list of its pictures.

    Raises:
        UserError: nothing is there, or no pictures are.
    """
    path = Path(source)
    if not str(source):
        raise UserError("an empty source names no picture; expected a file, a folder or a glob")
    if path.is_dir():
        pictures = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not pictures:
            raise UserError(f"{source} holds no pictures; known kinds are {', '.join(sorted(SUFFIXES))}")
        return list(pictures)
    if path.exists() or not glob.has_magic(str(source)):
        if not path.exists():
            raise UserError(f"{source} does not exist; expected a picture, a folder or a glob")
        return path
    matches = sorted(Path(p) for p in glob.glob(str(source), recursive=True) if Path(p).is_file())
    if not matches:
        raise UserError(f"{source} matches no file; expected a glob of pictures, e.g. 'photos/*.jpg'")
    return list(matches)


def expand_sources(sources: list[str], output: Path) -> list[Path]:
    """All pictures that several sources name, each once, in their order; what lies in `output` is not a source."""
    pictures: dict[Path, None] = {}
    for source in sources:
        found = expand_source(source)
        for picture in found if isinstance(found, list) else [found]:
            pictures[Path(str(picture))] = None
    return [path for path in pictures if output.resolve() not in path.resolve().parents]
