"""Imports supervision without its advice to install OpenCV: what we use of it draws the same without."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import supervision

__all__ = ["supervision"]
