"""Git LFS: a clone made without it has, in the place of a large file, a short text that points to it."""

from pathlib import Path

from opendetr.errors import UserError

BEGIN = b"version https://git-lfs.github.com/spec/"


def require_content(path: Path) -> None:
    """Check that a file holds more than a pointer; UserError if not. A file that is missing is another's to report."""
    try:
        with path.open("rb") as file:
            is_pointer = file.read(len(BEGIN)) == BEGIN
    except OSError:
        return
    if is_pointer:
        raise UserError(
            f"{path} is a Git LFS pointer, not the file itself: the weights were not downloaded; run `git lfs pull` in "
            f"its folder, or download the file from its page"
        )
