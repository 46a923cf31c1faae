"""Imports matplotlib, or raises a sentence with its installation: figures are an extra."""

import io

from opendetr.errors import UserError

try:
    import matplotlib
    import matplotlib.patches
    from matplotlib.figure import Figure
except ImportError:
    raise UserError("figures need matplotlib; install it with pip install 'opendetr[plot]'") from None

__all__ = ["Figure", "matplotlib", "png_of"]

DPI = 150


def png_of(figure: Figure) -> bytes:
    """The figure as the content of a PNG file, with all of its text and without empty space around it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.08)
    return buffer.getvalue()
