"""Start from a trained model: its weights for new data, with a remark on each tensor that is not taken."""

from dataclasses import fields

import torch
from torch import nn

from opendetr.checkpoints.native import Checkpoint
from opendetr.checkpoints.origin import IDS_ASSUMED, NAMES_ASSUMED, NO_HEAD, Origin
from opendetr.checkpoints.weights import fill
from opendetr.config import ModelConfig, RunConfig
from opendetr.errors import UserError
from opendetr.labels import UNUSED, LabelMap
from opendetr.model.build import build_model
from opendetr.model.detr import DETR
from opendetr.progress import warn

MAY_CHANGE = ("num_queries", "dropout")  # of an architecture with weights
CLASS_HEADS = ("class_embed.", "query_embed.class_embed.", "query_embed.label_embed.")  # as wide as there are classes
MODULES = {  # of the parts that can be frozen
    "backbone": ("backbone.",), "input_proj": ("input_proj.",), "encoder": ("transformer.encoder.",),
    "decoder": ("transformer.decoder.", "query_embed."), "heads": ("class_embed.", "bbox_embed."),
}  # fmt: skip
PER_QUERY = ("query_embed.weight", "query_embed.content.weight")  # as long as there are queries


def require_same_architecture(trained: ModelConfig, wanted: ModelConfig) -> None:
    """Check that weights fit, and mean the same, in another model; UserError names the first key that differs."""
    for item in fields(ModelConfig):
        then, now = getattr(trained, item.name), getattr(wanted, item.name)
        if then != now and item.name not in MAY_CHANGE:
            raise UserError(
                f"--init brings its own architecture, model.{item.name} = {then}: it cannot be {now}; "
                f"only {' and '.join('model.' + name for name in MAY_CHANGE)} can be changed"
            )


def labels_on(labels: LabelMap, origin: Origin, data: LabelMap, source: str) -> LabelMap:
    """The classes of a model as a data set names them, where the model's file lacks names or ids; printed in a line.

    A `.pth` of the official code has class indices without names: those of the data are taken where their raw ids fit.
    A Hugging Face folder has names without raw ids: classes are matched by name.

    Raises:
        UserError: the data have a category that the model lacks.
    """
    wanted = dict(zip(data.category_ids, data.names))
    known = {i: name for i, name in zip(labels.category_ids, labels.names) if i is not None}
    if origin.labels and wanted.items() - known.items():
        if origin.labels == NAMES_ASSUMED:
            if beyond := [i for i in wanted if i not in range(labels.num_classes)]:
                raise UserError(
                    f"{source}: category {beyond[0]} '{wanted[beyond[0]]}' is unknown to the model, whose classes have "
                    f"no names but the raw ids 0 to {labels.num_classes - 1}"
                )
            warn(f"the model's file does not name its classes: the names of {source} are taken, by raw id")
            ids = tuple(index if index in wanted else None for index in range(labels.num_classes))
            return LabelMap(ids, tuple(wanted.get(index, UNUSED) for index in range(labels.num_classes)))
        used = list(known.values())
        if origin.labels == IDS_ASSUMED and set(data.names) <= set(used) and len(set(used)) == len(used):
            warn(f"the model's raw ids are not those of {source}: classes are matched by name")
            raw = dict(zip(data.names, data.category_ids))
            return LabelMap(tuple(raw.get(name) for name in labels.names), labels.names)
    labels.require_same_categories(data, source)
    return labels


def labels_for(trained: Checkpoint, data: LabelMap, source: str, *, new_head: bool) -> LabelMap:
    """The classes of the model to be trained: those of the data with a new head, else as in `labels_on`."""
    if new_head:
        return data
    try:
        return labels_on(trained.label_map, trained.origin, data, source)
    except UserError as error:
        raise UserError(f"{error}; or give the model a new class head with --num-classes-from data") from None


def begin_with(
    trained: Checkpoint, config: RunConfig, label_map: LabelMap, *, new_head: bool
) -> tuple[DETR, list[str]]:
    """A model of the config with the trained weights, and remarks on what is not the trained model's.

    With fewer queries the first ones are kept; with more, the others are new.

    Raises:
        UserError: weights are missing or unknown, other than those of class heads and queries; or new ones would be
            frozen.
    """
    model = build_model(config.model, config.loss, label_map.num_classes)
    own, remarks, taken, fresh = model.state_dict(), list[str](), dict[str, torch.Tensor](), list[str]()
    trained_weights = trained.model.state_dict()
    for name, tensor in trained_weights.items():
        if name not in own and name.startswith(CLASS_HEADS):
            remarks.append(f"{name}: left out, for this recipe does without")
        elif new_head and name.startswith(CLASS_HEADS):
            taken[name] = own[name]
            fresh.append(name)
            before = "" if trained.origin.labels == NO_HEAD else f" instead of {trained.label_map.num_classes}"
            remarks.append(f"{name}: fresh, for {label_map.num_classes} classes{before}")
        elif name in PER_QUERY and len(own[name]) != len(tensor):
            rows = min(len(own[name]), len(tensor))
            taken[name] = torch.cat([tensor[:rows], own[name][rows:]])
            added = len(own[name]) - rows
            fresh += [name] if added else []
            others = f", {added} are fresh" if added else ""
            remarks.append(f"{name}: the first {rows} of {len(tensor)} queries are kept{others}")
        else:
            taken[name] = tensor
    for name in own.keys() - trained_weights.keys():
        if name.startswith(CLASS_HEADS):
            taken[name] = own[name]
            fresh.append(name)
            remarks.append(f"{name}: fresh, for the trained model does without")
    for part in config.train.freeze:
        if stuck := [name for name in fresh if name.startswith(MODULES[part])]:
            raise UserError(
                f"--freeze {part} would fix fresh weights, {', '.join(stuck)}: they have to learn; leave it out"
            )
    fill(model, taken, str(trained.source))
    return model, remarks


def freeze(model: DETR, parts: tuple[str, ...]) -> None:
    """Freeze the weights of some parts of a model; UserError if nothing is left to train."""
    for name, parameter in model.named_parameters():
        if any(name.startswith(MODULES[part]) for part in parts):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"--freeze {' '.join(parts)} leaves nothing to learn; leave out one of them")


def train_mode(model: nn.Module) -> None:
    """Training mode, but for batch norms whose weights are frozen: their statistics are frozen too."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
            module.eval()
