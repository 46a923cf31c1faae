"""Pictures to detect in: those of a source (a picture, a folder, a glob), and their names in results."""

import glob
import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image
from torch import Tensor

from opendetr.data.door import known_ids
from opendetr.errors import UserError, first_line
from opendetr.files import write_bytes
from opendetr.images import OpenFile, Picture, decode_image, read_image, read_open_file
from opendetr.inference.addresses import address_name, fetch_picture, is_address
from opendetr.inference.folders import pictures_in
from opendetr.progress import warn
from opendetr.raw_values import RawId
from opendetr.wording import counted, without_hidden

MOST_SAID = 80  # letters of a source that is no path, in a message


class SourcePicture(NamedTuple):
    """A picture to detect in: of a folder, a shard, a table or a video, on this machine or elsewhere."""

    position: int  # among all pictures of the work, from 0; of a video the number of the frame
    image_id: RawId  # in results
    file_name: str  # in results
    path: str  # a file or an address; of a picture inside a file (a table, a video), that file's
    content: Image.Image | bytes | None = None  # of a picture inside a file: a frame, or an encoded picture

    def read(self, white_level: int | None = None) -> Image.Image:
        """The RGB picture; `white_level` is that of `read_image`.

        Raises:
            UserError: it cannot be read.
        """
        if isinstance(self.content, Image.Image):
            return self.content
        if self.content is not None:
            return decode_image(self.content, f"picture {self.image_id} of {self.path}", white_level)
        if "://" not in self.path:
            return read_image(Path(self.path), white_level=white_level)
        import fsspec  # whatever lists addresses needs it too

        with reading(self.path), fsspec.open(self.path, "rb") as file:
            content = file.read()
        return decode_image(content, self.path, white_level)


