"""`torch.export`'s programs, run by PyTorch, and the metadata of `.pt2` files."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.export import ExportedProgram

from opendetr.engines.graph_engine import METADATA, OUTPUTS, GraphEngine, inputs
from opendetr.engines.program_archive import harmless_copy, read_extra
from opendetr.errors import UserError, first_line
from opendetr.options import OneEngine


def write_pt2(program: ExportedProgram, path: Path, metadata: str) -> None:
    """Write a `torch.export` archive.

    Raises:
        UserError: torch cannot write this model.
    """
    # Inside, since the module is private: where another version of torch has moved it, only writing pt2 fails.
    from torch._export.serde.serialize import SerializeError

    try:
        torch.export.save(program, path, extra_files={METADATA: metadata})
    except SerializeError as error:
        raise UserError(f"torch cannot write this model as pt2 ({first_line(error)}); use --format onnx") from None


def read_pt2_metadata(path: Path) -> str | None:
    """The metadata of a file; None where it has none. For a damaged file zipfile raises exceptions of many kinds."""
    return read_extra(path, METADATA)


class ProgramEngine(GraphEngine):
    """A `.pt2` archive, run by PyTorch on the CPU in fp32."""

    name: OneEngine = "torch"

    def __init__(self, path: Path, precision: str = "fp32") -> None:
        """Load a program; `precision` is `fp32`, the only one that such files have.

        Raises:
            UserError: the file is damaged, or might run code.
        """
        logging.getLogger("torch.export").setLevel(logging.ERROR)  # it logs tracebacks as warnings
        try:
            program = torch.export.load(harmless_copy(path))
        except UserError:
            raise
        except Exception:  # torch, zipfile and json raise exceptions of many kinds
            raise UserError(
                f"{path} cannot be run by PyTorch {torch.__version__}: it is damaged, or of another version; "
                f"export it again"
            ) from None
        self.module, self.precision = program.module(), precision

    def outputs(
        self, images: Tensor, padding_mask: Bool[Tensor, "B H W"] | None, names: Sequence[str] = ()
    ) -> dict[str, Tensor]:
        """The graph's outputs of these names, or all of them."""
        with torch.no_grad():
            found = dict(zip((*OUTPUTS, "attention"), self.module(*inputs(images, padding_mask))))
        return {name: found[name] for name in names or found}
