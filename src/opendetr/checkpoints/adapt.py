"""Begin with a trained model: its weights for new data, what had to be left out said key by key."""

from dataclasses import fields

import torch
from torch import nn

from opendetr.checkpoints.native import Checkpoint
from opendetr.checkpoints.report import fill
from opendetr.config import ModelConfig, RunConfig
from opendetr.errors import UserError
from opendetr.labels import LabelMap
from opendetr.model.detr import DETR, build_model

MAY_CHANGE = ("num_queries", "dropout")  # of an architecture with weights
CLASS_HEADS = ("class_embed.", "query_embed.class_embed.", "query_embed.label_embed.")  # as wide as there are classes
PER_QUERY = ("query_embed.weight", "query_embed.content.weight")  # as long as there are queries


def require_same_architecture(trained: ModelConfig, wanted: ModelConfig) -> None:
    """Check that weights fit, and mean the same, in a model that was asked for.

    Raises:
        UserError: names the first key that is another.
    """
    for item in fields(ModelConfig):
        then, now = getattr(trained, item.name), getattr(wanted, item.name)
        if then != now and item.name not in MAY_CHANGE:
            raise UserError(
                f"--init brings its own architecture, model.{item.name} = {then}: it cannot be {now}; "
                f"only {' and '.join('model.' + name for name in MAY_CHANGE)} can be changed"
            )


def labels_for(trained: Checkpoint, data: LabelMap, source: str, *, new_head: bool) -> LabelMap:
    """The classes of the model to be trained: those of the data with a new head, else the trained model's.

    Raises:
        UserError: the data have a category the model does not know, and no new head was asked for.
    """
    if new_head:
        return data
    try:
        trained.label_map.require_same_categories(data, source)
    except UserError as error:
        raise UserError(f"{error}; or give the model a new class head with --num-classes-from data") from None
    return trained.label_map


def begin_with(
    trained: Checkpoint, config: RunConfig, label_map: LabelMap, *, new_head: bool
) -> tuple[DETR, list[str]]:
    """A model of the config with the trained weights, and in words what is not the trained model's.

    With fewer queries the first ones are kept; with more, the others are fresh.

    Raises:
        UserError: weights are missing or left over, other than those of class heads and queries.
    """
    model = build_model(config.model, config.loss, label_map.num_classes)
    own, remarks, taken = model.state_dict(), list[str](), dict[str, torch.Tensor]()
    trained_weights = trained.model.state_dict()
    for name, tensor in trained_weights.items():
        if name not in own and name.startswith(CLASS_HEADS):
            remarks.append(f"{name}: left out, for this recipe does without")
        elif new_head and name.startswith(CLASS_HEADS):
            taken[name] = own[name]
            remarks.append(
                f"{name}: fresh, for {label_map.num_classes} classes instead of {trained.label_map.num_classes}"
            )
        elif name in PER_QUERY and len(own[name]) != len(tensor):
            rows = min(len(own[name]), len(tensor))
            taken[name] = torch.cat([tensor[:rows], own[name][rows:]])
            fresh = f", {len(own[name]) - rows} are fresh" if len(own[name]) > rows else ""
            remarks.append(f"{name}: the first {rows} of {len(tensor)} queries are kept{fresh}")
        else:
            taken[name] = tensor
    for name in own.keys() - trained_weights.keys():
        if name.startswith(CLASS_HEADS):
            taken[name] = own[name]
            remarks.append(f"{name}: fresh, for the trained model does without")
    fill(model, taken, str(trained.source))
    return model, remarks


def freeze(model: DETR, parts: tuple[str, ...]) -> None:
    """Fix the weights of some parts of a model.

    Raises:
        UserError: nothing is left to learn.
    """
    modules: dict[str, list[nn.Module]] = {
        "backbone": [model.backbone],
        "input_proj": [model.input_proj],
        "encoder": [model.transformer.encoder],
        "decoder": [model.transformer.decoder, model.query_embed],
        "heads": [model.class_embed, model.bbox_embed],
    }
    for part in parts:
        for module in modules[part]:
            module.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"--freeze {' '.join(parts)} leaves nothing to learn; leave out one of them")


def train_mode(model: nn.Module) -> None:
    """Training mode, but for batch norms whose weights are fixed: their statistics are fixed too."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
            module.eval()
