"""PyTorch's pickle files, read without running their code."""

import argparse
import pickletools
import re
import warnings
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from opendetr.checkpoints.git_lfs import require_content
from opendetr.errors import UserError

# Types in the arguments of official checkpoints. A path becomes one without access to the disk.
HARMLESS: list[Any] = [
    argparse.Namespace, (PurePosixPath, "pathlib.PosixPath"), (PurePosixPath, "pathlib._local.PosixPath"),
]  # fmt: skip
OF_TENSORS = ("torch.", "collections.")  # beginnings of names that every state dict holds


def read_pickle(path: Path, expected: str) -> Any:
    """What `torch.save` wrote: tensors and plain values.

    Raises:
        UserError: no such file, damaged, or it contains code; `expected` says what it should have been.
    """
    require_content(path)
    try:
        # torch also warns of a file that it then refuses: one sentence is enough
        with warnings.catch_warnings(), torch.serialization.safe_globals(HARMLESS):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; expected {expected}") from None
    except Exception as error:  # torch, pickle and zip raise many kinds of errors
        code = _code_asked_for(path, error)
        if code is not None:
            raise UserError(
                f"{path} asks for code to be run, {code}, and is refused; expected {expected}; if you trust who wrote "
                f"it, read it with torch.load(..., weights_only=False) and save its state dict alone"
            ) from None
        raise UserError(f"{path} is damaged, or no checkpoint; expected {expected}") from None


def _code_asked_for(path: Path, error: Exception) -> str | None:
    """The name of the code that torch refused to run; None if that was not the error."""
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return found[1]
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                pickle = archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))
        else:
            pickle = path.read_bytes()
    except (OSError, StopIteration, zipfile.BadZipFile):
        return None
    texts: list[str] = []
    try:  # from protocol 4 on, which torch does not read, a name lies on the stack as two texts
        for operation, value, _ in pickletools.genops(pickle):
            if isinstance(value, str):
                texts.append(value)
            name = ".".join(texts[-2:])
            if operation.name == "STACK_GLOBAL" and not name.startswith(OF_TENSORS):
                return name
    except ValueError:  # no pickle, or its end is missing
        pass
    return None
