"""The one rule of pixels: what a picture of any mode, depth and orientation is as upright RGB of 8 bits.

8 bits stay as they are. Of 16 bits the white level becomes 255: the least of 255, 4,095 and 65,535 that no value of the
data set exceeds, or of the file where there is no data set. 32-bit integers and floats are scaled by the smallest and
the largest value of the file, floats within 0..1 by 1. Transparency becomes white.
"""

import io
import sys
from typing import Any

import numpy as np
from PIL import Image

WHITE_LEVELS = (255, 4095, 65535)  # of 8, 12 and 16 bits in 16
COLOURS_OF_16_BITS = frozenset({"RGB", "RGBA", "RGBX"})  # as Pillow calls them, before ";16"

_EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_rgb(image: Image.Image, white_level: int | None = None) -> Image.Image:
    """Any PIL image as upright RGB, without the file's EXIF and comments: Pillow would write some of them again.

    `white_level` is that of a data set, for 16-bit pictures; a file that it would make black, or too small for, has its
    own. What Pillow raises on a damaged file is raised.
    """
    upright = _eight_bits(image, white_level)
    orientation = orientation_of(image)
    if orientation in _TURNS:
        upright = upright.transpose(_TURNS[orientation])
    if upright.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in upright.info:
        if upright.mode == "La":  # which Pillow converts to nothing else
            upright = upright.convert("LA")
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    upright = upright.convert("RGB")
    upright.info = {name: value for name, value in image.info.items() if name == "icc_profile"}
    return upright


def orientation_of(image: Image.Image) -> int:
    """EXIF's orientation of the stored picture, 1 to 8; 1 is upright. The picture is loaded first.

    Only this tag is read: others may have values that cannot be decoded, or written again. Of a TIFF it is 1, since
    Pillow turns it while it loads.
    """
    image.load()
    try:
        found = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # whatever damaged EXIF makes Pillow raise: then it does not say how the picture is turned
        return 1
    return found if isinstance(found, int) and found in _TURNS else 1


def is_scaled(image: Image.Image) -> bool:
    """Whether the values of a picture, which is not loaded yet, have more than 8 bits."""
    return image.mode[0] in "IF" or _byte_order_of_colours(image) is not None


def white_level_of(largest: int) -> int:
    """The white level of 16-bit pictures with that largest value."""
    return next(level for level in WHITE_LEVELS if largest <= level)


def largest_of_16_bits(image: Image.Image) -> int | None:
    """The largest value of a 16-bit picture, without alpha; None for other pictures. It must not be loaded yet."""
    pixels = _sixteen_bits(image)
    return None if pixels is None else int(pixels[..., :3].max())


def _eight_bits(image: Image.Image, white_level: int | None) -> Image.Image:
    """The picture as it is stored, its values scaled to 8 bits."""
    pixels = _sixteen_bits(image)
    if pixels is not None:
        scaled = _scaled_by_white_level(pixels[..., :3], white_level)
        if pixels.shape[2] == 4:
            scaled = np.concatenate([scaled, _scaled_by_white_level(pixels[..., 3:], None)], 2)
        if "transparency" in image.info and pixels.shape[2] < 4:  # the colour that stands for it
            scaled[(pixels == image.info["transparency"]).all(2)] = 255
        return Image.fromarray(scaled[..., 0] if scaled.shape[2] == 1 else scaled)
    image.load()
    if image.mode not in ("I", "F"):
        return image
    return Image.fromarray(_scaled_by_range(np.asarray(image).astype(np.float64), image.mode == "F"))


def _scaled_by_white_level(pixels: np.ndarray, white_level: int | None) -> np.ndarray:
    """16-bit values as 8 bits."""
    largest = int(pixels.max(initial=0))
    if white_level is None or not white_level / 510 <= largest <= white_level:  # below a half of 255 parts it is black
        white_level = white_level_of(largest)
    table: np.ndarray = (np.arange(65536) * (255 / white_level)).round().clip(0, 255).astype(np.uint8)
    scaled: np.ndarray = table[pixels]
    return scaled


def _scaled_by_range(pixels: np.ndarray, floats: bool) -> np.ndarray:
    """32-bit values [H, W] as 8 bits; what is no number becomes black, and a picture of one value grey."""
    finite = pixels[np.isfinite(pixels)]
    low, high = finite.min(initial=np.inf), finite.max(initial=-np.inf)
    if floats and low >= 0 and 0.5 / 255 <= high <= 1:  # a smaller `high` would be black
        low, high = 0, 1
    all_equal = np.where(np.isfinite(pixels) & (pixels != 0), 0.5, 0)
    shares = (pixels - low) / (high - low) if low < high else all_equal
    scaled: np.ndarray = (np.nan_to_num(shares, nan=0, posinf=1, neginf=0).clip(0, 1) * 255).round().astype(np.uint8)
    return scaled


def _sixteen_bits(image: Image.Image) -> np.ndarray | None:
    """The values [H, W, C] of a 16-bit picture, which it loads; None for other pictures."""
    # Pillow reads grey PNG and PPM of 16 bits in a mode of 32 bits, depending on its version.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        image.load()
        return np.asarray(image).clip(0, 65535).astype(np.uint16)[..., None]
    order = _byte_order_of_colours(image)
    if order is None:
        return None
    low = _low_bytes(image, order)
    pixels: np.ndarray = np.asarray(image).astype(np.uint16) << 8 | np.asarray(low)
    return pixels


def _byte_order_of_colours(image: Image.Image) -> tuple[str, str] | None:
    """Colours and byte order of a 16-bit file, such as ("RGB", "B") or "L"; None for other pictures, or loaded ones."""
    tiles: list[Any] = getattr(image, "tile", [])
    names = {tile.args[0] if isinstance(tile.args, tuple) and tile.args else tile.args for tile in tiles}
    name = names.pop() if len(names) == 1 else ""
    colours, _, order = name.partition(";16") if isinstance(name, str) else ("", "", "")
    order = {"little": "L", "big": "B"}[sys.byteorder] if order == "N" else order
    return (colours, order) if colours in COLOURS_OF_16_BITS and order in ("L", "B") else None


def _low_bytes(image: Image.Image, order: tuple[str, str]) -> Image.Image:
    """The low bytes of a file with colours of 16 bits, of which Pillow keeps the high bytes.

    Its decoder takes the other bytes where it is told that their order is the other one.
    """
    other = f"{order[0]};16{'B' if order[1] == 'L' else 'L'}"
    file: Any = image.fp  # type: ignore[attr-defined]
    place = file.tell()
    file.seek(0)
    low = Image.open(io.BytesIO(file.read()))
    file.seek(place)
    low.tile = [
        tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other) for tile in low.tile
    ]
    return low
