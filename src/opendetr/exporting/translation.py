"""The traced model as ONNX, in a third of the time that PyTorch takes by itself."""

import copy
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram

from opendetr.engines.graph_engine import INPUTS, OUTPUTS
from opendetr.errors import UserError, first_line
from opendetr.exporting.graph import ExportError

OPSET = 20


def to_onnx(program: ExportedProgram, outputs: Sequence[str] = ()) -> Any:
    """The graph as an `onnx.ModelProto`; `outputs` are names for what it gives, where that is not `OUTPUTS`.

    PyTorch first traces a program twice more, to replace the operators that ONNX lacks. Ours has few of them, and
    `_operators` translates those; a program with others goes the long way. Only constants are folded: the rewriting
    that torch does by default takes as long as all else here, and every program that runs the graph does it again when
    it loads it.

    Raises:
        UserError: the packages for it are missing.
    """
    try:
        import onnx  # noqa: F401 # torch needs it
        from onnxscript.optimizer import fold_constants, remove_unused_nodes
    except ImportError:
        raise UserError("writing ONNX needs the packages onnx and onnxscript: pip install 'opendetr[export]'") from None
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it logs every unchanged node
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            try:
                written = _translate(_without_decompositions(program), outputs)
            except torch.onnx.OnnxExporterError:  # an operator that neither ONNX nor `_operators` has
                written = _translate(program, outputs)
            fold_constants(written.model)
            remove_unused_nodes(written.model)
        except Exception as error:  # torch has many classes of exceptions
            raise ExportError(f"torch cannot write this model as ONNX ({first_line(error)})") from error
    return written.model_proto


def part_of(graph: Any, outputs: Mapping[str, str]) -> Any:
    """A graph of its own that computes some outputs of an `onnx.ModelProto`.

    Args:
        graph: stays as it is.
        outputs: the name of each in `graph`, and the one it gets.
    """
    from onnxscript import ir
    from onnxscript.optimizer import remove_unused_nodes

    part = ir.from_proto(graph)
    known = {value.name: value for value in part.graph.outputs}
    part.graph.outputs[:] = [known[name] for name in outputs]
    remove_unused_nodes(part)
    for value, name in zip(part.graph.outputs, outputs.values()):
        value.name = name
    return ir.to_proto(part)


def _translate(program: ExportedProgram, outputs: Sequence[str]) -> Any:
    with_attention = len(program.graph_signature.user_outputs) > len(OUTPUTS)
    names = outputs or (*OUTPUTS, *(["attention"] if with_attention else []))
    return torch.onnx.export(
        program, dynamo=True, opset_version=OPSET, verbose=False, optimize=False,
        input_names=list(INPUTS), output_names=list(names),
        custom_translation_table=_operators(),
    )  # fmt: skip


def _without_decompositions(program: ExportedProgram) -> ExportedProgram:
    """A copy of the program, with the same weights, that answers the request to decompose itself with itself.

    The translation writes into the graph that it is given, so the program itself must not be that.

    Raises:
        OnnxExporterError: the program needs the decomposition, since it reads more than the size of a tensor that is
            changed in place.
    """
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is not None and schema.is_mutable:
            readers = [user for user in node.args[0].users if user.target is not torch.ops.aten.sym_size.int]
            if len(readers) > 1:
                raise torch.onnx.OnnxExporterError(f"{node.args[0]} is read after {node} changed it")
    weights = {id(part): part for part in (program.state_dict, program.constants)}
    alike: Any = copy.deepcopy(program, weights)
    alike.graph.eliminate_dead_code()  # questions about types, which ONNX has no operator for
    alike.run_decompositions = lambda *_: alike
    return alike  # type: ignore[no-any-return]


def _operators() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The operators of our models that PyTorch would decompose, in ONNX."""
    from onnxscript import opset20 as op

    def to_dtype(x: Any, dtype: int) -> Any:
        return op.Cast(x, to=dtype)

    def add_in_place(x: Any, y: Any) -> Any:
        return op.Add(x, y)

    def square(x: Any) -> Any:
        return op.Mul(x, x)

    def nan_to_num(x: Any, nan: float, posinf: float, neginf: float) -> Any:
        for is_meant, number in (
            (op.IsNaN(x), nan), (op.IsInf(x, detect_negative=0), posinf), (op.IsInf(x, detect_positive=0), neginf)
        ):  # fmt: skip
            x = op.Where(is_meant, op.CastLike(number, x), x)  # type: ignore[type-var] # a float becomes a constant
        return x

    def movedim(x: Any, source: int, destination: int) -> Any:
        axes = list(range(len(x.shape)))
        axes.insert(destination % len(axes), axes.pop(source))
        return op.Transpose(x, perm=axes)

    def eye(n: int, dtype: int = 1, **_: Any) -> Any:  # 1 is float32
        zeros: Any = op.ConstantOfShape([n, n])  # type: ignore[arg-type] # a list becomes a constant
        return op.EyeLike(zeros, dtype=dtype)

    aten = torch.ops.aten
    return {
        aten.to.dtype: to_dtype, aten.square.default: square, aten.nan_to_num.default: nan_to_num,
        aten.movedim.int: movedim, aten.add_.Tensor: add_in_place, aten.eye.default: eye,
    }  # fmt: skip
