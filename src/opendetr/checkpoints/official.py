"""The official code's checkpoint files: `{"model": state_dict, "args": Namespace}` (facebookresearch/detr)."""

import argparse
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any, Literal

import torch
from torch import Tensor

from opendetr.checkpoints.download import RELEASES
from opendetr.checkpoints.families import TableModel, assumed_preprocessing, table_model
from opendetr.checkpoints.huggingface_names import has_their_backbone
from opendetr.checkpoints.native import Checkpoint
from opendetr.checkpoints.official_names import official_name, official_weights, one_class, our_name
from opendetr.checkpoints.origin import NAMES_ASSUMED, NO_HEAD, Origin
from opendetr.checkpoints.other_architectures import backbone_by_names
from opendetr.checkpoints.state_dicts import find_weights
from opendetr.checkpoints.weight_files import read_weight_file
from opendetr.checkpoints.weights import as_stored, damage_is_said, fill, stored_weights
from opendetr.config import ModelConfig, RunConfig
from opendetr.data.transforms import Preprocessing
from opendetr.errors import UserError, said_of
from opendetr.files import replacing_folder
from opendetr.labels import COCO_CLASSES, UNUSED, LabelMap
from opendetr.model.build import build_model
from opendetr.options import SAY_DC5, SAY_HEADS
from opendetr.recipes.recipe import load_recipe
from opendetr.wording import counted

OFFICIAL_FILE = "checkpoint.pth"  # what the official training writes, and what we do
PANOPTIC = "a panoptic checkpoint: its boxes are read, its masks are not read"
USUAL_HEADS = 8  # of the paper and of all released files
PANOPTIC_CLASSES = 250  # COCO's 91 ids, then stuff
LOSS = {  # the official code's arguments and ours
    "set_cost_class": "class_cost", "set_cost_bbox": "l1_cost", "set_cost_giou": "giou_cost",
    "bbox_loss_coef": "l1_weight", "giou_loss_coef": "giou_weight", "eos_coef": "no_object_weight",
}  # fmt: skip
RESNETS = {  # depth: blocks per stage, and their kind
    18: ((2, 2, 2, 2), "basic"), 34: ((3, 4, 6, 3), "basic"), 50: ((3, 4, 6, 3), "bottleneck"),
    101: ((3, 4, 23, 3), "bottleneck"), 152: ((3, 8, 36, 3), "bottleneck"),
}  # fmt: skip


def load_official(
    path: Path, *, dc5: bool | None = None, heads: int | None = None, without_head: bool = False
) -> Checkpoint:
    """Read a file of weights: a `.pth` of the official code, or one that another trainer wrote.

    Args:
        path: the file.
        dc5: whether its backbone is dilated, which the weights do not show; None takes the stored arguments, else the
            file's name.
        heads: the number of attention heads, which they do not show either; None takes the stored arguments, else 8.
        without_head: whether the class head may be missing, because it is to be replaced.

    Returns:
        The model, in eval mode; `origin.read` says what was read from where.

    Raises:
        UserError: no such file, not a checkpoint, code in it, or weights of another model.
    """
    found = find_weights(read_weight_file(path, "a checkpoint of a DETR"), str(path))
    arguments, panoptic = found.arguments, found.panoptic
    with damage_is_said(path):
        state, name_there = official_weights(found, path)
        headless = without_head and "class_embed.weight" not in state and "input_proj.weight" in state
        if headless:
            state |= one_class(state["input_proj.weight"].shape[0])
        config, remarks = architecture(state, arguments, path.name, dc5, heads)
        table = table_model(config)
        label_map, labels_are, labels_from = _labels(
            state, arguments, path.name, table, panoptic=panoptic, headless=headless
        )
        told = arguments.get("opendetr", {}).get("preprocessing")  # from `save_official`
        preprocessing, assumed = assumed_preprocessing(config, of_transformers=found.library == "huggingface")
        if told is not None:
            preprocessing = Preprocessing.from_json(told)
        elif table is not None or found.library == "huggingface":  # the official code knows one size
            remarks.append(f"preprocessing: {assumed}")
        if found.library == "huggingface":
            remarks.append("activation: relu, assumed; a config.json of the model beside the file would tell")
        recipe = load_recipe("paper")
        with said_of(path):
            run = replace(recipe, model=config, loss=replace(recipe.loss, **_loss_of(arguments)))
        renamed = {our_name(name): tensor for name, tensor in state.items()}
        origin = Origin(
            format="huggingface" if found.library == "huggingface" else "official", labels=labels_are,
            read=[*found.remarks, *remarks, labels_from, *([PANOPTIC] if panoptic else [])],
            arguments=_plain(arguments), timm_backbone=not has_their_backbone(found.state), **as_stored(renamed),
        )  # fmt: skip
    model = build_model(config, run.loss, label_map.num_classes)
    fill(model, renamed, str(path), name_there)
    return Checkpoint(model.eval(), run, label_map, preprocessing, origin, path)


