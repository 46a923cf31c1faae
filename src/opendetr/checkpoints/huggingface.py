"""Hugging Face's `DetrForObjectDetection` and `TableTransformerForObjectDetection`: folders read and written.

The weights are from their files or from memory. A Table Transformer is a DETR with `pre_norm`.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from opendetr.checkpoints.description import checked_thresholds
from opendetr.checkpoints.huggingface_backbone import require_features
from opendetr.checkpoints.huggingface_config import (
    architecture_of,
    config_fields,
    kept_fields,
    not_in_their_fields,
    read_detr_config,
    read_labels,
    remark_on_training,
    told_of_labels,
    with_loss,
)
from opendetr.checkpoints.huggingface_names import file_names, from_ours, has_their_backbone, name_in_files, to_ours
from opendetr.checkpoints.huggingface_processor import FILE, processor_fields, read_preprocessing, says_rounding
from opendetr.checkpoints.native import Checkpoint
from opendetr.checkpoints.official import PANOPTIC, labels_of, require_paper_model
from opendetr.checkpoints.official_names import one_class
from opendetr.checkpoints.origin import NAMES_ASSUMED, NO_HEAD, Origin
from opendetr.checkpoints.shapes import require_shapes, shapes_of
from opendetr.checkpoints.state_dicts import find_weights
from opendetr.checkpoints.weight_files import read_weights_of
from opendetr.checkpoints.weights import as_stored, damage_is_said, fill, stored_weights
from opendetr.config import ModelConfig
from opendetr.errors import UserError
from opendetr.files import replacing_folder, write_json, write_text
from opendetr.model.backbone import is_normed_as_transformers
from opendetr.model.build import build_model
from opendetr.model.detr import DETR
from opendetr.recipes.recipe import load_recipe
from opendetr.wording import counted


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
    config, file = read_detr_config(folder), f"{folder}/config.json"
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
        num_classes = renamed["class_embed.weight"].shape[0] - 1
        label_map = labels_of(1) if headless else read_labels(config, num_classes, folder)
        model_config, network = architecture_of(config, renamed, file)
        run = with_loss(replace(load_recipe("paper"), model=model_config), config, file)
        told, kept = _told_of_processor(config), kept_fields(config)
        preprocessing, assumed = read_preprocessing(folder, told, model_config)
        timm_backbone = not has_their_backbone(theirs)
        labels = NO_HEAD if headless else told_of_labels(config, label_map)
        remarks = _remarks(model_config, label_map.num_classes, labels, panoptic=found.panoptic)
        stored = () if headless else config.get("opendetr", {}).get("thresholds", ())
        thresholds = checked_thresholds(stored, label_map.num_classes)
        origin = Origin(
            format="huggingface", **as_stored(renamed), timm_backbone=timm_backbone, labels=labels, arguments=kept,
            thresholds=thresholds,
            read=[*found.remarks, *remarks, *assumed, *remark_on_training(kept, model_config.dropout)],
        )  # fmt: skip
    require_shapes(model_config, shapes_of(renamed), str(folder))
    model = build_model(model_config, run.loss, label_map.num_classes)
    require_features(model.backbone, network, file)
    fill(model, renamed, str(folder), lambda name: found.prefix + name_in_files(name, timm_backbone=timm_backbone))
    return Checkpoint(model.eval(), run, label_map, preprocessing, origin, folder)


def save_huggingface(checkpoint: Checkpoint, folder: Path, card: str = "") -> Path:
    """Write a folder that `from_pretrained` of the two models and the image processor read, with a model card.

    Its config also carries what that library has no place for, in a field `opendetr`.

    Raises:
        UserError: the model is not the paper's, or `transformers` would compute something else.
    """
    require_writable_model(checkpoint.model, checkpoint.config.model)
    timm_backbone = checkpoint.origin.timm_backbone or checkpoint.config.model.output_stride != 32
    weights = from_ours(stored_weights(checkpoint, "huggingface"), timm_backbone=timm_backbone)
    if checkpoint.config.model.pre_norm:  # release 5 gave these another name in files of DETR only
        weights = {
            re.sub(r"^model\.(?=position_embedding\.)", "model.backbone.", name): weights[name] for name in weights
        }
    kind = str(weights["class_labels_classifier.weight"].dtype).removeprefix("torch.")
    with replacing_folder(folder) as new:
        save_file(weights, new / "model.safetensors", {"format": "pt"})
        write_text(new / "README.md", card)
        write_json(new / "config.json", config_fields(checkpoint, kind, timm_backbone=timm_backbone))
        write_json(new / FILE, processor_fields(checkpoint.preprocessing))
    return folder


def differences_there(checkpoint: Checkpoint) -> list[str]:
    """In words, what of a model `transformers` does otherwise with the folder that `save_huggingface` writes."""
    said, kept = [], "is kept for opendetr in config.json"
    if checkpoint.preprocessing.multiple_of == 1 and not says_rounding(checkpoint.preprocessing):
        said.append(
            f"transformers rounds the longer side of a resized picture by its own rule, up to some pixels from the "
            f"model's ('{checkpoint.preprocessing.rounding}', which {kept})"
        )
    if unsaid := not_in_their_fields(checkpoint):
        said.append(f"transformers has no place for {', '.join(unsaid)} of the loss, which {kept}")
    return said


def require_writable_model(model: DETR, config: ModelConfig) -> None:
    """Check that `transformers` computes the same; UserError if not."""
    reader = "Hugging Face's DETR"
    require_paper_model(config, reader)
    if config.pre_norm and not config.num_encoder_layers:
        raise UserError(f"{reader} cannot read a model with model.pre_norm = True and no encoder: it norms its output")
    if not is_normed_as_transformers(model.backbone.body):
        raise UserError(
            f"{reader} cannot compute a model with the backbone {config.backbone}: it puts a plain batch norm "
            f"of eps 1e-5 in the place of each and loses the activations in them; train with a ResNet, such as "
            f"--backbone resnet26d"
        )


def _told_of_processor(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a folder of ours says beside the image processor; in earlier ones the rounding is the official one."""
    if "opendetr" not in config:
        return {}
    return {"multiple_of": 1, "rounding": "official"} | {
        name: value for name, value in config["opendetr"].items() if name in ("multiple_of", "rounding", "resizer")
    }


def _remarks(model: ModelConfig, num_classes: int, labels: str, *, panoptic: bool) -> list[str]:
    """In words, what was read from where."""
    names = "not in the folder" if labels == NAMES_ASSUMED else "from id2label"
    remarks = [
        f"{model.backbone}, {model.num_encoder_layers} + {model.num_decoder_layers} layers, {model.num_heads} "
        f"attention heads, stride {model.output_stride}: from config.json",
        f"{model.embed_dim} wide, {model.num_queries} queries, {counted(num_classes, 'class', 'classes')}: from the "
        f"weights; their names: {names}",
    ]
    if model.batch_norm == "huggingface":
        remarks.append(
            f"batch norm of {model.backbone}: as transformers replaces it, of eps 1e-5 and without the activations "
            f"that timm may keep in it"
        )
    return [*remarks, PANOPTIC] if panoptic else remarks