@contextmanager
def reading(path: str, how: str = "") -> Iterator[None]:
    """Turn any exception into a sentence: every file system has its own classes.

    Raises:
        UserError: instead of any other exception.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{' '.join(filter(None, (path, 'cannot be read', how)))} ({first_line(error)})") from None


def picture_reader(
    picture: Picture, channel_order: Literal["rgb", "bgr"] = "rgb", white_level: int | None = None
) -> tuple[Callable[[], Image.Image], str]:
    """A function that reads the upright RGB picture, now and later, and the picture's name ('' in memory).

    It holds a path, or what was given from memory: of arrays and tensors a copy, since a camera writes over its own.
    Addresses and open files are read here, and it holds their content.

    Raises:
        UserError: an address or an open file cannot be read.
    """
    if isinstance(picture, str) and is_address(picture):
        name = address_name(picture)
        return partial(decode_image, fetch_picture(picture), name, white_level), name
    if isinstance(picture, OpenFile):
        content, name = read_open_file(picture)
        return partial(decode_image, content, name, white_level), name
    if isinstance(picture, np.ndarray):
        picture = picture.copy()
    if isinstance(picture, Tensor):
        picture = picture.detach().clone()
    name = str(picture) if isinstance(picture, str | Path) else ""
    return partial(read_image, picture, channel_order, white_level), name


def expand_source(source: str | Path, output: Path | None = None) -> Picture | list[Picture]:
    """A file as it is; a folder or a glob as the sorted list of its pictures.

    What a folder holds beside pictures is said; the folder `output` in it is passed over.

    Raises:
        UserError: nothing is there, or no pictures.
    """
    path = Path(source)
    if not str(source):
        raise UserError("an empty source names no picture; expected a file, a folder or a glob")
    try:
        is_folder = path.is_dir()
    except OSError as error:  # such as a name that is too long
        said = f"{str(source)[:MOST_SAID]}{'...' if len(str(source)) > MOST_SAID else ''} names no file"
        raise UserError(f"{said} ({error.strerror}); expected a picture, a folder or a glob") from None
    if is_folder:
        return list(pictures_in(path, output))
    if path.exists() or not glob.has_magic(str(source)):
        if not path.exists():
            raise UserError(f"{source} does not exist; expected a picture, a folder or a glob")
        return path
    matches = sorted(Path(p) for p in glob.glob(str(source), recursive=True) if Path(p).is_file())
    if not matches:
        raise UserError(f"{source} matches no file; expected a glob of pictures, e.g. 'photos/*.jpg'")
    return list(matches)


def expand_sources(sources: list[str], output: Path) -> list[Path]:
    """All pictures of several sources, each once, in their order; the content of `output` is not a source.

    Pictures at https addresses are downloaded into `output/downloaded`, unless an earlier call did.

    Raises:
        UserError: nothing is there, or no pictures; or an address does not answer.
    """
    pictures: dict[Path, None] = {}
    for source in sources:
        if is_address(source):
            pictures[_download(source, output / "downloaded")] = None
            continue
        found = expand_source(source, output)
        paths = [Path(str(picture)) for picture in (found if isinstance(found, list) else [found])]
        pictures.update((path, None) for path in paths if output.resolve() not in path.resolve().parents)
    return list(pictures)


def _download(address: str, folder: Path) -> Path:
    """The file with the picture at an address, under its own name, in a folder per address."""
    digest = hashlib.blake2b(address.encode(), digest_size=4).hexdigest()
    name = unquote(PurePosixPath(urlsplit(address_name(address)).path).name)
    path = folder / digest / f"{file_stem(name) or 'picture'}{Path(name).suffix}"
    if not path.is_file():
        write_bytes(path, fetch_picture(address))
    return path


def name_pictures(paths: list[Path]) -> list[SourcePicture]:
    """The pictures with file names and ids: the data set's where each has its own, else its name and 1, 2, 3, ...

    Where only some are a data set's, that is said.
    """
    known = known_ids(paths)
    found = [one for one in known if one is not None]
    if len(found) < len(paths) or len({image_id for _, image_id in found}) < len(paths):
        if found:
            warn(
                f"{len(found)} of {counted(len(paths), 'picture')} belong to a data set, and not each has an id of its "
                f"own there: image_id in the results is a number from 1 on, not the data set's."
            )
        found = [(path.name, number) for number, path in enumerate(paths, start=1)]
    named = enumerate(zip(paths, found))
    return [SourcePicture(at, image_id, name, str(path)) for at, (path, (name, image_id)) in named]


def distinct_stems(paths: list[Path]) -> list[str]:
    """A name without suffix for each picture; equal ones get a number."""
    return [stem for stem, _ in _distinct([(path.stem, "") for path in paths])]


def distinct_names(paths: list[Path]) -> list[str]:
    """A file name for each drawn picture; pictures of one name from several folders get a number."""
    kept = (".jpg", ".jpeg", ".png")
    named = [(path.stem, path.suffix.lower() if path.suffix.lower() in kept else ".png") for path in paths]
    return [f"{stem}{suffix}" for stem, suffix in _distinct(named)]


def file_stem(name: str) -> str:
    """A name, such as `webcam:1`, without suffix and without characters that file names cannot have."""
    return re.sub(r'[<>:"|?*]', "-", without_hidden(Path(name).stem))


def report_left_out(broken: list[str]) -> None:
    """Report pictures that could not be read, after all others were written.

    Raises:
        UserError: there is any.
    """
    if broken:
        raise UserError(broken[0] if len(broken) == 1 else f"{len(broken)} pictures were left out: {'; '.join(broken)}")


def _distinct(named: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Distinct stems and suffixes: repeated stems get a number, also in another case (one file on Windows, macOS)."""
    used: dict[str, tuple[str, str]] = {}
    for stem, suffix in named:
        name = stem = without_hidden(stem)
        number = 2
        while f"{name}{suffix}".casefold() in used:
            name, number = f"{stem}-{number}", number + 1
        used[f"{name}{suffix}".casefold()] = (name, suffix)
    return list(used.values())