def save_official(checkpoint: Checkpoint, folder: Path) -> Path:
    """Write `checkpoint.pth`, which the official code's `--resume` reads.

    The arguments of a file it was read from are kept. The argument `opendetr` has what that code does not store: the
    classes and the preprocessing.

    Raises:
        UserError: the model is not the paper's (the official code has no selected queries or pyramids).
    """
    require_official_model(checkpoint.config.model)
    state = {official_name(name): tensor for name, tensor in stored_weights(checkpoint, "official").items()}
    ours: dict[str, Any] = {"preprocessing": checkpoint.preprocessing.to_json()}
    if checkpoint.origin.labels != NAMES_ASSUMED:
        ours["labels"] = checkpoint.label_map.to_json()
    kept = checkpoint.origin.arguments if checkpoint.origin.format == "official" else {}
    arguments = argparse.Namespace(**{**kept, **arguments_of(checkpoint.config), "opendetr": ours})
    with replacing_folder(folder) as new:
        torch.save({"model": state, "args": arguments}, new / OFFICIAL_FILE)
    return folder / OFFICIAL_FILE


def architecture(
    state: Mapping[str, Tensor],
    arguments: Mapping[str, Any],
    file_name: str,
    dc5: bool | None,
    asked_heads: int | None = None,
) -> tuple[ModelConfig, list[str]]:
    """The architecture of a state dict in official names, and its sources in words; UserError if it is no DETR's."""
    needed = ("input_proj.weight", "query_embed.weight", "class_embed.weight", "transformer.decoder.norm.weight")
    if missing := [name for name in needed if name not in state]:
        if missing == ["class_embed.weight"]:
            raise UserError(
                f"{file_name} has no class head ('class_embed.weight'), as a file to fine-tune from; give it one by "
                f"opendetr train --init {file_name} --num-classes-from data"
            )
        raise UserError(f"{file_name} is no checkpoint of a DETR: it has no '{missing[0]}'")
    embed_dim = state["input_proj.weight"].shape[0]
    heads, heads_from = _heads(arguments, file_name, embed_dim, asked_heads)
    if dc5 is not None:
        dilated, dilated_from = dc5, "asked for"
    elif "dilation" in arguments:
        dilated, dilated_from = arguments["dilation"], "the stored arguments"
        if not isinstance(dilated, bool):
            raise UserError(f"{file_name}: its argument dilation is {dilated!r:.50}; expected True or False")
    else:
        dilated, dilated_from = "dc5" in file_name.lower(), "the file name"
        if file_name not in RELEASES.values():
            option = "--no-dc5" if dilated else "--dc5"
            dilated_from += "; if it is wrong, say so: " + SAY_DC5.format(path=file_name, option=option)
    linear1 = state.get("transformer.decoder.layers.0.linear1.weight")
    with said_of(file_name):
        config = ModelConfig(
            backbone=backbone_of(state),
            output_stride=16 if dilated else 32,
            embed_dim=embed_dim,
            num_heads=heads,
            num_encoder_layers=_layers(state, "encoder"),
            num_decoder_layers=_layers(state, "decoder"),
            feedforward_dim=0 if linear1 is None else linear1.shape[0],
            dropout=arguments.get("dropout", 0.1),
            pre_norm=arguments.get("pre_norm", "transformer.encoder.norm.weight" in state),
            num_queries=state["query_embed.weight"].shape[0],
            position_encoding="learned" if "backbone.1.row_embed.weight" in state else "sine",
        )
    return config, [
        f"{config.backbone}, {config.num_encoder_layers} + {config.num_decoder_layers} layers, {config.embed_dim} "
        f"wide, {config.num_queries} queries: from the weights",
        f"{heads} attention heads: {heads_from}",
        f"stride {config.output_stride} ({'DC5' if dilated else 'no DC5'}): {dilated_from}",
    ]


