"""The version, told once: of the package, of what it writes, and of what it compares with."""

__version__ = "0.1.0"
