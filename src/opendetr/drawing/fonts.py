"""Fonts that can write a class name, whatever its script."""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

BUNDLED = "mpl-data/fonts/ttf/DejaVuSans.ttf"  # in matplotlib
_NOT_A_CHARACTER = "\U0010ffff"  # no font has it: what is drawn for it is drawn for every missing character
_TRIED_SIZE = 16


@lru_cache(maxsize=1024)
def font_file(text: str) -> str | None:
    """The file of a font that has every character of `text`; None where this machine has none.

    DejaVu Sans comes with matplotlib, which supervision brings: Latin, Greek, Cyrillic, Arabic, Hebrew and more. For
    others (Chinese, Japanese, Korean, Thai, Hindi) the system's own fonts are searched.
    """
    found = find_spec("matplotlib")
    bundled = str(Path(found.origin).parent / BUNDLED) if found and found.origin else ""
    if _has(bundled, text):
        return bundled
    return next((file for file in _system_fonts() if _has(file, text)), None)


@lru_cache(maxsize=64)
def load_font(file: str | None, pixels: int) -> ImageFont.FreeTypeFont:
    """A font in a size; Pillow's own, which has English letters only, for None."""
    font = ImageFont.load_default(pixels) if file is None else ImageFont.truetype(file, pixels)
    assert isinstance(font, ImageFont.FreeTypeFont)  # all builds of Pillow on PyPI and conda have FreeType
    return font


@lru_cache(maxsize=1)
def _system_fonts() -> list[str]:
    """The files of the system's fonts, upright sans-serif ones first."""
    try:
        from matplotlib.font_manager import findSystemFonts
    except ImportError:
        return []

    def rank(file: str) -> tuple[bool, bool, str]:
        name = Path(file).stem.lower()
        return any(style in name for style in ("bold", "italic", "oblique", "mono")), "sans" not in name, name

    # Apple's font of last resort has a placeholder for every character.
    return sorted((file for file in findSystemFonts() if "lastresort" not in Path(file).stem.lower()), key=rank)


def _has(file: str, text: str) -> bool:
    """Whether a font has every character of a text."""
    try:
        font = ImageFont.truetype(file, _TRIED_SIZE)
        missing = _look(font, _NOT_A_CHARACTER)
        return all(_look(font, character) != missing for character in set(text) if not character.isspace())
    except OSError:  # damaged, or of one size only
        return False


def _look(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)