def _heads(arguments: Mapping[str, Any], file_name: str, embed_dim: int, asked: int | None) -> tuple[Any, str]:
    """The number of attention heads, and its source in words; UserError if the width cannot be shared among them."""
    say = SAY_HEADS.format(path=file_name)
    if asked is not None:
        if asked < 1 or embed_dim % asked:
            raise UserError(f"--heads {asked}: {file_name} is {embed_dim} wide; expected a divisor of that number")
        return asked, "asked for"
    if "nheads" in arguments:
        return arguments["nheads"], "arguments"  # which the config checks
    if embed_dim % USUAL_HEADS:
        raise UserError(
            f"{file_name} does not tell the number of attention heads, and {embed_dim}, its width, is not "
            f"divisible by {USUAL_HEADS}, the usual one; say it by {say}"
        )
    return USUAL_HEADS, "assumed" if file_name in RELEASES.values() else f"assumed; if it is wrong, say so: {say}"


def backbone_of(state: Mapping[str, Tensor]) -> str:
    """The timm name of the ResNet in a state dict of official names, by its blocks."""
    prefix = "backbone.0.body.layer"
    found = {tuple(map(int, match.groups())) for name in state if (match := re.match(rf"{prefix}(\d)\.(\d+)\.", name))}
    blocks = tuple(1 + max((block for stage, block in found if stage == number), default=-1) for number in range(1, 5))
    kind = "bottleneck" if f"{prefix}1.0.conv3.weight" in state else "basic"
    known = "expected a ResNet of 18, 34, 50, 101 or 152 layers"
    if other := backbone_by_names(state, "backbone.0.body."):
        raise UserError(f"the checkpoint's backbone is of another kind, {other}; {known}")
    for depth, layout in RESNETS.items():
        if layout == (blocks, kind):
            return f"resnet{depth}.tv_in1k"
    raise UserError(f"the checkpoint's backbone has stages of {blocks} blocks; {known}")


def labels_of(num_classes: int, *, panoptic: bool = False) -> LabelMap:
    """COCO's where there are 91 classes (raw id = class index, with holes), else ids as names.

    The classes of a panoptic checkpoint beyond COCO's are stuff, which has no boxes.
    """
    stuff = PANOPTIC_CLASSES - len(COCO_CLASSES) if panoptic and num_classes == PANOPTIC_CLASSES else 0
    if num_classes - stuff != len(COCO_CLASSES):
        return LabelMap(tuple(range(num_classes)), tuple(f"class {index}" for index in range(num_classes)))
    names = COCO_CLASSES + (UNUSED,) * stuff
    return LabelMap(tuple(None if name == UNUSED else index for index, name in enumerate(names)), names)


