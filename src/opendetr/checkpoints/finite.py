"""Weights that are no numbers: refused by name wherever tensors are read, before anything is computed with them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from opendetr.errors import UserError


def require_finite(
    state: Mapping[str, Tensor], source: str, name_there: Callable[[str], str] = lambda name: name
) -> None:
    """Check that all tensors are finite; `name_there` gives the name of a tensor in the source.

    Raises:
        UserError: names the first one that is not, and how many more are not; or one of a kind of numbers, such as
            float8, that PyTorch does not compute with.
    """
    wrong = [name for name, tensor in state.items() if not _is_finite(tensor, name_there(name), source)]
    if wrong:
        bad = int((~torch.isfinite(state[wrong[0]])).sum())
        others = f" and {len(wrong) - 1} more tensors" if len(wrong) > 1 else ""
        raise UserError(
            f"{source} holds weights that are no finite numbers (NaN or infinite): {bad} of the "
            f"{state[wrong[0]].numel()} values of {name_there(wrong[0])}{others}; it was written after its training "
            f"diverged, or is damaged: use an earlier checkpoint"
        )


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors of a model that hold NaN or infinite values."""
    return [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]


def _is_finite(tensor: Tensor, name: str, source: str) -> bool:
    try:
        return bool(torch.isfinite(tensor).all())
    except (RuntimeError, NotImplementedError):
        kind = str(tensor.dtype).removeprefix("torch.")
        raise UserError(
            f"{source}: the kind of numbers of {name}, {kind}, is not known here; save its weights as float32, "
            f"float16 or bfloat16"
        ) from None


def tensors_in(value: Any, name: str = "") -> dict[str, Tensor]:
    """All tensors in nested dictionaries and lists, by the keys that lead to them, with dots between."""
    if isinstance(value, Tensor):
        return {name: value}
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    found: dict[str, Tensor] = {}
    for key, inner in items:
        found |= tensors_in(inner, f"{name}.{key}" if name else str(key))
    return found
