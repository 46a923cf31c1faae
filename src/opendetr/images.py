"""The only picture reader: training, evaluation, prediction and serving read a file in the same way."""

import io
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image

from opendetr.decoding import decoded, decoder_errors_said
from opendetr.errors import UserError
from opendetr.locations import FilePath
from opendetr.pixels import WHITE_LEVELS, largest_of_16_bits, orientation_of, to_rgb, white_level_of


@runtime_checkable
class OpenFile(Protocol):
    """A file open for reading in binary mode, or anything else that is read like one."""

    def read(self) -> bytes:
        """Everything from where it stands."""


Picture = str | FilePath | Image.Image | np.ndarray | torch.Tensor | bytes | OpenFile
EIGHT_BITS = frozenset({".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".webp"})  # suffixes of files that have no more
QUARTER_TURNS = frozenset({5, 6, 7, 8})  # the orientations that exchange width and height
OUTSIDE = 0.5 / 255  # how far a float tensor may leave 0..1: what rounds to 0 or 255


def read_image(
    source: Picture, channel_order: Literal["rgb", "bgr"] = "rgb", white_level: int | None = None
) -> Image.Image:
    """A picture as 8-bit RGB, upright.

    The EXIF orientation is applied; grey, palette and CMYK pictures become RGB; transparency becomes white; values of
    more than 8 bits are scaled (`opendetr.pixels`); of several pages or frames the first is used.

    Args:
        source: a path, a PIL image; an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] of uint8; a tensor [1, H, W] or
            [3, H, W], of uint8 or of floats in 0..1; a file's content, or a file open for reading in binary mode.
        channel_order: of arrays and tensors; OpenCV's are `bgr`.
        white_level: of 16-bit pictures, the value that becomes 255, from `Preprocessing`; None decides for each file.

    Raises:
        UserError: the file is missing or no readable picture, or an array or a tensor has another shape, type or range.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, channel_order)
    if isinstance(source, torch.Tensor):
        return _from_tensor(source, channel_order)
    if isinstance(source, Image.Image):
        with decoder_errors_said("the PIL image"):  # which may be open and not loaded yet
            return to_rgb(source, white_level)
    if isinstance(source, bytes):
        return decode_image(source, f"what was given ({len(source)} bytes)", white_level)
    if isinstance(source, OpenFile):
        return decode_image(*read_open_file(source), white_level)
    if not isinstance(source, str | FilePath):
        raise UserError(
            f"{type(source).__name__} is no picture; expected a path, a PIL image, an array, a tensor, bytes or a file "
            f"open in binary mode"
        )
    return decoded(source, str(source), lambda image: to_rgb(image, white_level))


def decode_image(content: bytes, name: str, white_level: int | None = None) -> Image.Image:
    """Read a picture from a file's content; a UserError calls it `name`."""
    return decoded(io.BytesIO(content), name, lambda image: to_rgb(image, white_level))


def read_open_file(file: OpenFile) -> tuple[bytes, str]:
    """The content of an open file from where it stands, and its name, or `the open file` where it has none.

    Raises:
        UserError: it is open in text mode.
    """
    name = getattr(file, "name", None)
    name = name if isinstance(name, str) else "the open file"
    content: object = None
    with suppress(UnicodeDecodeError):  # text mode
        content = file.read()
    if not isinstance(content, bytes):
        raise UserError(f"{name} is open in text mode; open it for reading in binary mode, as open(path, 'rb') does")
    return content, name


def image_size(path: FilePath) -> tuple[int, int]:
    """Width and height of a picture file as `read_image` returns it, of which only the beginning is read.

    Raises:
        UserError: the file is missing, or begins like no picture.
    """

    def upright_size(image: Image.Image) -> tuple[int, int]:
        width, height = image.size
        return (height, width) if orientation_of(image) in QUARTER_TURNS else (width, height)

    return decoded(path, str(path), upright_size)


def encode_image(image: Image.Image, kind: str, **options: int) -> bytes:
    """A picture as the content of a file of a kind such as JPEG; options, and errors, are those of Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


@contextmanager
def pixels_unlimited() -> Iterator[None]:
    """A context for pictures that will be cut into tiles, which may have more pixels than Pillow allows.

    Pillow's limit guards against pictures that would fill the memory. It holds for the whole process, so threads that
    read at the same time have no limit either.
    """
    with _unlimited:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


_unlimited = threading.Lock()


def check_image(path: FilePath) -> tuple[int, int]:
    """Width and height of a picture file as `read_image` returns it; UserError if that could not read it.

    A JPEG is decoded at an eighth of its size, which finds a cut or damaged file in a fraction of the time.
    """

    def upright_size(image: Image.Image) -> tuple[int, int]:
        width, height = image.size
        drafted = image.draft("RGB", (max(1, width // 8), max(1, height // 8)))
        orientation = orientation_of(image)
        if drafted is None:
            width, height = image.size  # Pillow turns a TIFF upright while it loads
        return (height, width) if orientation in QUARTER_TURNS else (width, height)

    return decoded(path, str(path), upright_size)


def exif_orientation(path: FilePath) -> int:
    """The orientation of a picture file by its EXIF, 1 to 8: 1 is upright, from 5 on width and height are exchanged."""
    return decoded(path, str(path), orientation_of)


def find_white_level(paths: Iterable[FilePath]) -> int | None:
    """The white level of a data set: the one that fits all its 16-bit pictures; None where it has none.

    Files that cannot be read are passed over. Only 16-bit pictures are decoded, up to the first that decides.
    """
    levels: set[int] = set()
    for path in paths:
        if path.suffix.lower() not in EIGHT_BITS:
            with suppress(UserError):
                largest = decoded(path, str(path), largest_of_16_bits)
                levels.update(() if largest is None else {white_level_of(largest)})
        if WHITE_LEVELS[-1] in levels:
            break
    return max(levels, default=None)


def _from_array(array: np.ndarray, channel_order: str) -> Image.Image:
    pictured = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if array.dtype != np.uint8 or not pictured or array.size == 0:
        raise UserError(
            f"an array of shape {array.shape} and type {array.dtype} is no picture; "
            f"expected uint8 of shape (height, width), or (height, width, 1, 3 or 4)"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim == 3 and channel_order == "bgr":
        array = array[:, :, [2, 1, 0, *range(3, array.shape[2])]]
    return to_rgb(Image.fromarray(np.ascontiguousarray(array)))


def _from_tensor(tensor: torch.Tensor, channel_order: str) -> Image.Image:
    said = f"a tensor of shape {tuple(tensor.shape)} and type {tensor.dtype}"
    expected = "expected (3 or 1, height, width), of uint8 in 0..255 or of floats in 0..1"
    floats = tensor.is_floating_point()
    if (
        tensor.ndim != 3
        or tensor.shape[0] not in (1, 3)
        or 0 in tensor.shape
        or not (floats or tensor.dtype == torch.uint8)
    ):
        turn = "; permute(2, 0, 1) puts the channels first" if tensor.ndim == 3 and tensor.shape[2] in (1, 3) else ""
        raise UserError(f"{said} is no picture; {expected}{turn}")
    pixels = tensor.detach().cpu()
    if floats:
        low, high = pixels.aminmax()
        if not (low >= -OUTSIDE and high <= 1 + OUTSIDE):  # written so that NaN is refused too
            raise UserError(
                f"{said} has values from {low:.3g} to {high:.3g}; {expected}, not normalised: the model does that"
            )
        pixels = (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8)
    return _from_array(pixels.permute(1, 2, 0).numpy(), channel_order)
