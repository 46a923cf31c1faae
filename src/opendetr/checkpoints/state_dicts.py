"""The weights of a DETR in whatever a file holds: out of wrappers, without prefixes, under the names of their library.

A file may hold a state dict, or dictionaries in which one lies: of the official code (`model`), of a trainer
(`state_dict`, `model_state_dict`), of Lightning, with averaged weights (`ema`). DDP, `torch.compile` and modules around
the model put prefixes before the names of tensors (`module.`, `_orig_mod.`, `model.`).
"""

import argparse
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from opendetr.checkpoints.other_architectures import is_backbone_alone, other_architecture
from opendetr.checkpoints.pickles import NotRead
from opendetr.checkpoints.shapes import require_stored
from opendetr.errors import UserError
from opendetr.wording import counted

Library = Literal["official", "huggingface", "opendetr"]

# Tensors that every DETR of a library has; two, so that a file that lacks one can be told what it lacks.
OFFICIAL = ("input_proj.weight", "transformer.decoder.norm.weight")
HUGGINGFACE = ("model.input_projection.weight", "model.decoder.layernorm.weight")
ANCHORS = (*OFFICIAL, *HUGGINGFACE)
INSERTED = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
AVERAGED = re.compile(r"(?:^|[._])(?:(?:model)?ema|averaged?|swa|teacher)(?=[._]|$)", re.IGNORECASE)
OF_LOSS = ("criterion.", "matcher.", "postprocessors.")  # beside a model without a prefix
OF_MASKS = ("mask_head.", "bbox_attention.")  # beside the detector `detr.` of a panoptic model
DEEPEST = 4  # dictionaries within each other


@dataclass(frozen=True)
class FoundWeights:
    """The state dict of a DETR, and what a file says beside it."""

    library: Library  # whose names the tensors have
    state: dict[str, Tensor]  # float32, or half precision
    prefix: str  # of their names in the file
    panoptic: bool  # the detector of a panoptic model, without its masks
    arguments: Mapping[str, Any]  # of the official code, {} where there are none
    remarks: tuple[str, ...]  # sentences: what was chosen, changed and left out


def find_weights(content: Any, source: str) -> FoundWeights:
    """Find the weights of a DETR in the content of a file, which `source` names.

    Where there are averaged weights, these are taken.

    Raises:
        UserError: there are none, or they are of another architecture, which is named.
    """
    if isinstance(content, NotRead):
        raise UserError(
            f"{source} holds a pickled object instead of weights, and no code in it is run; save the weights of a "
            f"model alone by torch.save(model.state_dict(), FILE)"
        )
    states = dict(states_in(content))
    if not states:
        raise UserError(f"{source} holds no weights; expected a state dict of a DETR, or a dictionary with one")
    found = {(place, prefix): state for place, state in states.items() for prefix in _prefixes(state)}
    if not found:
        raise UserError(_what_else(max(states.values(), key=len), source))
    (place, prefix), others = _chosen(list(found))
    whole = found[place, prefix]
    require_stored(whole, source)
    if other := other_architecture(name for name in whole if name.startswith(prefix)):
        raise UserError(_of_another(source, other))
    known = tuple(before for at, before in found if at == place)
    inside = tuple(before for before in known if before != prefix and before.startswith(prefix))
    state = {
        name.removeprefix(prefix): tensor for name, tensor in whole.items()
        if name.startswith(prefix) and not name.startswith(inside)
    }  # fmt: skip
    if averaged_only := _lacking(state, found, (place, prefix)):
        state |= averaged_only
    of_loss = [name for name in state if name.startswith(OF_LOSS)]
    state = {name: tensor for name, tensor in state.items() if name not in of_loss}
    outer = prefix.removesuffix("detr.")
    panoptic = outer != prefix and any(name.startswith(tuple(outer + part for part in OF_MASKS)) for name in whole)
    remarks = [_said_of_choice((place, prefix), others)] if others else []
    if averaged_only:
        remarks.append(f"{counted(len(averaged_only), 'tensor')} that is not averaged: from the raw weights")
    if (beside := [name for name in whole if not name.startswith(known)] + of_loss) and not panoptic:
        remarks.append(f"{counted(len(beside), 'tensor')} beside the model, such as {beside[0]}: left out")
    if doubles := [name for name, tensor in state.items() if tensor.dtype == torch.float64]:
        state |= {name: state[name].float() for name in doubles}
        remarks.append(f"{counted(len(doubles), 'tensor')} of float64: rounded to float32")
    return FoundWeights(_library(state), state, prefix, panoptic, _arguments(content), tuple(remarks))


