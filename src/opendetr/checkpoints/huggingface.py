"""Hugging Face's `DetrForObjectDetection`: folders, in the names of its files and in those it has in memory."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from opendetr.checkpoints.native import Checkpoint
from opendetr.checkpoints.official import IMAGENET, PANOPTIC, require_paper_model, without_masks
from opendetr.checkpoints.report import as_stored, code_asked_for, damage_is_said, fill, stored_weights
from opendetr.config import ModelConfig, load_recipe
from opendetr.data.transforms import Preprocessing
from opendetr.errors import UserError
from opendetr.files import read_json, replacing_folder, write_json, write_text
from opendetr.labels import COCO_CLASSES, UNUSED, LabelMap
from opendetr.model.detr import build_model

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
    "model.decoder.layernorm": "transformer.decoder.norm",
    "model.position_embedding.row_embeddings": "position_encoding.row_embed",
    "model.position_embedding.column_embeddings": "position_encoding.col_embed",
    "class_labels_classifier": "class_embed",
    "bbox_predictor": "bbox_embed",
}
BACKBONE = "model.backbone.conv_encoder.model."


def load_huggingface(folder: Path, state: Mapping[str, Tensor] | None = None) -> Checkpoint:
    """Read a folder written by `save_pretrained`.

    Args:
        folder: with `config.json`, weights, and `preprocessor_config.json` where there is one.
        state: the weights, where they are at hand already, under the names they have in memory or in files.

    Raises:
        UserError: no DETR, a file is missing or damaged, no `id2label`, or a part that is not the paper's.
    """
    config = read_json(folder / "config.json", "the config of a Hugging Face model")
    if not isinstance(config, dict) or config.get("model_type") != "detr":
        kind = config.get("model_type") if isinstance(config, dict) else type(config).__name__
        raise UserError(f"{folder}/config.json is of a model of type '{kind}'; expected 'detr'")
    whole = _weights(folder) if state is None else state
    with damage_is_said(folder):
        theirs = file_names(without_masks(whole))
        renamed = to_ours(theirs)
        if "class_embed.weight" not in renamed or "query_embed.weight" not in renamed:
            raise UserError(f"{folder} holds no weights of DetrForObjectDetection")
        label_map = _labels(config, renamed["class_embed.weight"].shape[0] - 1, folder)
        model_config = _architecture(config, renamed, folder)
        run = replace(load_recipe("paper"), model=model_config)
        model = build_model(model_config, run.loss, label_map.num_classes)
        fill(model, renamed, str(folder))
        preprocessing = _preprocessing(folder, config.get("opendetr", {}).get("multiple_of", 1))
        origin = {
            "format": "huggingface", "read": [PANOPTIC] if len(theirs) < len(whole) else [], **as_stored(renamed),
            "timm_backbone": not any(name.startswith(f"{BACKBONE}encoder.stages") for name in theirs),
        }  # fmt: skip
    return Checkpoint(model.eval(), run, label_map, preprocessing, origin, folder)


def save_huggingface(checkpoint: Checkpoint, folder: Path, card: str = "") -> Path:
    """Write a folder that `DetrForObjectDetection.from_pretrained` and the image processor read, with a model card.

    Its config also carries what that library has no place for: `opendetr`, with raw category ids and `multiple_of`.

    Raises:
        UserError: the model is not the paper's.
    """
    model = checkpoint.config.model
    require_paper_model(model, "Hugging Face's DETR")
    if model.pre_norm:
        raise UserError("Hugging Face's DETR cannot read a model with model.pre_norm = True; it knows False")
    timm_backbone = checkpoint.metrics.get("timm_backbone", True)
    weights = from_ours(stored_weights(checkpoint, "huggingface"), timm_backbone=timm_backbone)
    with replacing_folder(folder) as new:
        save_file(weights, new / "model.safetensors", {"format": "pt"})
        write_text(new / "README.md", card)
        write_json(new / "config.json", _config_of(checkpoint, timm_backbone))
        write_json(new / "preprocessor_config.json", _processor_of(checkpoint.preprocessing))
    return folder


def file_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict under the names of files, whatever release it comes from: release 5 renames in memory."""
    renamed = {}
    for name, tensor in state.items():
        name = re.sub(r"^model\.backbone\.position_embedding\.", "model.position_embedding.", name)  # release 4
        name = re.sub(r"^model\.backbone\.(?!conv_encoder\.)", "model.backbone.conv_encoder.", name)
        name = re.sub(r"(layers\.\d+)\.mlp\.(fc[12])\.", r"\1.\2.", name)
        renamed[re.sub(r"(_attn)\.o_proj\.", r"\1.out_proj.", name)] = tensor
    return renamed


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in their file names under ours; names nobody knows are kept, for the report to list."""
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


def _weights(folder: Path) -> dict[str, Tensor]:
    for name in ("model.safetensors", "pytorch_model.bin"):
        path = folder / name
        if path.is_file():
            try:
                return load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
            except Exception as error:  # safetensors, torch, pickle and zip each raise their own kinds, at length
                code = code_asked_for(error)
                why = "is damaged, or holds no weights" if code is None else f"asks for code to be run, {code}"
                raise UserError(f"{path} {why}; expected the weights of DetrForObjectDetection") from None
    raise UserError(f"{folder} holds no weights; expected model.safetensors or pytorch_model.bin beside config.json")


def _architecture(config: Mapping[str, Any], state: Mapping[str, Tensor], folder: Path) -> ModelConfig:
    computed = {  # what changes the numbers, and what this library computes
        "activation_function": "relu", "auxiliary_loss": False,  # true also normalises between decoder layers there
        "decoder_attention_heads": config.get("encoder_attention_heads", 8),
        "decoder_ffn_dim": config.get("encoder_ffn_dim", 2048),
    }  # fmt: skip
    for name, expected in computed.items():
        if config.get(name, expected) != expected:
            raise UserError(
                f"{folder}/config.json: {name} = {config[name]} cannot be computed here; expected {expected}"
            )
    name, dilated = _backbone(config, folder)
    return ModelConfig(
        backbone=name,
        output_stride=16 if dilated else 32,
        embed_dim=state["input_proj.weight"].shape[0],
        num_heads=int(config.get("encoder_attention_heads", 8)),
        num_encoder_layers=int(config.get("encoder_layers", 6)),
        num_decoder_layers=int(config.get("decoder_layers", 6)),
        feedforward_dim=int(config.get("encoder_ffn_dim", 2048)),
        dropout=float(config.get("dropout", 0.1)),
        num_queries=state["query_embed.weight"].shape[0],
        position_encoding=config.get("position_embedding_type", "sine"),
    )


def _backbone(config: Mapping[str, Any], folder: Path) -> tuple[str, bool]:
    """The timm name of the backbone, and whether its last stage is dilated."""
    nested = config.get("backbone_config") or {}
    dilated = nested.get("output_stride") == 16 if nested else bool(config.get("dilation", False))
    name = nested.get("backbone") or config.get("backbone")
    if nested.get("model_type") == "resnet":
        depths, kind = tuple(nested.get("depths", (3, 4, 6, 3))), nested.get("layer_type", "bottleneck")
        known = {
            ((2, 2, 2, 2), "basic"): 18, ((3, 4, 6, 3), "basic"): 34, ((3, 4, 6, 3), "bottleneck"): 50,
            ((3, 4, 23, 3), "bottleneck"): 101, ((3, 8, 36, 3), "bottleneck"): 152,
        }  # fmt: skip
        unusual = nested.get("downsample_in_bottleneck") or nested.get("downsample_in_first_stage")
        if (depths, kind) not in known or unusual or nested.get("hidden_act", "relu") != "relu":
            raise UserError(f"{folder}: a ResNet of stages {depths} with {kind} blocks is none that timm knows")
        name = f"resnet{known[depths, kind]}"
    name = str(name or "resnet50").removeprefix("timm/").removeprefix("microsoft/").replace("resnet-", "resnet")
    return (f"{name}.tv_in1k" if re.fullmatch(r"resnet(18|34|50|101|152)", name) else name), dilated


def _labels(config: Mapping[str, Any], num_classes: int, folder: Path) -> LabelMap:
    """The classes by `id2label`; COCO's 91 keep their raw ids, others count from 0."""
    try:
        names = {int(index): str(name) for index, name in config["id2label"].items()}
    except (KeyError, AttributeError, TypeError, ValueError):
        raise UserError(f"{folder}/config.json has no id2label: which class is which cannot be told") from None
    in_order = tuple(names.get(index, UNUSED) for index in range(num_classes))
    if sorted(names) != list(range(num_classes)):
        raise UserError(
            f"{folder}/config.json: id2label names {len(names)} classes; the weights have {num_classes}, from 0 on"
        )
    coco = num_classes == len(COCO_CLASSES) and in_order[1] == COCO_CLASSES[1]
    told = config.get("opendetr", {}).get("category_ids")
    if told is not None and len(told) == num_classes:
        return LabelMap(tuple(told), in_order)
    holes = {
        index for index, name in enumerate(in_order) if name in (UNUSED, "") or (coco and COCO_CLASSES[index] == UNUSED)
    }
    return LabelMap(tuple(None if index in holes else index for index in range(num_classes)), in_order)


