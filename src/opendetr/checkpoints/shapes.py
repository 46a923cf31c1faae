"""What the shapes of weights say about a config, before any module is built: no number in a file allocates memory."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from opendetr.config import ModelConfig
from opendetr.errors import UserError, first_line

QUERIES = ("query_embed.weight", "query_position_embeddings.weight")  # ours and the official code's, transformers'
LAYER = re.compile(r"transformer\.(encoder|decoder)\.layers\.(\d+)\.")


def shapes_in(path: Path) -> dict[str, Sequence[int]]:
    """The shapes in a safetensors file by name; the weights are not read.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 # no mapping
    except Exception as error:  # safetensors raises many kinds of errors
        raise UserError(f"{path} is damaged, or holds no weights ({first_line(error)}); get the file anew") from None


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, Sequence[int]]:
    """The shapes of a state dict by name."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def require_shapes(config: ModelConfig, shapes: Mapping[str, Sequence[int]], source: str) -> None:
    """Check that a config is that of the weights, whose names are ours, as far as its numbers go.

    Raises:
        UserError: a number contradicts the weights; the sentence names it, and what the weights have.
    """
    layers = {stack: 0 for stack in ("encoder", "decoder")}
    for name in shapes:
        if layer := LAYER.match(name):
            layers[layer[1]] = max(layers[layer[1]], int(layer[2]) + 1)
    found = {f"num_{stack}_layers": number for stack, number in layers.items()}
    for key, name in (
        ("embed_dim", "transformer.decoder.norm.weight"),
        ("num_queries", "query_embed.weight"),
        ("feedforward_dim", "transformer.decoder.layers.0.ffn.linear1.weight"),
    ):
        if shapes.get(name):
            found[key] = shapes[name][0]
    if config.num_queries < 1:  # which in a recipe means that their number is yet to be chosen
        raise UserError(f"{source}: model.num_queries is 0, and a model has at least one; get it anew")
    for key, value in found.items():
        if getattr(config, key) != value:
            raise UserError(
                f"{source}: model.{key} is {getattr(config, key)}, and the weights have {value}: they "
                f"are of different models; get both anew"
            )


def require_stored(state: Mapping[str, Tensor], source: str) -> None:
    """Check that every tensor of a pickle has all its values in the file: a single one can pose as any number of them.

    Raises:
        UserError: one does not, or is sparse or quantised; or there are no object queries.
    """
    for name, tensor in state.items():
        if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
            kind = "without values" if tensor.is_meta else "quantised" if tensor.is_quantized else "sparse"
            raise UserError(f"{source}: the tensor '{name}' is {kind}; save the weights as plain tensors with values")
        if name.endswith(QUERIES) and not tensor.numel():
            raise UserError(f"{source}: '{name}' has no object queries; get the file anew")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise UserError(f"{source}: '{name}' poses as {list(tensor.shape)} and has fewer values; get the file anew")
