"""`config.json` of Hugging Face's DETR and Table Transformer: architecture, classes and loss, read and written."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from opendetr.checkpoints.huggingface_backbone import RESNET, Network, backbone_fields, read_backbone
from opendetr.checkpoints.native import Checkpoint
from opendetr.checkpoints.official import PANOPTIC_CLASSES
from opendetr.checkpoints.origin import IDS_ASSUMED, NAMES_ASSUMED
from opendetr.config import ModelConfig, RunConfig
from opendetr.errors import UserError, said_of
from opendetr.files import read_json
from opendetr.labels import COCO_CLASSES, UNUSED, LabelMap

POST_NORM, PRE_NORM = "detr", "table-transformer"  # types of models that are computed here
OTHERS = {  # types of models with another architecture
    "conditional_detr": "a Conditional DETR", "deformable_detr": "a Deformable DETR", "dab-detr": "a DAB-DETR",
    "rt_detr": "an RT-DETR", "rt_detr_v2": "an RT-DETRv2", "d_fine": "a D-FINE", "yolos": "a YOLOS", "deta": "a DETA",
    "lw_detr": "an LW-DETR", "rf_detr": "an RF-DETR", "grounding-dino": "a Grounding DINO",
    "mm-grounding-dino": "an MM Grounding DINO", "maskformer": "a MaskFormer", "mask2former": "a Mask2Former",
}  # fmt: skip
LOSS = {  # their fields and ours
    "class_cost": "class_cost", "bbox_cost": "l1_cost", "giou_cost": "giou_cost", "bbox_loss_coefficient": "l1_weight",
    "giou_loss_coefficient": "giou_weight", "eos_coefficient": "no_object_weight", "auxiliary_loss": "auxiliary",
}  # fmt: skip
WHOLE = {  # whole numbers, and their values where a config does not say them
    "class_cost": 1, "bbox_cost": 5, "giou_cost": 2, "bbox_loss_coefficient": 5, "giou_loss_coefficient": 2,
}  # fmt: skip
# `auxiliary_loss = true` would also normalise between decoder layers there, which DETR does not: it is never written.
THEIR_LOSS: dict[str, Any] = {**WHOLE, "eos_coefficient": 0.1, "auxiliary_loss": False}
NOT_TRAINED_WITH = ("attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop")
KEPT = (*NOT_TRAINED_WITH, "init_std", "init_xavier_std", "mask_loss_coefficient", "dice_loss_coefficient")
PLACEHOLDER = re.compile(r"LABEL_\d+")  # what transformers calls a class without a name


def read_detr_config(folder: Path) -> dict[str, Any]:
    """The config of a DETR or Table Transformer; UserError for another model, by its name."""
    config = read_json(folder / "config.json", "the config of a Hugging Face model")
    kind = config.get("model_type") if isinstance(config, dict) else type(config).__name__
    if isinstance(config, dict) and kind in (POST_NORM, PRE_NORM):
        return config
    said = f"a model of type '{kind}'"
    if kind in OTHERS:
        said = f"{OTHERS[kind]} (model_type '{kind}'), another architecture than DETR"
    raise UserError(f"{folder}/config.json is of {said}; expected '{POST_NORM}' or '{PRE_NORM}'")


def architecture_of(config: Mapping[str, Any], state: Mapping[str, Tensor], file: str) -> tuple[ModelConfig, Network]:
    """The architecture of a config and of weights in our names; UserError for what is not the paper's."""
    computed: dict[str, tuple[Any, ...]] = {  # options that change the result, and their values here
        "activation_function": ("relu",), "num_channels": (3,), "position_embedding_type": ("sine", "learned"),
        "auxiliary_loss": (False,),  # true also normalises between decoder layers there
        "decoder_attention_heads": (config.get("encoder_attention_heads", 8),),
        "decoder_ffn_dim": (config.get("encoder_ffn_dim", 2048),),
    }  # fmt: skip
    for name, expected in computed.items():
        if config.get(name, expected[0]) not in expected:
            raise UserError(
                f"{file}: {name} = {config[name]} cannot be computed here; expected {' or '.join(map(str, expected))}"
            )
    of_weights = {"d_model": state["input_proj.weight"].shape[0], "num_queries": state["query_embed.weight"].shape[0]}
    for name, number in of_weights.items():
        if config.get(name, number) != number:
            raise UserError(f"{file}: {name} = {config[name]!r:.60}, and the weights have {number}; get both anew")
    network = read_backbone(config, file)
    keeps_norms = network.keeps_norms or RESNET.fullmatch(network.name) is not None
    with said_of(file):
        return ModelConfig(
            backbone=network.name,
            output_stride=network.stride or 32,
            batch_norm="timm" if keeps_norms else "huggingface",
            embed_dim=state["input_proj.weight"].shape[0],
            num_heads=config.get("encoder_attention_heads", 8),
            num_encoder_layers=config.get("encoder_layers", 6),
            num_decoder_layers=config.get("decoder_layers", 6),
            feedforward_dim=config.get("encoder_ffn_dim", 2048),
            dropout=config.get("dropout", 0.1),
            pre_norm=config["model_type"] == PRE_NORM,
            num_queries=state["query_embed.weight"].shape[0],
            position_encoding=config.get("position_embedding_type", "sine"),
        ), network


