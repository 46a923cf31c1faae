"""`torch.export`'s archives, read so that nothing in them runs but operations on tensors.

`torch.export.load` has no safe mode: weights, constants and sample inputs may be pickles and scripted objects, sizes
and guards are texts that become Python, an operation may be any attribute of `torch`, and compiled libraries may lie
beside them. So what `opendetr export` writes is copied, and anything else is refused; torch reads the copy alone.
"""

import ast
import io
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from opendetr.errors import UserError

PROGRAM = "models/model.json"
TENSORS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")  # which is where
PICKLES = re.compile(r"data/(weights|constants|sample_inputs)/model\.pt")  # weights: of torch 2.8 and before
STORED = re.compile(r"data/weights/weight_\d+|data/constants/tensor_\d+")
OTHERS = re.compile(r"archive_format|archive_version|byteorder|version|\.(data|format)\S*|extra/\w+")

TARGETS = re.compile(
    r"torch\.ops\.aten\.(?!from_file\b|save\b)((?!_)\w+|__(and|or|xor)__|_assert_(tensor_metadata|scalar))\.(?!__)\w+|"
    r"torch\.ops\.higher_order\.wrap_with_(autocast|set_grad_enabled)|torch\._?sym_\w+|math\.(ceil|floor|trunc|sqrt)|"
    r"_operator\.(add|sub|mul|truediv|floordiv|mod|neg|abs|eq|ne|lt|le|gt|ge|and_|or_|getitem)"
)
STRINGS = ("cpu", "constant", "reflect", "replicate", "circular", "none", "tanh", "floor", "trunc", "ij", "xy")
FUNCTIONS = (  # of sympy and of torch.utils._sympy.functions, on numbers
    "Symbol|Integer|Rational|Float|Add|Mul|Pow|Min|Max|Mod|Eq|Ne|Equality|Unequality|And|Or|Not|"
    "(Strict)?(Less|Greater)Than|FloorDiv|ModularIndexing|Where|PythonMod|CleanDiv|(Ceil|Floor|Trunc|Round)ToInt|"
    "CeilDiv|PowByNatural|FloatPow|(Int|Float)TrueDiv|TruncToFloat|RoundDecimal|ToFloat|Identity|Piecewise|ExprCondPair|"
    r"OpaqueUnaryFn_\w+|max|min|abs|round|math\.(ceil|floor|trunc|sqrt|log2|inf)|torch\.sym_(max|min|float|int|not|ite)|"
    r"torch\._sym_sqrt"
)
WORDS = "positive|integer|nonnegative|real|finite|nonzero|zero|negative|precision|True|False|and|or|not|int|float"
NUMBER = r"(?<!\d)\d{1,19}(\.\d{1,19})?(?!\d)"
# A size or a guard is made of these tokens, of which no other name can be made.
TOKEN = re.compile(
    rf"\b({FUNCTIONS}|{WORDS})\b|L\['\w+'\]|'([A-Za-z_]\w*|-?{NUMBER}(e[+-]?\d{{1,3}})?)'|"
    rf"\.((size|stride)\(\)(?=\[)|storage_offset\(\))|{NUMBER}|[-+*/%()<>=!,\[\] ]"
)
SYNTAX = (  # no shifts, no tuples and lists, which could be repeated
    ast.Expression, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Call, ast.keyword, ast.Attribute,
    ast.Subscript, ast.Name, ast.Constant, ast.Load, ast.boolop, ast.unaryop, ast.cmpop, ast.Add, ast.Sub, ast.Mult,
    ast.Div, ast.FloorDiv, ast.Mod, ast.Pow,
)  # fmt: skip
POWERS = ("Pow", "PowByNatural", "FloatPow", "RoundDecimal", "round")  # functions whose second argument is an exponent
NAMING = ("Symbol", "Integer", "Rational", "Float")  # functions of texts
HIGHEST_POWER = 10_000  # the product of all exponents of an expression
MOST_BITS = 1_000  # the precision of a number
METADATA = re.compile(r"[\w.,;:@<>\[\] -]*")  # from which modules an operation comes
NAME = re.compile(r"[\w.+*-]*")  # every other text


def read_extra(path: Path, name: str) -> str | None:
    """The text that was stored in an archive beside its program; None where there is none. The program is not read."""
    with _entries(path) as (archive, entries):
        entry = entries.get(f"extra/{name}")
        return None if entry is None else archive.read(entry).decode()


def harmless_copy(path: Path) -> io.BytesIO:
    """The program of an archive, for `torch.export.load`.

    Raises:
        UserError: it holds what could run code, or no program.
    """
    copy = io.BytesIO()
    with _entries(path) as (archive, entries), zipfile.ZipFile(copy, "w") as new:
        for name, entry in entries.items():
            if name.startswith("extra/"):
                continue
            content = archive.read(entry)
            if name == PROGRAM:
                program = json.loads(content, object_hook=_without_stack_trace)
                _require_harmless_graph(program, path)
                content = json.dumps(program).encode()
            elif name in TENSORS:
                _require_plain_tensors(json.loads(content), path)
            elif PICKLES.fullmatch(name):
                _require_harmless_pickle(content, name, path)
            new.writestr(f"archive/{name}", content)
    copy.seek(0)
    return copy


