"""The folder that a new run writes to: made, or free, before anything is read."""

import os
from contextlib import suppress
from pathlib import Path

from opendetr.errors import UserError
from opendetr.files import current_folder, require_folder


def make_new_folder(folder: Path) -> Path:
    """Make the folder, or the first of FOLDER-2, FOLDER-3, ... that does not exist: no two programs get the same."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for candidate in (folder, *(folder.with_name(f"{folder.name}-{number}") for number in range(2, 10_000))):
        with suppress(FileExistsError):
            candidate.mkdir()
            return candidate
    raise UserError(f"{folder} and the 9,998 folders after it exist; give --output")


def require_free(output: Path | None, resume: Path | None) -> None:
    """Check that the run folder can be written; UserError if it cannot, or holds another run than `resume`."""
    if output is None:
        return
    require_folder(output)
    there = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"--output {output}: {there} cannot be written; give a folder that can be")
    if resume == output:
        return
    # a run that is continued elsewhere comes with its `last` last: killed before that, it may come again
    names = ("last", "best", "metrics.jsonl") if resume is None else ("last",)
    if any(current_folder(output / name).exists() for name in names):
        raise UserError(
            f"--output {output} holds a run already; give another folder, or continue it with --resume {output}"
        )
