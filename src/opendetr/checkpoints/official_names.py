"""The names of tensors in the official code and here, and the weights of any file under the official names."""

import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from opendetr.checkpoints.huggingface_names import file_names, has_their_backbone, name_in_files, to_ours
from opendetr.checkpoints.state_dicts import FoundWeights
from opendetr.errors import UserError


def our_name(name: str) -> str:
    """Our name of a tensor of the official code."""
    name = name.replace("backbone.0.body.", "backbone.body.").replace("backbone.1.", "position_encoding.")
    return re.sub(r"^(transformer\..*)\.(linear[12])\.", r"\1.ffn.\2.", name)


def official_name(name: str) -> str:
    """The inverse of `our_name`."""
    name = name.replace("backbone.body.", "backbone.0.body.").replace("position_encoding.", "backbone.1.")
    return name.replace(".ffn.linear", ".linear")


def official_weights(found: FoundWeights, path: Path) -> tuple[dict[str, Tensor], Callable[[str], str]]:
    """The weights under the official code's names, and the way from our names to those in the file."""
    if found.library == "huggingface":
        timm_backbone = not has_their_backbone(found.state)
        ours = to_ours(file_names(found.state))
        state = {official_name(name): tensor for name, tensor in ours.items()}
        return state, lambda name: found.prefix + name_in_files(name, timm_backbone=timm_backbone)
    if found.library == "opendetr":
        raise UserError(
            f"{path} holds weights of opendetr, which do not tell all of their architecture, nor sizes and classes; "
            f"give the model folder they are from, with its config"
        )
    return dict(found.state), lambda name: found.prefix + official_name(name)


def one_class(embed_dim: int) -> dict[str, Tensor]:
    """A class head for one class, in the place of one that will be replaced."""
    return {"class_embed.weight": torch.zeros(2, embed_dim), "class_embed.bias": torch.zeros(2)}