@contextmanager
def _entries(path: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    """The archive and its entries by their names in the program's folder, which all have known names."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
        for name, entry in entries.items():
            named = name in (PROGRAM, *TENSORS)
            if not (named or any(kind.fullmatch(name) for kind in (STORED, OTHERS, PICKLES))):
                raise _refused(path, f"the entry {entry.filename}")
            if entry.compress_type != zipfile.ZIP_STORED:  # which may be far larger in memory than in the file
                raise _refused(path, f"the compressed entry {entry.filename}")
            if not entry.file_size and STORED.fullmatch(name):  # torch takes zeros, as many as are asked for
                raise UserError(f"{path} is damaged: its entry {entry.filename} is empty; export it again")
        if PROGRAM not in entries:
            raise UserError(f"{path} holds no {PROGRAM}; expected what opendetr export writes: export it again")
        yield archive, entries


def _refused(path: Path, what: str) -> UserError:
    return UserError(
        f"{path} holds {what:.200}, which opendetr export does not write and which might run code: it is refused; "
        f"export the model again, or ask its author for a .onnx file"
    )


def _require_harmless_pickle(content: bytes, name: str, path: Path) -> None:
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # torch and pickle raise many kinds of errors; after any of them torch.export unpickles all
        raise _refused(path, f"code in {name}") from None


def _require_plain_tensors(config: Any, path: Path) -> None:
    """The tensors of an archive as plain bytes: no pickles and no scripted objects."""
    for name, payload in config["config"].items():
        plain = re.fullmatch(r"(weight|tensor)_\d+", str(payload["path_name"])) and payload["use_pickle"] is False
        if not plain or not NAME.fullmatch(name):
            raise _refused(path, f"the object {payload['path_name']} for {name}")


def _without_stack_trace(value: dict[str, Any]) -> dict[str, Any]:
    """An object of the program without lines of its source, which earlier versions wrote."""
    value.pop("stack_trace", None)
    return value


def _require_harmless_graph(value: Any, path: Path, key: str = "") -> None:
    """Every text in the program is of the kind that its key has in our files; `key` is that of the value."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not NAME.fullmatch(name) or name in ("as_operator", "as_custom_obj"):
                raise _refused(path, f"'{name}' in its program")
            _require_harmless_graph(inner, path, key if key == "metadata" else name)
    elif isinstance(value, list):
        for inner in value:
            _require_harmless_graph(inner, path, key)
    elif isinstance(value, str):
        kinds: dict[str, Callable[[str], object]] = {
            "target": TARGETS.fullmatch, "expr_str": _is_expression, "guards_code": _is_expression,
            "as_string": STRINGS.__contains__, "as_strings": STRINGS.__contains__, "metadata": METADATA.fullmatch,
            "in_spec": _is_plain_tree, "out_spec": _is_plain_tree,
        }  # fmt: skip
        if not kinds.get(key, NAME.fullmatch)(value):
            raise _refused(path, f"{key} '{value}' in its program")


def _is_expression(text: str) -> bool:
    """Whether a size or guard is made of known names, and is quick to compute: its exponents are small and literal."""
    if TOKEN.sub("", text):
        return False
    try:
        nodes = list(ast.walk(ast.parse(text.strip(), mode="eval")))
    except SyntaxError:
        return False
    exponents = [node.right for node in nodes if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)]
    calls = [(ast.unparse(node.func), node) for node in nodes if isinstance(node, ast.Call)]
    exponents += [call.args[1] for name, call in calls if name in POWERS and len(call.args) > 1]
    bits = [pair.value for _, call in calls for pair in call.keywords if pair.arg == "precision"]
    powers = [_literal(node) for node in exponents]
    named = {id(inner) for name, call in calls if name in NAMING for inner in call.args}
    named |= {id(node.slice) for node in nodes if isinstance(node, ast.Subscript)}
    texts = [node for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return (
        all(isinstance(node, SYNTAX) for node in nodes)
        and all(id(text) in named for text in texts)  # any other could be repeated
        and all(value <= 99 for value in powers)
        and math.prod(max(value, 1) for value in powers) <= HIGHEST_POWER
        and all(_literal(node) <= MOST_BITS for node in bits)
    )


def _literal(node: ast.expr) -> float:
    """The size of a number in an expression, also as sympy writes it; infinite of anything else."""
    while isinstance(node, ast.UnaryOp | ast.Call):
        if isinstance(node, ast.UnaryOp):
            node = node.operand
        elif isinstance(node.func, ast.Name) and node.func.id in ("Integer", "Float", "Rational") and node.args:
            node = node.args[0]
        else:
            return math.inf
    try:
        return abs(float(node.value)) if isinstance(node, ast.Constant) else math.inf  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.inf


def _is_plain_tree(text: str) -> bool:
    """Whether a nested structure of tensors is made of tuples, lists and dicts; other types would be imported."""
    known = {"type", "context", "children_spec", "null", "[]", "builtins.tuple", "builtins.list", "builtins.dict"}
    return set(re.findall(r'"([^"]*)"', text)) <= known
