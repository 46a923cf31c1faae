"""Hugging Face's `DetrForObjectDetection`: folders read and written, weights from their files or from memory."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from opendetr.checkpoints.huggingface_names import file_names, from_ours, has_their_backbone, name_in_files, to_ours
from opendetr.checkpoints.native import Checkpoint
from opendetr.checkpoints.official import (
    IMAGENET,
    PANOPTIC,
    PANOPTIC_CLASSES,
    RESNETS,
    labels_of,
    require_paper_model,
)  # fmt: skip
from opendetr.checkpoints.official_names import one_class
from opendetr.checkpoints.origin import IDS_ASSUMED, NO_HEAD, Origin
from opendetr.checkpoints.state_dicts import find_weights
from opendetr.checkpoints.weight_files import read_weights_of
from opendetr.checkpoints.weights import as_stored, damage_is_said, fill, stored_weights
from opendetr.config import ModelConfig
from opendetr.data.transforms import Preprocessing
from opendetr.errors import UserError
from opendetr.files import read_json, replacing_folder, write_json, write_text
from opendetr.labels import COCO_CLASSES, UNUSED, LabelMap
from opendetr.model.backbone import is_normed_as_transformers
from opendetr.model.build import build_model
from opendetr.model.detr import DETR
from opendetr.recipes.recipe import load_recipe

RESNET = re.compile(r"resnet(18|34|50|101|152)(\.tv\w*)?")


def load_huggingface(folder: Path, state: Mapping[str, Any] | None = None, *, without_head: bool = False) -> Checkpoint:
    """Read a folder written by `save_pretrained`.

    Args:
        folder: with `config.json`, weights, and `preprocessor_config.json` where there is one.
        state: the weights, where they are at hand already, under the names they have in memory or in files.
        without_head: whether the class head may be missing, because it is to be replaced.

    Returns:
        The model, in eval mode; `origin.read` says what was read from where.

    Raises:
        UserError: no DETR, a file is missing or damaged, no `id2label`, or a part that is not the paper's.
    """
    config = read_json(folder / "config.json", "the config of a Hugging Face model")
    if not isinstance(config, dict) or config.get("model_type") != "detr":
        kind = config.get("model_type") if isinstance(config, dict) else type(config).__name__
        raise UserError(f"{folder}/config.json is of a model of type '{kind}'; expected 'detr'")
    found = find_weights(read_weights_of(folder) if state is None else state, str(folder))
    with damage_is_said(folder):
        theirs = file_names(found.state)
        renamed = to_ours(theirs)
        headless = without_head and "class_embed.weight" not in renamed and "input_proj.weight" in renamed
        if headless:
            renamed |= one_class(renamed["input_proj.weight"].shape[0])
        if "class_embed.weight" not in renamed and "query_embed.weight" in renamed:
            raise UserError(
                f"{folder} has no class head ('class_labels_classifier.weight'); give it a new one by opendetr train "
                f"--init {folder} --num-classes-from data"
            )
        if "class_embed.weight" not in renamed or "query_embed.weight" not in renamed:
            raise UserError(f"{folder} holds no weights of DetrForObjectDetection")
        told = config.get("opendetr", {})
        label_map = (
            labels_of(1) if headless else read_labels(config, renamed["class_embed.weight"].shape[0] - 1, folder)
        )
        model_config = _architecture(config, renamed, folder)
        preprocessing = read_preprocessing(folder, told.get("multiple_of", 1))
        timm_backbone = not has_their_backbone(theirs)
        origin = Origin(
            format="huggingface", **as_stored(renamed), timm_backbone=timm_backbone,
            labels=NO_HEAD if headless else "told" if "category_ids" in told else IDS_ASSUMED,
            read=[*found.remarks, *_remarks(model_config, label_map.num_classes, panoptic=found.panoptic)],
        )  # fmt: skip
    run = replace(load_recipe("paper"), model=model_config)
    model = build_model(model_config, run.loss, label_map.num_classes)
    fill(model, renamed, str(folder), lambda name: found.prefix + name_in_files(name, timm_backbone=timm_backbone))
    return Checkpoint(model.eval(), run, label_map, preprocessing, origin, folder)


def save_huggingface(checkpoint: Checkpoint, folder: Path, card: str = "") -> Path:
    """Write a folder that `DetrForObjectDetection.from_pretrained` and the image processor read, with a model card.

    Its config also carries what that library has no place for: `opendetr`, with raw category ids and `multiple_of`.

    Raises:
        UserError: the model is not the paper's, or `transformers` would compute something else.
    """
    require_writable_model(checkpoint.model, checkpoint.config.model)
    timm_backbone = checkpoint.origin.timm_backbone
    weights = from_ours(stored_weights(checkpoint, "huggingface"), timm_backbone=timm_backbone)
    with replacing_folder(folder) as new:
        save_file(weights, new / "model.safetensors", {"format": "pt"})
        write_text(new / "README.md", card)
        write_json(new / "config.json", _config_of(checkpoint, weights, timm_backbone=timm_backbone))
        write_json(new / "preprocessor_config.json", _processor_of(checkpoint.preprocessing))
    return folder


def require_writable_model(model: DETR, config: ModelConfig) -> None:
    """Check that `transformers` computes the same; UserError if not."""
    reader = "Hugging Face's DETR"
    require_paper_model(config, reader)
    if config.pre_norm:
        raise UserError(f"{reader} cannot read a model with model.pre_norm = True; it knows False")
    if not is_normed_as_transformers(model.backbone.body):
        raise UserError(
            f"{reader} cannot compute a model with the backbone {config.backbone}: it puts a plain batch norm "
            f"of eps 1e-5 in the place of each and loses the activations in them; train with a ResNet, such as "
            f"--backbone resnet26d"
        )


def _architecture(config: Mapping[str, Any], state: Mapping[str, Tensor], folder: Path) -> ModelConfig:
    computed = {  # options that change the result, and their values here
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
        batch_norm="timm" if RESNET.fullmatch(name) else "huggingface",
        embed_dim=state["input_proj.weight"].shape[0],
        num_heads=int(config.get("encoder_attention_heads", 8)),
        num_encoder_layers=int(config.get("encoder_layers", 6)),
        num_decoder_layers=int(config.get("decoder_layers", 6)),
        feedforward_dim=int(config.get("encoder_ffn_dim", 2048)),
        dropout=float(config.get("dropout", 0.1)),
        num_queries=state["query_embed.weight"].shape[0],
        position_encoding=config.get("position_embedding_type", "sine"),
    )


def _remarks(model: ModelConfig, num_classes: int, *, panoptic: bool) -> list[str]:
    """In words, what was read from where."""
    remarks = [
        f"{model.backbone}, {model.num_encoder_layers} + {model.num_decoder_layers} layers, {model.num_heads} "
        f"attention heads, stride {model.output_stride}: from config.json",
        f"{model.embed_dim} wide, {model.num_queries} queries, {num_classes} classes: from the weights; their names: "
        f"from id2label",
    ]
    if model.batch_norm == "huggingface":
        remarks.append(
            f"batch norm of {model.backbone}: as transformers replaces it, of eps 1e-5 and without the activations "
            f"that timm may keep in it"
        )
    return [*remarks, PANOPTIC] if panoptic else remarks


def _backbone(config: Mapping[str, Any], folder: Path) -> tuple[str, bool]:
    """The timm name of the backbone, and whether its last stage is dilated."""
    nested = config.get("backbone_config") or {}
    dilated = nested.get("output_stride") == 16 if nested else bool(config.get("dilation", False))
    name = nested.get("backbone") or config.get("backbone")
    if nested.get("model_type") == "resnet":
        depths, kind = tuple(nested.get("depths", (3, 4, 6, 3))), nested.get("layer_type", "bottleneck")
        known = {stages: depth for depth, stages in RESNETS.items()}
        unusual = nested.get("downsample_in_bottleneck") or nested.get("downsample_in_first_stage")
        if (depths, kind) not in known or unusual or nested.get("hidden_act", "relu") != "relu":
            raise UserError(f"{folder}: a ResNet of stages {depths} with {kind} blocks is none that timm knows")
        name = f"resnet{known[depths, kind]}"
    name = str(name or "resnet50").removeprefix("timm/").removeprefix("microsoft/").replace("resnet-", "resnet")
    return (f"{name}.tv_in1k" if RESNET.fullmatch(name) and "." not in name else name), dilated


def read_labels(config: Mapping[str, Any], num_classes: int, folder: Path) -> LabelMap:
    """The classes by `id2label`; COCO's 91 keep their raw ids, others count from 0; stuff has no boxes."""
    try:
        names = {int(index): str(name) for index, name in config["id2label"].items()}
    except (KeyError, AttributeError, TypeError, ValueError):
        raise UserError(f"{folder}/config.json has no id2label: the classes have no names") from None
    in_order = tuple(names.get(index, UNUSED) for index in range(num_classes))
    if sorted(names) != list(range(num_classes)):
        raise UserError(
            f"{folder}/config.json: id2label names {len(names)} classes; the weights have {num_classes}, from 0 on"
        )
    coco = num_classes in (len(COCO_CLASSES), PANOPTIC_CLASSES) and in_order[1] == COCO_CLASSES[1]
    told = config.get("opendetr", {}).get("category_ids")
    if told is not None and len(told) == num_classes:
        return LabelMap(tuple(told), in_order)
    holes = {index for index, name in enumerate(in_order) if name in (UNUSED, "")}
    if coco:
        holes |= {i for i in range(num_classes) if i >= len(COCO_CLASSES) or COCO_CLASSES[i] == UNUSED}
    return LabelMap(tuple(None if index in holes else index for index in range(num_classes)), in_order)