def with_loss(run: RunConfig, config: Mapping[str, Any], file: str) -> RunConfig:
    """The run's config with the matching costs and loss weights of a config."""
    said = {ours: config.get(theirs, THEIR_LOSS[theirs]) for theirs, ours in LOSS.items()}
    said |= config.get("opendetr", {}).get("loss", {})  # what their fields have no place for
    return run.with_values({f"loss.{name}": value for name, value in said.items()}, file)


def kept_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a config that nothing here uses, to be written back."""
    return {name: config[name] for name in KEPT if isinstance(config.get(name), int | float)}


def remark_on_training(kept: Mapping[str, Any], dropout: float) -> list[str]:
    """What of a fine-tuner's settings `train --init` would not do, in words."""
    others = [f"{name} = {kept[name]}" for name in NOT_TRAINED_WITH if kept.get(name)]
    if not others:
        return []
    does = f"training here has dropout = {dropout:g} in attention and feed-forward layers, and drops no layers"
    return [f"{', '.join(others)}: kept for convert --to huggingface only; {does}"]


def read_labels(config: Mapping[str, Any], num_classes: int, folder: Path) -> LabelMap:
    """The classes by `id2label`; COCO's 91 keep their raw ids, others count from 0; stuff has no boxes."""
    named = config.get("id2label")
    if named is None and num_classes == 2:  # which transformers does not write: two is its default
        named = {0: "LABEL_0", 1: "LABEL_1"}
    try:
        names = {int(index): str(name) for index, name in named.items()}  # type: ignore[union-attr]
    except (AttributeError, TypeError, ValueError):
        raise UserError(f"{folder}/config.json has no id2label: the classes have no names") from None
    in_order = tuple(names.get(index, UNUSED) for index in range(num_classes))
    if len(names) != num_classes:
        raise UserError(
            f"{folder}/config.json: id2label names {len(names)} classes; the weights have {num_classes}, from 0 on"
        )
    if sorted(names) != list(range(num_classes)):
        raise UserError(
            f"{folder}/config.json: the indices of id2label go from {min(names)} to {max(names)}, and those of the "
            f"classes in the weights from 0 to {num_classes - 1}; number id2label and label2id like that"
        )
    told_coco = all(name in (UNUSED, own) for name, own in zip(COCO_CLASSES, in_order))
    coco = num_classes in (len(COCO_CLASSES), PANOPTIC_CLASSES) and told_coco
    told = config.get("opendetr", {}).get("category_ids")
    if told is not None and len(told) == num_classes:
        return LabelMap(tuple(told), in_order)
    holes = {index for index, name in enumerate(in_order) if name in (UNUSED, "")}
    if coco:
        holes |= {i for i in range(num_classes) if i >= len(COCO_CLASSES) or COCO_CLASSES[i] == UNUSED}
    return LabelMap(tuple(None if index in holes else index for index in range(num_classes)), in_order)