def states_in(content: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The state dicts in nested dictionaries, with the keys that lead to them.

    Their names are without what `torch.compile` and others put between the modules' own.
    """
    if not isinstance(content, Mapping) or depth > DEEPEST:
        return
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield place, {INSERTED.sub("", name): tensor for name, tensor in tensors.items()}
    for name, value in content.items():
        if isinstance(name, str):
            yield from states_in(value, f"{place}.{name}" if place else name, depth + 1)


def _prefixes(state: Mapping[str, Tensor]) -> list[str]:
    """What stands before the names of a DETR in a state dict; several, where it has several of them."""
    found = dict[str, None]()
    for name in state:
        for anchor in ANCHORS:
            if name == anchor or name.endswith("." + anchor):
                found[name.removesuffix(anchor)] = None
    return list(found)


def _chosen(found: list[tuple[str, str]]) -> tuple[tuple[str, str], list[tuple[str, str]]]:
    """The averaged weights, else the first; and the others."""
    best = next((one for one in found if any(map(AVERAGED.search, one))), found[0])
    return best, [one for one in found if one != best]


def _lacking(
    state: Mapping[str, Tensor], found: Mapping[tuple[str, str], Mapping[str, Tensor]], chosen: tuple[str, str]
) -> dict[str, Tensor]:
    """What averaged weights lack and others of the file have: an average of parameters has no statistics of norms."""
    lacking = dict[str, Tensor]()
    for place, prefix in found if any(map(AVERAGED.search, chosen)) else ():
        others = {name.removeprefix(prefix): t for name, t in found[place, prefix].items() if name.startswith(prefix)}
        if state.keys() < others.keys():
            lacking = {name: tensor for name, tensor in others.items() if name not in state}
    return lacking


def _said_of_choice(chosen: tuple[str, str], others: list[tuple[str, str]]) -> str:
    taken, left = (" under ".join(filter(None, (f"'{at}'", before))) for at, before in (chosen, others[0]))
    kind = "averaged" if any(map(AVERAGED.search, chosen)) else "first"
    return f"the {kind} weights are taken, {taken}; the file also has {left}"


def _library(state: Mapping[str, Tensor]) -> Library:
    if any(name in state for name in HUGGINGFACE):
        return "huggingface"
    return "opendetr" if any(name.startswith("backbone.body.") for name in state) else "official"


def _arguments(content: Any) -> Mapping[str, Any]:
    """The arguments of the official code, where a file has them, or a trainer around that code keeps them."""
    if not isinstance(content, Mapping):
        return {}
    beside = _as_mapping(content.get("hyper_parameters"))
    inside = (_as_mapping(value) for value in beside.values())  # as `save_hyperparameters` of one argument `args`
    kept = _as_mapping(content.get("args")) or next((one for one in (beside, *inside) if "nheads" in one), {})
    return {name: value for name, value in kept.items() if isinstance(name, str)}


def _as_mapping(value: Any) -> Mapping[Any, Any]:
    value = vars(value) if isinstance(value, argparse.Namespace) else value
    return value if isinstance(value, Mapping) else {}


def _what_else(state: Mapping[str, Tensor], source: str) -> str:
    """A sentence about weights that are no DETR's."""
    if other := other_architecture(state):
        return _of_another(source, other)
    if any(name.endswith("input_projection.weight") for name in state):
        return (
            f"{source} holds the weights of a DetrModel of transformers, which has no heads for classes and boxes; "
            f"save those of DetrForObjectDetection"
        )
    if is_backbone_alone(state):
        return (
            f"{source} holds the weights of a backbone alone (such as '{next(iter(state))}'), of no DETR; "
            f"to train with it, give it by --backbone-weights"
        )
    return (
        f"{source} holds no weights of a DETR: its tensors, such as '{next(iter(state))}', have neither the names of "
        f"the official code, nor those of DetrForObjectDetection"
    )


def _of_another(source: str, other: tuple[str, str]) -> str:
    architecture, telling = other
    return (
        f"{source} holds weights of another architecture, {architecture}, as its tensor '{telling}' tells; opendetr "
        f"reads those of DETR"
    )
