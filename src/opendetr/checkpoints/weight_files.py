"""Files of weights, read as they are: safetensors, PyTorch's pickles, and either of them in pieces."""

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from opendetr.checkpoints.pickles import read_pickle
from opendetr.errors import UserError, first_line
from opendetr.files import read_json, refuse_pointer

SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
WEIGHTS = "model.safetensors"  # in a folder of `save_pretrained`; in pieces: with an index
PICKLED = "pytorch_model.bin"  # the same of earlier ones


def read_weight_file(path: Path, expected: str) -> Any:
    """The content of a file: of safetensors a dictionary of tensors, of a pickle whatever it holds, without its code.

    Raises:
        UserError: no such file, damaged, or it contains code; `expected` says what it should have been.
    """
    if path.suffix != ".safetensors":
        return read_pickle(path, expected)
    refuse_pointer(path)
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; expected {expected}") from None
    except Exception as error:  # safetensors raises many kinds of errors
        raise UserError(f"{path} is damaged, or holds no weights ({first_line(error)}); expected {expected}") from None


def read_weights_of(folder: Path) -> Any:
    """The content of the weights in a folder of `save_pretrained`, in one file or in pieces with an index.

    Raises:
        UserError: there are none, a piece is missing, or a file is damaged.
    """
    expected = "the weights of DetrForObjectDetection"
    for name in (WEIGHTS, PICKLED):
        if (folder / name).is_file():
            return read_weight_file(folder / name, expected)
        if (folder / f"{name}.index.json").is_file():
            return _read_pieces(folder / f"{name}.index.json", expected)
    raise UserError(
        f"{folder} holds no weights; expected {WEIGHTS} or {PICKLED} beside config.json, or pieces with an index"
    )


def _read_pieces(index: Path, expected: str) -> dict[str, Tensor]:
    found = read_json(index, "the index of weights in pieces")
    pieces = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(pieces, dict) or not all(isinstance(name, str) for name in pieces.values()):
        raise UserError(f"{index} is damaged: it has no 'weight_map' from tensors to files; get the file anew")
    state: dict[str, Tensor] = {}
    for name in dict.fromkeys(pieces.values()):
        if PurePath(name).name != name or PurePath(name).suffix not in SUFFIXES:
            raise UserError(f"{index} is damaged: '{name}' is no file of weights beside it; get the file anew")
        if not (index.parent / name).is_file():
            raise UserError(f"{index} names the piece {name}, which is missing; get it from where the others are from")
        content = read_weight_file(index.parent / name, expected)
        if not isinstance(content, Mapping):
            raise UserError(f"{index.parent / name} holds no weights; expected a piece of {expected}")
        state |= content
    if missing := [name for name in pieces if name not in state]:
        raise UserError(f"{index} names {missing[0]}, which is not in its piece {pieces[missing[0]]}; get it anew")
    return state
