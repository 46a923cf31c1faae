"""One Python file from a template and the parts of this package that it imports: for programs without opendetr.

The template is a module like any other. What it imports from opendetr is copied in front of it, and what that needs in
turn, without shape annotations and without what only training, explaining and files need.
"""

import ast
from copy import deepcopy
from functools import cache
from importlib import resources
from typing import Any

SHAPES = {"Bool", "Float", "Int", "Shaped"}  # of jaxtyping
ELSEWHERE = {"UserError": "ValueError", "Scoring": "Any", "ModelConfig": "Any", "LossConfig": "Any"}
ABSENT = "denoising"  # a parameter that only training gives
LEFT_OUT = {
    "SoftmaxScoring.smallest_normaliser", "SoftmaxScoring.matching_cost", "SoftmaxScoring.normaliser",
    "SoftmaxScoring.loss", "SoftmaxScoring.finds_something", "FocalScoring.smallest_normaliser",
    "FocalScoring.matching_cost", "FocalScoring.normaliser", "FocalScoring.loss", "FocalScoring.finds_something",
    "DetrOutput.last_layer", "MultiheadAttention.weights", "Preprocessing.to_json", "Preprocessing.from_json",
    "Preprocessing.resized", "Preprocessing.with_shorter_side", "Preprocessing.framed",
}  # fmt: skip
REPLACED = {  # frozen batch norm is not folded into convolutions: that is for training and for bf16
    "Backbone._freeze": "def _freeze(self, freeze_depthwise: bool) -> None:\n"
    "    from timm.layers import freeze_batch_norm_2d\n"
    "    self.body = freeze_batch_norm_2d(self.body)"
}


@cache
def one_file(template: str) -> str:
    """The source of a template in this folder with everything that it imports from opendetr."""
    own = _Module(f"checkpoints/{template}")
    found = _File()
    for statement in own.body:
        found.take(own, statement)
    unknown = sorted((LEFT_OUT | REPLACED.keys()) - found.simplified.used)
    assert not unknown, f"{', '.join(unknown)}: no such member is in the file, so it cannot be left out or replaced"
    imports = "\n".join(sorted(found.imports))
    return f'"""{own.docstring}"""\n\n' + "\n\n\n".join([imports, *found.parts.values()]) + "\n"


class _Module:
    """A file of this package, and where the names in it come from."""

    def __init__(self, path: str) -> None:
        tree = ast.parse(resources.files("opendetr").joinpath(path).read_text(encoding="utf-8"))
        self.path, self.docstring = path, ast.get_docstring(tree, clean=False)
        self.body = [node for node in tree.body[1:] if not isinstance(node, ast.Import | ast.ImportFrom)]
        self.defined = {name: node for node in self.body for name in _names_given(node)}
        self.external: dict[str, str] = {}  # name -> the statement that imports it
        self.internal: dict[str, str] = {}  # name -> the file of this package
        for node in tree.body:
            if isinstance(node, ast.Import):
                self.external |= {alias.asname or alias.name: f"import {ast.unparse(alias)}" for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("opendetr."):
                path = "/".join(node.module.split(".")[1:]) + ".py"
                self.internal |= {alias.name: path for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                line = f"from {node.module} import"
                self.external |= {alias.asname or alias.name: f"{line} {ast.unparse(alias)}" for alias in node.names}


class _File:
    """What has been taken so far."""

    def __init__(self) -> None:
        self.imports = {"from typing import Any"}  # `ELSEWHERE` needs it
        self.parts: dict[str, str] = {}  # by names, in the order of the file
        self.simplified = _Simplified()
        self._modules: dict[str, _Module] = {}
        self._homes: dict[str, str] = {}  # name -> the file that it is from

    def take(self, module: _Module, statement: ast.stmt) -> None:
        """Add a statement behind all that it needs, unless it is there."""
        key = " ".join(_names_given(statement)) or ast.unparse(statement)
        home = self._homes.setdefault(key, module.path)
        assert home == module.path, f"{home} and {module.path} both define {key}: one file has room for one"
        if key in self.parts:
            return
        simple = self.simplified.visit(deepcopy(statement))
        self.parts[key] = ""
        for name in dict.fromkeys(node.id for node in ast.walk(simple) if isinstance(node, ast.Name)):
            if name in module.external:
                self.imports.add(module.external[name])
            elif name in module.internal:
                other = self._module(module.internal[name])
                self.take(other, other.defined[name])
            elif name in module.defined:
                self.take(module, module.defined[name])
        del self.parts[key]  # it moves to the end
        self.parts[key] = ast.unparse(ast.fix_missing_locations(simple))

    def _module(self, path: str) -> _Module:
        if path not in self._modules:
            self._modules[path] = _Module(path)
        return self._modules[path]


def _names_given(statement: ast.stmt) -> list[str]:
    """The names that a statement of a module defines."""
    if isinstance(statement, ast.ClassDef | ast.FunctionDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [node.id for target in targets if target for node in ast.walk(target) if isinstance(node, ast.Name)]


class _Simplified(ast.NodeTransformer):
    """A statement without shapes, without the members that are left out, and without the absent parameter."""

    def __init__(self) -> None:
        self.used = set[str]()  # names of `LEFT_OUT` and `REPLACED` that were met

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Leave out or replace members."""
        body: list[ast.stmt] = []
        for member in node.body:
            name = f"{node.name}.{''.join(_names_given(member))}"
            self.used.update({name} & (LEFT_OUT | REPLACED.keys()))
            if name in REPLACED:
                body += ast.parse(REPLACED[name]).body
            elif name not in LEFT_OUT:
                body.append(member)
        node.body = body
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Leave out the absent parameter, and what only follows where it is given."""
        if any(argument.arg == ABSENT for argument in node.args.args):
            assert node.args.args.pop().arg == ABSENT, f"{ABSENT} must be the last parameter of {node.name}"
            node.args.defaults.pop()
            node.body = _without_absent(node.body)
        return self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        """`Float[Tensor, "B Q"]` is `Tensor`."""
        if isinstance(node.value, ast.Name) and node.value.id in SHAPES and isinstance(node.slice, ast.Tuple):
            return node.slice.elts[0]
        return self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """`Tensor | Tensor` is `Tensor`."""
        self.generic_visit(node)
        is_double = isinstance(node.op, ast.BitOr) and ast.dump(node.left) == ast.dump(node.right)
        return node.left if is_double else node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """Docstrings call the errors as the code does."""
        return ast.Constant(node.value.replace("UserError", "ValueError")) if isinstance(node.value, str) else node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Names of opendetr that have another name there."""
        return ast.Name(ELSEWHERE.get(node.id, node.id), node.ctx)


def _without_absent(body: list[ast.stmt]) -> list[ast.stmt]:
    """A function's body where the absent parameter is None: calls do without it, and its conditions are decided."""
    simpler: list[ast.stmt] = []
    for statement in body:
        if isinstance(statement, ast.Assert) and ABSENT in ast.unparse(statement):
            continue
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == f"{ABSENT} is None":
            return simpler + statement.body  # it returns
        for node in ast.walk(statement):
            if isinstance(node, ast.Call):
                node.args = [argument for argument in node.args if not _is_absent(argument)]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # the docstring's line about it
                lines = node.value.split("\n")
                node.value = "\n".join(line for line in lines if not line.strip().startswith(f"{ABSENT}:"))
        simpler.append(statement)
    return simpler


def _is_absent(node: Any) -> bool:
    return isinstance(node, ast.Name) and node.id == ABSENT
