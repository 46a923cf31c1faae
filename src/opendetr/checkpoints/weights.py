"""Loads all weights of another source or none, and lists those that do not fit."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from opendetr.checkpoints.finite import require_finite
from opendetr.checkpoints.native import Checkpoint
from opendetr.errors import UserError, first_line

SHOWN = 20  # names per sentence
COUNTER = "num_batches_tracked"  # batch norm's bookkeeping, which a frozen one does without


@contextmanager
def damage_is_said(path: Path) -> Iterator[None]:
    """Turn any error from a file's wrong content into one sentence, a UserError.

    It is for reading only: around the building of a model it would hide our own errors.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise UserError(
            f"{path} is damaged, or of no DETR: {type(error).__name__} {first_line(error)}; get the file anew"
        ) from None


def fill(
    model: nn.Module, state: Mapping[str, Tensor], source: str, name_there: Callable[[str], str] = lambda name: name
) -> None:
    """Load a state dict in our names, strictly; `name_there` gives the name of a tensor in the source.

    Raises:
        UserError: lists the names that are missing, unknown or of another shape, as the source has them; or a value is
            not finite.
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(COUNTER)}
    given = {name: tensor for name, tensor in state.items() if not name.endswith(COUNTER)}
    common = own.keys() & given.keys()
    reshaped = sorted(name for name in common if own[name].shape != given[name].shape)
    whole = sorted(name for name in common if own[name].is_floating_point() and not given[name].is_floating_point())
    wrong = {
        "missing": [name_there(name) for name in sorted(own.keys() - common)],
        "unknown": [name_there(name) for name in sorted(given.keys() - common)],
        "of another shape": [
            f"{name_there(name)} {list(given[name].shape)} instead of {list(own[name].shape)}" for name in reshaped
        ],
        "not of floating point": [f"{name_there(name)} ({given[name].dtype})" for name in whole],
    }
    if any(wrong.values()):
        found = "; ".join(f"{len(names)} {kind}: {_listed(names)}" for kind, names in wrong.items() if names)
        raise UserError(f"{source} does not hold the model it seems to be: {found}")
    require_finite(given, source, name_there)
    model.load_state_dict(given, strict=False)


def as_stored(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a float32 model cannot keep of a state dict in our names; `stored_weights` restores it.

    `kinds` are the types of tensors that are not float32, `counters` those of batch norm, where the file has them.
    """
    counters = {name: int(value) for name, value in state.items() if name.endswith(COUNTER)}
    others = {name: str(value.dtype).removeprefix("torch.") for name, value in state.items() if name not in counters}
    return {"kinds": {name: kind for name, kind in others.items() if kind != "float32"}, "counters": counters}


def stored_weights(checkpoint: Checkpoint, form: str) -> dict[str, Tensor]:
    """The weights in the types of the file they came from: after reading and writing, they are bit-equal.

    Counters are written only in the format `form` that they came from.
    """
    origin = checkpoint.origin
    weights = {
        name: tensor.detach().cpu().to(getattr(torch, origin.kinds.get(name, "float32"))).contiguous()
        for name, tensor in checkpoint.model.state_dict().items()
        if not name.endswith(COUNTER)
    }
    if origin.format == form:
        weights |= {name: torch.tensor(count) for name, count in origin.counters.items()}
    return weights


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