def arguments_of(config: RunConfig) -> dict[str, Any]:
    """The arguments with which the official code builds the same model."""
    model, loss = config.model, config.loss
    return {
        "backbone": model.backbone.split(".")[0], "dilation": model.output_stride == 16,
        "position_embedding": model.position_encoding, "enc_layers": model.num_encoder_layers,
        "dec_layers": model.num_decoder_layers, "dim_feedforward": model.feedforward_dim,
        "hidden_dim": model.embed_dim, "dropout": model.dropout, "nheads": model.num_heads,
        "num_queries": model.num_queries, "pre_norm": model.pre_norm, "masks": False, "aux_loss": loss.auxiliary,
        **{name: getattr(loss, ours) for name, ours in LOSS.items()},
    }  # fmt: skip


def _labels(
    state: Mapping[str, Tensor],
    arguments: Mapping[str, Any],
    file_name: str,
    table: TableModel | None,
    *,
    panoptic: bool,
    headless: bool,
) -> tuple[LabelMap, Literal["told", "names assumed", "no head"], str]:
    """The classes, whether the file has them, and their source in words.

    `save_official` writes them into the arguments; those of the paper's files are known.
    """
    if headless:
        return labels_of(1), NO_HEAD, "no class head in the file"
    told = arguments.get("opendetr", {}).get("labels")
    if told is not None:
        return LabelMap.from_json(told), "told", "names of the classes: the stored arguments"
    num_classes = state["class_embed.weight"].shape[0] - 1
    labels = labels_of(num_classes, panoptic=panoptic)
    if file_name in RELEASES.values() or (panoptic and num_classes == PANOPTIC_CLASSES):
        return labels, "told", f"{num_classes} classes: COCO's"
    said = "taken for COCO's" if num_classes == len(COCO_CLASSES) else "their names are not in the file"
    if table is not None and num_classes == len(table.class_names):
        labels = LabelMap(tuple(range(num_classes)), table.class_names)
        said = f"taken for the Table Transformer's for {table.task}"
    return labels, NAMES_ASSUMED, f"{counted(num_classes, 'class', 'classes')}: {said}"


def _loss_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of matching and loss in the stored arguments."""
    told = {ours: arguments[name] for name, ours in LOSS.items() if name in arguments}
    return told | ({"auxiliary": arguments["aux_loss"]} if "aux_loss" in arguments else {})


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that JSON can write, to be written back; paths become text."""
    plain = {}
    for name, value in arguments.items():
        kept = str(value) if isinstance(value, PurePath) else value
        with suppress(TypeError, ValueError):
            json.dumps(kept, allow_nan=False)
            plain[name] = kept
    plain.pop("opendetr", None)
    return plain


def require_official_model(config: ModelConfig) -> None:
    """Check that the official code can read a model; UserError if not."""
    reader = "the official code"
    require_paper_model(config, reader)
    if config.output_stride not in (16, 32):
        raise UserError(
            f"{reader} cannot read a model with model.output_stride = {config.output_stride}; it knows 16 and 32"
        )
    if config.backbone.split(".")[0] not in {f"resnet{depth}" for depth in RESNETS}:
        raise UserError(f"{reader} cannot read a model with the backbone {config.backbone}; it knows resnet18 to 152")


def require_paper_model(config: ModelConfig, reader: str) -> None:
    """Check that a library with the paper's DETR only can read a model; UserError if not."""
    known: dict[str, tuple[object, ...]] = {
        "query_source": ("learned",), "scoring": ("softmax",), "encoder_strides": ((),), "proposal_strides": ((),),
        "query_placement": ("attention",), "position_placement": ("attention",), "encoder_position": (True,),
        "position_encoding": ("sine", "learned"),
    }  # fmt: skip
    for name, values in known.items():
        if getattr(config, name) not in values:
            raise UserError(
                f"{reader} cannot read a model with model.{name} = {getattr(config, name)}; "
                f"it knows {' or '.join(map(str, values))}"
            )
    if not config.feedforward_dim:
        raise UserError(f"{reader} cannot read a model without feed-forward layers")


def _layers(state: Mapping[str, Tensor], stack: str) -> int:
    numbers = (re.match(rf"transformer\.{stack}\.layers\.(\d+)\.", name) for name in state)
    return 1 + max((int(match[1]) for match in numbers if match), default=-1)
