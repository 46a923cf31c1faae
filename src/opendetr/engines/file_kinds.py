"""The kinds of exported file: which suffix is which, what runs it, and how its metadata are written and read."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opendetr.engines.graph_engine import GraphEngine
from opendetr.engines.onnxruntime_engine import OnnxRuntimeEngine, read_onnx_metadata, write_onnx
from opendetr.engines.openvino_engine import OpenVinoEngine, read_openvino_metadata, write_openvino
from opendetr.engines.program_engine import ProgramEngine, read_pt2_metadata, write_pt2
from opendetr.errors import UserError, first_line
from opendetr.files import refuse_pointer
from opendetr.options import EXPORT_SUFFIXES, ExportedFileFormat


@dataclass(frozen=True)
class FileKind:
    """A kind of exported file."""

    format: ExportedFileFormat
    precisions: tuple[str, ...]
    engines: Mapping[str, Callable[[Path, str], GraphEngine]]  # from file and precision; the first runs it by default
    write: Callable[[Any, Path, str], None]  # a graph, with its metadata
    read_metadata: Callable[[Path], str | None]  # None where there are none

    @property
    def suffix(self) -> str:
        """Of the file's name."""
        return EXPORT_SUFFIXES[self.format]

    @property
    def own_engine(self) -> str:
        """The engine that runs such files by default."""
        return next(iter(self.engines))


_KINDS = (
    FileKind(
        "onnx", ("fp32", "int8"), {"onnxruntime": OnnxRuntimeEngine, "openvino": OpenVinoEngine},
        write_onnx, read_onnx_metadata,
    ),
    FileKind(
        "openvino", ("fp32", "bf16", "int8"), {"openvino": OpenVinoEngine},
        write_openvino, read_openvino_metadata,
    ),
    FileKind("pt2", ("fp32",), {"torch": ProgramEngine}, write_pt2, read_pt2_metadata),
)  # fmt: skip
FILE_KINDS = {kind.suffix: kind for kind in _KINDS}
FORMATS = {kind.format: kind for kind in _KINDS}


def kind_for_engine(engine: str) -> FileKind:
    """The kind of file that is written for an engine: the one that it runs by default."""
    return next(kind for kind in _KINDS if kind.own_engine == engine)


def run_file(path: Path, precision: str, engine: str = "auto") -> GraphEngine:
    """The engine for an exported file.

    Raises:
        UserError: the engine runs no such files, its package is missing, or the file is damaged.
    """
    kind = FILE_KINDS[path.suffix]
    if engine not in ("auto", *kind.engines):
        raise UserError(f"--engine {engine} does not run {kind.suffix} files; {' or '.join(kind.engines)} does")
    return kind.engines[kind.own_engine if engine == "auto" else engine](path, precision)


def write_file(graph: Any, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write a graph in the format that the path's suffix names, with its metadata."""
    FILE_KINDS[path.suffix].write(graph, path, json.dumps(metadata))


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of an exported file.

    Raises:
        UserError: the file is missing, damaged, or not ours.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; expected a file written by opendetr export")
    for part in (path, path.with_suffix(".bin")):  # of OpenVINO's two files
        refuse_pointer(part)
    try:
        found: Any = json.loads(FILE_KINDS[path.suffix].read_metadata(path) or "{}")
    except UserError:
        raise
    except Exception as error:  # each format's reader has its own classes of exceptions
        raise UserError(f"{path} cannot be read ({first_line(error)}); export it again") from None
    if not isinstance(found, dict) or not {"labels", "preprocessing", "precision", "inputs"} <= set(found):
        raise UserError(f"{path} was not written by opendetr export: its metadata lack classes and preprocessing")
    return found
