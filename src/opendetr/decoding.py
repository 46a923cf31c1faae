"""Picture files and Pillow's decoders: which files are pictures, and one sentence for whatever a decoder raises."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from opendetr.errors import UserError, first_line
from opendetr.files import refuse_note
from opendetr.locations import FilePath, for_pillow
from opendetr.pixels import is_scaled
from opendetr.progress import warn
from opendetr.wording import counted

T = TypeVar("T")

NO_PICTURES = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"})  # documents, and what Pillow only names
HEIC_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
# Not a dependency: few pictures are HEIC, and its wheels hold x265, which is GPL.
HEIC_PLUGIN, HEIC_ADVICE = "pillow_heif", "pip install pillow-heif"
HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
MOST_MISSING = 0.25  # of the rows of a JPEG that is cut short; with less of it, detections would mean little


class TooManyPixelsError(UserError):
    """A picture that has more pixels than Pillow is allowed to read."""


@cache
def picture_suffixes() -> frozenset[str]:
    """The suffixes, in lower case, of the files that are read as pictures; HEIC's where its plugin is installed."""
    decoded = {suffix for suffix, kind in Image.registered_extensions().items() if kind in _kinds()}
    return frozenset(decoded | (HEIC_SUFFIXES if find_spec(HEIC_PLUGIN) else set()))


def _kinds() -> set[str]:
    return {*Image.OPEN, "MPO"} - NO_PICTURES  # MPO is opened as JPEG


def decoded(source: str | FilePath | io.BytesIO, name: str, use: Callable[[Image.Image], T]) -> T:
    """What `use` returns of a picture file, which is open and not loaded yet.

    A JPEG that is cut short is completed. Files of which only a part is used, and those that are scaled, are said.

    Raises:
        UserError: it is missing or no readable picture, in a sentence that calls it `name`.
    """
    with decoder_errors_said(name):
        try:
            if not isinstance(source, io.BytesIO):
                source = for_pillow(source)
            with Image.open(source) as image:
                _forget_odd_xmp(image)
                _say_what_is_used(image, name)
                return use(image)
        except OSError as error:
            again = _second_attempt(source, name, error)
            if again is None:
                raise
        with Image.open(again) as image:
            if image.format in ("JPEG", "MPO"):
                _require_most_rows(image, name)
            return use(image)


@contextmanager
def decoder_errors_said(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into one sentence about the picture `name`.

    Damaged files make Pillow and the libraries below raise nearly anything (struct.error, TypeError, RuntimeError, and
    MemoryError for a size that is not the true one), so every `Exception` is caught; Ctrl-C is none.

    Raises:
        UserError: instead of any other exception.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{name} does not exist; expected a picture") from None
    except Image.DecompressionBombError as error:
        size = first_line(error).split(",")[0]  # what follows speaks of an attack
        raise TooManyPixelsError(
            f"{name} is too large to be read at once ({size}); predict --tile 1024 reads it in tiles"
        ) from None
    except Exception as error:
        reason = "it is of no known kind" if isinstance(error, UnidentifiedImageError) else first_line(error)
        raise UserError(f"{name} cannot be read as a picture ({reason}); replace or remove the file") from None


def _second_attempt(source: str | FilePath | io.BytesIO, name: str, error: OSError) -> io.BytesIO | None:
    """The content of a file that Pillow could not read, where it can be read after all; None where it cannot be.

    Raises:
        UserError: a sentence that says more than Pillow does.
    """
    is_unknown = isinstance(error, UnidentifiedImageError)
    if not is_unknown and "truncated" not in str(error):
        return None
    with nullcontext(source) if isinstance(source, io.BytesIO) else Path(source).open("rb") as file:
        file.seek(0)
        start = file.read(16)
        is_heic = start[4:8] == b"ftyp" and start[8:12] in HEIC_BRANDS
        if is_unknown and not is_heic:
            _say_what_is_unknown(file, start, name)
        if not is_heic and not start.startswith(JPEG_START):
            return None
        content = start + file.read()
    if not is_heic:  # libjpeg fills what is missing between the data and the marker of the end with grey
        return io.BytesIO(content + JPEG_END)
    if not find_spec(HEIC_PLUGIN):
        raise UserError(f"{name} is a HEIC picture; {HEIC_ADVICE} makes it readable, or convert it to JPEG")
    import_module(HEIC_PLUGIN).register_heif_opener()
    return io.BytesIO(content)


def _say_what_is_unknown(file: IO[bytes], start: bytes, name: str) -> None:
    """UserError for an empty file, a pointer of Git LFS, and for a TIFF with channels that Pillow does not read."""
    refuse_note(start, name)
    if not start:
        raise UserError(f"{name} cannot be read as a picture (it is empty); replace or remove the file")
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(start if start[2:3] == b"\x2b" else start[:8])
        file.seek(tags.next)
        tags.load(file)
        channels, bits = tags[TiffImagePlugin.SAMPLESPERPIXEL], tags[TiffImagePlugin.BITSPERSAMPLE][0]
    except Exception:  # no TIFF, or a damaged one
        return
    raise UserError(
        f"{name} cannot be read as a picture (a TIFF of {counted(channels, 'channel')} of {bits} bits); expected 1 "
        f"channel (grey), 3 (RGB) or 4 (with alpha) of 8 or 16 bits, or 1 of 32 bits: convert it"
    )


def _require_most_rows(image: Image.Image, name: str) -> None:
    """Load a JPEG that was completed; UserError if many of its rows are missing, which are of one grey."""
    rows = np.asarray(image).reshape(image.height, -1)
    grey = (rows == 128).all(1)
    missing = int(np.argmin(grey[::-1])) if not grey.all() else image.height
    if missing > MOST_MISSING * image.height:
        reason = f"it is cut short: {1 - missing / image.height:.0%} of it is there"
        raise UserError(f"{name} cannot be read as a picture ({reason}); replace or remove the file")
    _say_once("cut short", f"{name} is cut short and used: what is missing of such a JPEG is grey.")


def _forget_odd_xmp(image: Image.Image) -> None:
    """Remove XMP of another type than Pillow expects when it looks for an orientation there."""
    for name, expected in (("xmp", bytes), ("XML:com.adobe.xmp", str)):
        if not isinstance(image.info.get(name, expected()), expected):
            del image.info[name]


def _say_what_is_used(image: Image.Image, name: str) -> None:
    """Say, once for every kind, of which files only a part is used, and that values are scaled."""
    if is_scaled(image):
        _say_once(
            "depth",
            f"{name} has more than 8 bits: the values of such pictures are scaled, 16 bits by 255, 4095 or 65535, the "
            f"least that no value exceeds (of the data set, where the model was trained on such pictures), 32-bit "
            f"integers and floats by their range.",
        )
    with suppress(Exception):  # a damaged second page is not used
        if getattr(image, "is_animated", False) and image.format != "PSD":  # whose frames are its layers
            _say_once(
                f"pages of {image.format}", f"{name} has several pages or frames; the first of such files is used."
            )


def _say_once(what: str, sentence: str) -> None:
    """Warn once for all files alike; of several loader processes only the first speaks."""
    from torch.utils.data import get_worker_info  # reading annotations alone needs no torch

    worker = get_worker_info()
    if what not in _said and (worker is None or worker.id == 0):
        _said.add(what)
        warn(sentence)


_said: set[str] = set()
