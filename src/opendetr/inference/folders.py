"""The pictures in a folder and the folders below it, and one line on what is left out."""

import os
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

from opendetr.decoding import HEIC_ADVICE, HEIC_SUFFIXES, picture_suffixes
from opendetr.errors import UserError
from opendetr.inference.video import VIDEO_SUFFIXES
from opendetr.progress import console
from opendetr.wording import counted

KINDS = ".jpg, .png, .tif, .webp, .avif and whatever else Pillow decodes"


def pictures_in(folder: Path, output: Path | None = None) -> list[Path]:
    """The pictures in a folder and below, sorted; other files are counted by suffix in one printed line.

    Links to folders are followed, and every folder is visited once. Hidden files and folders are passed over: they are
    those of the system and of programs, such as the `._` files of macOS. So is the folder `output`, which has none.

    Raises:
        UserError: there is no picture.
    """
    if output is not None and folder.resolve().is_relative_to(output.resolve()):
        return []
    pictures, left_out = list[Path](), Counter[str]()
    videos = list[Path]()
    for path, kind in _files_below(folder, output):
        if kind:
            left_out[kind] += 1
        elif path.suffix.lower() in picture_suffixes():
            pictures.append(path)
        else:
            left_out[path.suffix.lower() or "without suffix"] += 1
            videos += [path] if path.suffix.lower() in VIDEO_SUFFIXES else []
    said = ", ".join(f"{count:,} {kind}{_advice(kind)}" for kind, count in sorted(left_out.items()))
    if not pictures and videos:
        found = counted(len(videos), "video")
        raise UserError(f"{folder} holds no pictures, but {found}: give one at a time, such as {min(videos)}")
    if not pictures:
        raise UserError(
            f"{folder} holds no pictures; known kinds are {KINDS}" + (f" (left out: {said})" if said else "")
        )
    if said:
        console.print(f"left out of {folder}: {said}")
    return sorted(pictures)


def _advice(kind: str) -> str:
    """What to do about files of a suffix that could be used."""
    if kind in HEIC_SUFFIXES:
        return f" ({HEIC_ADVICE} makes them readable)"
    return " (videos are given one at a time)" if kind in VIDEO_SUFFIXES else ""


def _files_below(folder: Path, output: Path | None) -> Iterator[tuple[Path, str]]:
    """Every file that is not hidden, and why it cannot be opened ('' where it can)."""
    seen = set() if output is None else {output.resolve()}
    waiting = deque([folder])
    while waiting:
        here = waiting.popleft()
        if here.resolve() in seen:
            continue
        seen.add(here.resolve())
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError:
            yield here, "in folders that cannot be opened"
            continue
        for entry in entries:
            path = here / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir():  # links wait, so that a folder is found by its own name first
                waiting.append(path) if entry.is_symlink() else waiting.appendleft(path)
            else:
                yield path, "" if entry.is_file() else "links to nothing" if entry.is_symlink() else "special files"
