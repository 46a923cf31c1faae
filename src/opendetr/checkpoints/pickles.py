"""PyTorch's pickle files, read without running their code."""

import argparse
import pickletools
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import torch

from opendetr.errors import UserError
from opendetr.files import refuse_pointer

# Types in the arguments of official checkpoints. A path becomes one without access to the disk.
HARMLESS: dict[str, Any] = {
    "argparse.Namespace": argparse.Namespace, "pathlib.PosixPath": PurePosixPath,
    "pathlib._local.PosixPath": PurePosixPath,
}  # fmt: skip
# Modules of Python whose objects checkpoints hold. Those of its other modules are asked for by attacks: refused.
HARMLESS_MODULES = {
    "__main__", "argparse", "collections", "dataclasses", "datetime", "decimal", "enum", "functools", "pathlib",
    "typing", "uuid",
}  # fmt: skip
PLAIN = {  # which torch reads, or which are a part of a plain value
    "_codecs.encode", "types.SimpleNamespace", "re._compile", "re.Pattern", "re.RegexFlag", "time.struct_time",
    "fractions.Fraction", "random.Random",
} | {
    f"builtins.{name}" for name in (
        "Ellipsis", "NotImplemented", "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int",
        "list", "object", "range", "set", "slice", "str", "tuple",
    )
}  # fmt: skip
NAMED = {  # whose files hold objects instead of a state dict
    "ultralytics.": "a YOLO or RT-DETR of ultralytics", "models.yolo.": "a YOLO of ultralytics",
    "detectron2.": "a checkpoint of detectron2", "mmengine.": "a checkpoint of MMDetection",
    "mmcv.": "a checkpoint of MMDetection", "rfdetr.": "an RF-DETR", "__torch__.": "a program of TorchScript",
}  # fmt: skip
PICKLES = 5  # of which a file of torch before 1.6 consists, before its tensors


class NotRead:
    """Stands for an object of which nothing is kept: its class is not imported, and it is made without its code."""

    def __new__(cls, *_: Any, **__: Any) -> "NotRead":
        """Whatever the arguments."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None: ...


class _Dictionary:
    """Stands for a kind of dictionary: it is an ordinary one."""

    def __new__(cls, *_: Any) -> Any:
        return {}


class _List:
    """Stands for a kind of list: it is an ordinary one."""

    def __new__(cls, *_: Any) -> Any:
        return []


class _NumberType:
    """Stands for numpy's `dtype`."""

    def __init__(self, name: str = "", *_: Any) -> None:
        self.name, self.order = name, "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


def _number(kind: Any = None, content: Any = b"") -> Any:
    """A scalar of numpy as a number of Python."""
    if (
        isinstance(kind, _NumberType)
        and re.fullmatch(r"[biuf][1248]", kind.name)
        and kind.order in ("=", "<", ">", "|")
    ):
        return np.frombuffer(content, np.dtype(kind.order + kind.name))[0].item()
    return NotRead()


STAND_INS = HARMLESS | {
    "numpy._core.multiarray.scalar": _number, "numpy.core.multiarray.scalar": _number, "numpy.dtype": _NumberType,
    "types.SimpleNamespace": argparse.Namespace, "collections.defaultdict": _Dictionary, "collections.deque": _List,
    "pytorch_lightning.utilities.parsing.AttributeDict": _Dictionary,
    "lightning_fabric.utilities.data.AttributeDict": _Dictionary,
    "lightning.fabric.utilities.data.AttributeDict": _Dictionary,
    "lightning.pytorch.utilities.parsing.AttributeDict": _Dictionary,
}  # fmt: skip


def read_pickle(path: Path, expected: str) -> Any:
    """What `torch.save` wrote: tensors and plain values; an object of another kind is a `NotRead`.

    No name in the file is ever imported.

    Raises:
        UserError: no such file, damaged, or it contains code; `expected` says what it should have been.
    """
    refuse_pointer(path)
    try:
        return _load(path, HARMLESS)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; expected {expected}") from None
    except Exception:  # torch, pickle and zip raise many kinds of errors
        names = dict.fromkeys(_names_in(path))  # in the order of the file
        for name in names:
            _refuse_code(path, name, expected)
        stand_ins = {name: STAND_INS.get(name, NotRead) for name in names}
    try:
        return _load(path, stand_ins)
    except Exception:  # as above
        if any(name.startswith("torch.nn.modules.") for name in names):  # which torch before 1.6 wrote with its source
            raise UserError(
                f"{path} holds a whole pickled module, whose code is not run; save its weights alone by "
                f"torch.save(model.state_dict(), FILE)"
            ) from None
        raise UserError(f"{path} is damaged, or no checkpoint; expected {expected}") from None


def _load(path: Path, classes: Mapping[str, Any]) -> Any:
    """The content, with these classes for the names in the file; torch knows its own, and imports nothing."""
    named: list[Any] = [(found, name) for name, found in classes.items()]
    # torch also warns of a file that it then refuses: one sentence is enough
    with warnings.catch_warnings(), torch.serialization.safe_globals(named):
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _refuse_code(path: Path, name: str, expected: str) -> None:
    """Check the name of a class or function in a pickle."""
    for beginning, whose in NAMED.items():
        if name.startswith(beginning):
            raise UserError(f"{path} is {whose} (it holds a {name}); expected {expected}")
    if name not in PLAIN and name.split(".")[0] in {*sys.stdlib_module_names, "__builtin__"} - HARMLESS_MODULES:
        raise UserError(
            f"{path} asks for code to be run, {name.removeprefix('builtins.')}, and is refused; expected {expected}; "
            f"if you trust who wrote it, read it with torch.load(..., weights_only=False) and save its state dict alone"
        )


def _names_in(path: Path) -> list[str]:
    """The names of classes and functions in a pickle file, as far as it can be read."""
    found: list[str] = []
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                inside = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
                with archive.open(inside) as file:
                    found.extend(_names_of(file))
        else:
            with path.open("rb") as file:
                for _ in range(PICKLES):
                    found.extend(_names_of(file))
    except (OSError, StopIteration, ValueError, zipfile.BadZipFile):  # no pickle, or its end is missing
        pass
    return found


def _names_of(file: BinaryIO | Any) -> Iterator[str]:
    texts: list[str] = []
    for operation, value, _ in pickletools.genops(file):
        if operation.name in ("GLOBAL", "INST"):
            name = str(value).replace("__builtin__ ", "builtins ").replace(" ", ".")
            yield name.replace("builtins.xrange", "builtins.range")  # as old protocols call it
        elif operation.name == "STACK_GLOBAL":  # from protocol 4 on a name lies on the stack as two texts
            yield ".".join(texts[-2:])
        elif isinstance(value, str):
            texts = [*texts[-1:], value]
