"""Weights from elsewhere go into a model all or not at all, and what does not fit is listed."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from opendetr.checkpoints.native import Checkpoint
from opendetr.errors import UserError, first_line

SHOWN = 20  # names per sentence
COUNTER = "num_batches_tracked"  # batch norm's bookkeeping, which a frozen one does without


@contextmanager
def damage_is_said(path: Path) -> Iterator[None]:
    """Turn whatever a file with the wrong kind of content leads to into a sentence that names the file.

    It is meant for reading only: around the building of a model it would hide mistakes of our own.

    Raises:
        UserError: instead of what would be a traceback.
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
    """Load a state dict in our names, strictly.

    Args:
        model: takes the weights.
        state: under our names.
        source: where it comes from, for the error's sentence.
        name_there: what a tensor of ours is called in the source.

    Raises:
        UserError: lists the names that are missing, unknown or of another shape, as the source has them.
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(COUNTER)}
    given = {name: tensor for name, tensor in state.items() if not name.endswith(COUNTER)}
    wrong = {
        "missing": sorted(own.keys() - given.keys()),
        "unknown": sorted(given.keys() - own.keys()),
        "of another shape": sorted(name for name in own.keys() & given.keys() if own[name].shape != given[name].shape),
        "of float64, which this library does not keep": sorted(n for n, t in given.items() if t.dtype == torch.float64),
    }
    if any(wrong.values()):
        shapes = {
            name: f" {list(given[name].shape)} instead of {list(own[name].shape)}" for name in wrong["of another shape"]
        }
        listed = {
            kind: _listed([name_there(name) + (shapes[name] if kind == "of another shape" else "") for name in names])
            for kind, names in wrong.items()
        }
        found = "; ".join(f"{len(names)} {kind}: {listed[kind]}" for kind, names in wrong.items() if names)
        raise UserError(f"{source} does not hold the model it seems to be: {found}")
    model.load_state_dict(given, strict=False)


def as_stored(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a model of float32 cannot keep of a state dict in our names; `stored_weights` brings it back.

    `kinds` are the tensors that are no float32, `counters` batch norm's, where the file has them.
    """
    kinds = {
        name: str(value.dtype).removeprefix("torch.") for name, value in state.items() if not name.endswith(COUNTER)
    }
    return {
        "kinds": {name: kind for name, kind in kinds.items() if kind != "float32"},
        "counters": {name: int(value) for name, value in state.items() if name.endswith(COUNTER)},
    }


def stored_weights(checkpoint: Checkpoint, form: str) -> dict[str, Tensor]:
    """The weights in the kinds of number of the file they came from: read and written, they are the same to the bit.

    Args:
        checkpoint: of any origin.
        form: that is written; counters go back only into the form they came from.
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
