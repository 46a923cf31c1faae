"""Imports matplotlib, or says in a sentence how to get it: figures are an extra."""

from opendetr.errors import UserError

try:
    import matplotlib
    import matplotlib.patches
    from matplotlib.figure import Figure
except ImportError:
    raise UserError("figures need matplotlib; install it with pip install 'opendetr[plot]'") from None

__all__ = ["Figure", "matplotlib"]
