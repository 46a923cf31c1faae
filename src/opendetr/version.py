"""The version of the package, stated here only; exported files, kept engines, caches and benchmarks record it."""

__version__ = "0.2.0"