def _preprocessing(folder: Path, multiple_of: int) -> Preprocessing:
    """Size, mean and standard deviation of the image processor; the paper's where the folder has none."""
    path = folder / "preprocessor_config.json"
    found = read_json(path, "the config of an image processor") if path.is_file() else {}
    size = found.get("size") or {}
    if isinstance(size, int):  # releases before 4.26 wrote a number, and max_size beside it
        size = {"shortest_edge": size, "longest_edge": found.get("max_size", 1333)}
    if not isinstance(size, dict) or {"height", "width"} & size.keys():
        raise UserError(
            f"{path}: size = {size}; expected shortest_edge and longest_edge, which keep a picture's aspect"
        )
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if found.get(step) is False:
            raise UserError(f"{path}: {step} is false; expected an image processor that resizes and normalises")
    mean, std = (tuple(found.get(key) or default) for key, default in zip(("image_mean", "image_std"), IMAGENET))
    edges = size.get("shortest_edge", 800), size.get("longest_edge", 1333)
    return Preprocessing(*edges, mean, std, multiple_of)


def _config_of(checkpoint: Checkpoint, timm_backbone: bool) -> dict[str, Any]:
    model, loss, labels = checkpoint.config.model, checkpoint.config.loss, checkpoint.label_map
    name, depths = model.backbone.split(".")[0], {"18": [2, 2, 2, 2], "101": [3, 4, 23, 3], "152": [3, 8, 36, 3]}
    depth = name.removeprefix("resnet")
    small = depth in ("18", "34")
    network: dict[str, Any] = {"use_timm_backbone": True, "backbone": name, "use_pretrained_backbone": False}
    if not timm_backbone:
        network = {"use_timm_backbone": False, "backbone": None, "backbone_config": {
            "model_type": "resnet", "depths": depths.get(depth, [3, 4, 6, 3]), "out_features": ["stage4"],
            "layer_type": "basic" if small else "bottleneck",
            "hidden_sizes": [64, 128, 256, 512] if small else [256, 512, 1024, 2048],
        }}  # fmt: skip
    costs = {
        "class_cost": loss.class_cost, "bbox_cost": loss.l1_cost, "giou_cost": loss.giou_cost,
        "bbox_loss_coefficient": loss.l1_weight, "giou_loss_coefficient": loss.giou_weight,
    }  # fmt: skip
    whole = {key: int(value) for key, value in costs.items() if value == int(value)}  # release 5 takes no others
    return {
        "architectures": ["DetrForObjectDetection"], "model_type": "detr", "torch_dtype": "float32",
        **network, "dilation": model.output_stride == 16,
        "num_queries": model.num_queries, "d_model": model.embed_dim, "encoder_layers": model.num_encoder_layers,
        "decoder_layers": model.num_decoder_layers, "encoder_attention_heads": model.num_heads,
        "decoder_attention_heads": model.num_heads, "encoder_ffn_dim": model.feedforward_dim,
        "decoder_ffn_dim": model.feedforward_dim, "dropout": model.dropout, "activation_function": "relu",
        "position_embedding_type": model.position_encoding, "eos_coefficient": loss.no_object_weight, **whole,
        "auxiliary_loss": False,  # true would also normalise between decoder layers there, which DETR does not
        "id2label": {str(index): name for index, name in enumerate(labels.names)},
        "label2id": {name: index for index, name in enumerate(labels.names)},
        "opendetr": {"category_ids": list(labels.category_ids), "multiple_of": checkpoint.preprocessing.multiple_of},
    }  # fmt: skip


def _processor_of(preprocessing: Preprocessing) -> dict[str, Any]:
    return {
        "image_processor_type": "DetrImageProcessor", "do_resize": True, "do_rescale": True, "do_normalize": True,
        "do_pad": True, "rescale_factor": 1 / 255, "format": "coco_detection", "resample": 2,
        "size": {"shortest_edge": preprocessing.image_size, "longest_edge": preprocessing.max_size},
        "image_mean": list(preprocessing.mean), "image_std": list(preprocessing.std),
    }  # fmt: skip