def told_of_labels(config: Mapping[str, Any], labels: LabelMap) -> Literal["told", "names assumed", "ids assumed"]:
    """What a config says about the classes: names and raw ids, names only, or neither."""
    told = config.get("opendetr", {})
    if told.get("labels") == NAMES_ASSUMED:
        return NAMES_ASSUMED
    if "category_ids" in told:
        return "told"
    return NAMES_ASSUMED if all(PLACEHOLDER.fullmatch(name) for name in labels.names) else IDS_ASSUMED


def config_fields(checkpoint: Checkpoint, kind: str, *, timm_backbone: bool) -> dict[str, Any]:
    """The config of a model; `kind` is the type of its weights. What that library has no place for is in `opendetr`."""
    model, labels, origin = checkpoint.config.model, checkpoint.label_map, checkpoint.origin
    preprocessing = checkpoint.preprocessing
    said, differ = _loss_fields(checkpoint.config)
    ours: dict[str, Any] = {
        "category_ids": list(labels.category_ids), "multiple_of": preprocessing.multiple_of,
        "rounding": preprocessing.rounding, "resizer": preprocessing.resizer,
    } | ({"loss": differ} if differ else {})  # fmt: skip
    if origin.labels == NAMES_ASSUMED:
        ours["labels"] = NAMES_ASSUMED
    if origin.thresholds:
        ours["thresholds"] = list(origin.thresholds)
    name = "TableTransformerForObjectDetection" if model.pre_norm else "DetrForObjectDetection"
    return {
        "architectures": [name], "model_type": PRE_NORM if model.pre_norm else POST_NORM, "torch_dtype": kind,
        **backbone_fields(model, checkpoint.model.backbone.body, timm_backbone=timm_backbone),
        "num_queries": model.num_queries, "d_model": model.embed_dim, "encoder_layers": model.num_encoder_layers,
        "decoder_layers": model.num_decoder_layers, "encoder_attention_heads": model.num_heads,
        "decoder_attention_heads": model.num_heads, "encoder_ffn_dim": model.feedforward_dim,
        "decoder_ffn_dim": model.feedforward_dim, "dropout": model.dropout, "activation_function": "relu",
        "position_embedding_type": model.position_encoding, **said,
        **(origin.arguments if origin.format == "huggingface" else {}),
        "id2label": {str(index): name for index, name in enumerate(labels.names)},
        "label2id": {name: index for index, name in enumerate(labels.names)},
        "opendetr": ours,
    }  # fmt: skip


def _loss_fields(config: RunConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Their fields of matching and loss, and the values of ours that these cannot say."""
    said = dict(THEIR_LOSS) | {"eos_coefficient": config.loss.no_object_weight}
    for theirs in WHOLE:  # release 5 takes no others
        value = getattr(config.loss, LOSS[theirs])
        if value == int(value):
            said[theirs] = int(value)
    understood = with_loss(config, said, "a config without `opendetr`").loss
    differ = {ours: getattr(config.loss, ours) for theirs, ours in LOSS.items()}
    differ = {ours: value for ours, value in differ.items() if value != getattr(understood, ours)}
    return said, differ if config.loss.class_weight == 1 else differ | {"class_weight": config.loss.class_weight}


def not_in_their_fields(checkpoint: Checkpoint) -> list[str]:
    """The loss settings that `transformers` cannot be told, as `name = value`; without `auxiliary`."""
    _, differ = _loss_fields(checkpoint.config)
    return [f"{name} = {value:g}" for name, value in differ.items() if name != "auxiliary"]