def read_preprocessing(folder: Path, multiple_of: int, white_level: int | None = None) -> Preprocessing:
    """Size, mean and standard deviation of the image processor, else the paper's; UserError for an unknown option."""
    path = folder / "preprocessor_config.json"
    found = read_json(path, "the config of an image processor") if path.is_file() else {}
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged; expected the config of an image processor")
    computed = {  # options that change the result, and their values here
        "do_resize": True, "do_rescale": True, "do_normalize": True, "do_center_crop": False, "rescale_factor": 1 / 255,
        "resample": 2, "pad_size": None,
    }  # fmt: skip
    for name, expected in computed.items():
        value = found.get(name)
        if value is not None and value != expected:
            raise UserError(f"{path}: {name} = {value} cannot be computed here; expected {expected}")
    size = found.get("size", {"shortest_edge": 800, "longest_edge": 1333})
    if isinstance(size, int):  # releases before 4.26 wrote a number, and max_size beside it
        size = {"shortest_edge": size, "longest_edge": found.get("max_size", 1333)}
    edges = {name: value for name, value in size.items() if value is not None} if isinstance(size, dict) else {}
    if edges.keys() != {"shortest_edge", "longest_edge"}:
        raise UserError(
            f"{path}: size = {size}; expected shortest_edge and longest_edge, which keep a picture's aspect"
        )
    mean, std = (found.get(key) or default for key, default in zip(("image_mean", "image_std"), IMAGENET))
    try:
        return Preprocessing.from_json(
            {"image_size": edges["shortest_edge"], "max_size": edges["longest_edge"], "mean": mean, "std": std,
             "multiple_of": multiple_of, "white_level": white_level}
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"{path}: {error}; correct the value, or get the file anew") from None


