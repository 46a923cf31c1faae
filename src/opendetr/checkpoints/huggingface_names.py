"""The names of tensors in Hugging Face's DETR and Table Transformer, in files and in memory, and here."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# Theirs (in files) and ours; {n} is a layer's number.
LAYERS = {
    "encoder": {
        "self_attn_layer_norm": "norm1", "fc1": "ffn.linear1", "fc2": "ffn.linear2", "final_layer_norm": "norm2",
        "self_attn.out_proj": "self_attn.out_proj",
    },
    "decoder": {
        "self_attn_layer_norm": "norm1", "encoder_attn_layer_norm": "norm2", "final_layer_norm": "norm3",
        "fc1": "ffn.linear1", "fc2": "ffn.linear2", "self_attn.out_proj": "self_attn.out_proj",
        "encoder_attn.out_proj": "multihead_attn.out_proj",
    },
}  # fmt: skip
ATTENTIONS = {
    "encoder": {"self_attn": "self_attn"},
    "decoder": {"self_attn": "self_attn", "encoder_attn": "multihead_attn"},
}
ELSEWHERE = {
    "model.input_projection": "input_proj",
    "model.query_position_embeddings": "query_embed",
    "model.encoder.layernorm": "transformer.encoder.norm",  # of the Table Transformer
    "model.decoder.layernorm": "transformer.decoder.norm",
    "model.position_embedding.row_embeddings": "position_encoding.row_embed",
    "model.position_embedding.column_embeddings": "position_encoding.col_embed",
    "class_labels_classifier": "class_embed",
    "bbox_predictor": "bbox_embed",
}
BACKBONE = "model.backbone.conv_encoder.model."


def has_their_backbone(state: Mapping[str, Tensor]) -> bool:
    """Whether the backbone is a ResNet of transformers, under its names, instead of a network of timm."""
    return any(re.match(r"model\.backbone\.(?:conv_encoder\.)?model\.encoder\.stages\.", name) for name in state)


def file_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict under the names of files, from any release: release 5 renames in memory."""
    renamed = {}
    for name, tensor in state.items():
        name = re.sub(r"^model\.backbone\.position_embedding\.", "model.position_embedding.", name)  # release 4
        name = re.sub(r"^model\.backbone\.(?!conv_encoder\.)", "model.backbone.conv_encoder.", name)
        name = re.sub(r"(layers\.\d+)\.mlp\.(fc[12])\.", r"\1.\2.", name)
        renamed[re.sub(r"(_attn)\.o_proj\.", r"\1.out_proj.", name)] = tensor
    return renamed


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in their file names under ours; unknown names are kept, for the error to list."""
    ours, separate = dict[str, Tensor](), dict[str, dict[str, Tensor]]()
    for name, tensor in state.items():
        layer = re.match(r"model\.(encoder|decoder)\.layers\.(\d+)\.(.*)\.(weight|bias)$", name)
        if name.startswith(BACKBONE):
            ours["backbone.body." + _timm_name(name.removeprefix(BACKBONE))] = tensor
        elif layer is not None:
            stack, number, part, kind = layer.groups()
            prefix = f"transformer.{stack}.layers.{number}"
            attention, _, projection = part.rpartition(".")
            if projection in ("q_proj", "k_proj", "v_proj") and attention in ATTENTIONS[stack]:
                key = f"{prefix}.{ATTENTIONS[stack][attention]}.in_proj_{kind}"
                separate.setdefault(key, {})[projection] = tensor
            else:
                ours[f"{prefix}.{LAYERS[stack].get(part, part)}.{kind}"] = tensor
        else:
            known = next((theirs for theirs in ELSEWHERE if name.startswith(theirs + ".")), None)
            ours[name if known is None else ELSEWHERE[known] + name.removeprefix(known)] = tensor
    for key, parts in separate.items():
        if parts.keys() == {"q_proj", "k_proj", "v_proj"}:  # one that lacks a part is reported as missing
            ours[key] = torch.cat([parts[name] for name in ("q_proj", "k_proj", "v_proj")])
    return ours


def from_ours(state: Mapping[str, Tensor], *, timm_backbone: bool = True) -> dict[str, Tensor]:
    """The inverse of `to_ours`."""
    theirs = {}
    parts = {stack: {ours: name for name, ours in names.items()} for stack, names in LAYERS.items()}
    attentions = {stack: {ours: name for name, ours in names.items()} for stack, names in ATTENTIONS.items()}
    elsewhere = {ours: name for name, ours in ELSEWHERE.items()}
    for name, tensor in state.items():
        layer = re.match(r"transformer\.(encoder|decoder)\.layers\.(\d+)\.(.*)\.(in_proj_)?(weight|bias)$", name)
        if name.startswith("backbone.body."):
            network = name.removeprefix("backbone.body.")
            theirs[BACKBONE + (network if timm_backbone else _transformers_name(network))] = tensor
        elif layer is not None:
            stack, number, part, joined, kind = layer.groups()
            prefix = f"model.{stack}.layers.{number}"
            if joined:
                for projection, piece in zip("qkv", tensor.chunk(3)):
                    theirs[f"{prefix}.{attentions[stack][part]}.{projection}_proj.{kind}"] = piece.contiguous()
            else:
                theirs[f"{prefix}.{parts[stack][part]}.{kind}"] = tensor
        else:
            known = next(ours for ours in elsewhere if name.startswith(ours + "."))
            theirs[elsewhere[known] + name.removeprefix(known)] = tensor
    return theirs


def name_in_files(name: str, *, timm_backbone: bool) -> str:
    """The name of a tensor of ours in their files; several names where they have several tensors."""
    try:
        return " + ".join(from_ours({name: torch.empty(3)}, timm_backbone=timm_backbone))
    except (KeyError, StopIteration):  # it is not ours
        return name


def _timm_name(name: str) -> str:
    """The name of a ResNet's tensor in transformers as it is in timm; timm's own stay."""
    name = re.sub(r"^embedder\.embedder\.convolution\.", "conv1.", name)
    name = re.sub(r"^embedder\.embedder\.normalization\.", "bn1.", name)
    match = re.match(
        r"encoder\.stages\.(\d+)\.layers\.(\d+)\.(shortcut|layer\.(\d+))\.(convolution|normalization)\.(.*)", name
    )
    if match is None:
        return name
    stage, block, where, number, kind, rest = match.groups()
    if where == "shortcut":
        return f"layer{int(stage) + 1}.{block}.downsample.{0 if kind == 'convolution' else 1}.{rest}"
    return f"layer{int(stage) + 1}.{block}.{'conv' if kind == 'convolution' else 'bn'}{int(number) + 1}.{rest}"


def _transformers_name(name: str) -> str:
    """The inverse of `_timm_name`."""
    name = re.sub(r"^conv1\.", "embedder.embedder.convolution.", name)
    name = re.sub(r"^bn1\.", "embedder.embedder.normalization.", name)
    match = re.match(r"layer(\d)\.(\d+)\.(downsample\.|conv|bn)(\d)\.(.*)", name)
    if match is None:
        return name
    stage, block, where, number, rest = match.groups()
    prefix = f"encoder.stages.{int(stage) - 1}.layers.{block}"
    if where == "downsample.":
        return f"{prefix}.shortcut.{'normalization' if int(number) else 'convolution'}.{rest}"
    return f"{prefix}.layer.{int(number) - 1}.{'convolution' if where == 'conv' else 'normalization'}.{rest}"
