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


def png_of(figure: Figure) -> bytes:
    """The figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
