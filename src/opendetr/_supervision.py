"""Imports supervision without its advice to install OpenCV, which our drawing does not need."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import supervision

__all__ = ["supervision"]