def _network_of(model: ModelConfig, body: Any, *, timm_backbone: bool) -> dict[str, Any]:
    """Their config's part about the backbone."""
    name = model.backbone.split(".")[0] if RESNET.fullmatch(model.backbone) else model.backbone
    if not timm_backbone:
        depths, kind = RESNETS[int(name.removeprefix("resnet"))]
        widths = [64, 128, 256, 512] if kind == "basic" else [256, 512, 1024, 2048]
        return {"use_timm_backbone": False, "backbone": None, "backbone_config": {
            "model_type": "resnet", "depths": list(depths), "out_features": ["stage4"], "layer_type": kind,
            "hidden_sizes": widths,
        }}  # fmt: skip
    if RESNET.fullmatch(model.backbone):  # the form that every release reads
        return {"use_timm_backbone": True, "backbone": name, "use_pretrained_backbone": False}
    dilated = {"output_stride": 16} if model.output_stride == 16 else {}
    return {"use_timm_backbone": False, "backbone": None, "backbone_config": {
        "model_type": "timm_backbone", "backbone": name, "features_only": True, "use_pretrained_backbone": False,
        "out_indices": list(body.feature_info.out_indices), **dilated,
    }}  # fmt: skip


def _config_of(checkpoint: Checkpoint, weights: Mapping[str, Tensor], *, timm_backbone: bool) -> dict[str, Any]:
    model, loss, labels = checkpoint.config.model, checkpoint.config.loss, checkpoint.label_map
    network = _network_of(model, checkpoint.model.backbone.body, timm_backbone=timm_backbone)
    kind = str(weights["class_labels_classifier.weight"].dtype).removeprefix("torch.")
    costs = {
        "class_cost": loss.class_cost, "bbox_cost": loss.l1_cost, "giou_cost": loss.giou_cost,
        "bbox_loss_coefficient": loss.l1_weight, "giou_loss_coefficient": loss.giou_weight,
    }  # fmt: skip
    whole = {key: int(value) for key, value in costs.items() if value == int(value)}  # release 5 takes no others
    return {
        "architectures": ["DetrForObjectDetection"], "model_type": "detr", "torch_dtype": kind,
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
