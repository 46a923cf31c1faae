"""One self-describing folder per model.

model.safetensors    the weights, float32
config.toml          the whole config
labels.json          the LabelMap
preprocessing.json   size, mean and standard deviation
metrics.json         where the model came from, what was measured, and the version that wrote the folder
training.pt          (in `last` only) optimiser, schedule and random state, for --resume
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from opendetr.checkpoints.description import Description, checked_thresholds
from opendetr.checkpoints.finite import require_finite
from opendetr.checkpoints.origin import Origin
from opendetr.checkpoints.shapes import require_shapes, shapes_in
from opendetr.checkpoints.versions import is_newer, newer_is_said, stored_config
from opendetr.config import RunConfig, parse_sections
from opendetr.data.transforms import Preprocessing
from opendetr.errors import UserError, first_line
from opendetr.files import (
    current_folder,
    open_for_library,
    read_json,
    refuse_pointer,
    replacing_folder,
    write_bytes,
    write_json,
    write_text,
)
from opendetr.labels import LabelMap
from opendetr.model.build import build_model
from opendetr.model.detr import DETR
from opendetr.version import __version__


@dataclass(frozen=True)
class Checkpoint:
    """A model with everything needed to use it."""

    model: DETR
    config: RunConfig
    label_map: LabelMap
    preprocessing: Preprocessing
    origin: Origin
    source: Path

    @property
    def description(self) -> Description:
        """What is needed beside the weights to use the model."""
        return Description(self.preprocessing, self.model.scoring, self.label_map, tuple(self.origin.thresholds))


def save_checkpoint(folder: Path, checkpoint: Checkpoint, training_state: dict[str, Any] | None = None) -> None:
    """Write a model folder; it replaces an older one as a whole or not at all.

    Raises:
        OSError: the disk is full, or the like; an older folder is untouched.
    """
    # safetensors wants plain memory order; a model on its device may be channels-last
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.model.state_dict().items()}
    with replacing_folder(folder, durable=True) as new:
        write_bytes(new / "model.safetensors", save(weights))
        write_text(new / "config.toml", checkpoint.config.to_toml())
        write_json(new / "labels.json", checkpoint.label_map.to_json())
        write_json(new / "preprocessing.json", checkpoint.preprocessing.to_json())
        write_metrics(new, checkpoint.origin)
        if training_state is not None:
            with open_for_library(new / "training.pt") as file:
                torch.save(training_state, file)


def write_metrics(folder: Path, origin: Origin) -> None:
    """Write the `metrics.json` of a model folder, which also tells the version that wrote the folder."""
    write_json(folder / "metrics.json", replace(origin, version=__version__).to_json(), durable=True)


def load_folder(path: str | Path) -> Checkpoint:
    """Read a model folder, or a run folder: its `best` if there is one, else its `last`. The model is in eval mode.

    Raises:
        UserError: there is no model at the path, a part of it is damaged, or of a newer version that computes
            otherwise; or a weight is not finite.
    """
    folder = model_folder(Path(path))
    config_file = folder / "config.toml"
    for name in ("config.toml", "model.safetensors"):
        refuse_pointer(folder / name)
    try:
        text = config_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{config_file} cannot be read ({error}); the model folder is incomplete") from None
    metrics = read_json(folder / "metrics.json", "a model's metrics")
    if not isinstance(metrics, dict):
        raise UserError(f"{folder / 'metrics.json'} is damaged: expected an object of a model's metrics")
    try:
        origin = Origin.from_json(metrics)
    except ValueError as error:
        raise UserError(f"{folder / 'metrics.json'} is damaged: {error}") from None
    config = stored_config(parse_sections(text, str(config_file)), origin.version, str(config_file))
    try:
        label_map = LabelMap.from_json(read_json(folder / "labels.json", "a list of classes"))
        preprocessing = Preprocessing.from_json(read_json(folder / "preprocessing.json", "a model's preprocessing"))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        with newer_is_said(origin.version, "read it with that version"):
            problem = "cannot be read" if is_newer(origin.version) else "is damaged"
            raise UserError(
                f"{folder} {problem}: labels.json or preprocessing.json is not as written ({error!r})"
            ) from None
    try:
        origin = replace(origin, thresholds=checked_thresholds(origin.thresholds, label_map.num_classes))
    except ValueError as error:
        raise UserError(f"{folder / 'metrics.json'} is damaged: {error}") from None
    require_shapes(config.model, shapes_in(folder / "model.safetensors"), str(folder))
    model = build_model(config.model, config.loss, label_map.num_classes)
    try:
        state = load_file(folder / "model.safetensors")
        model.load_state_dict(state)
    except Exception as error:  # safetensors and torch raise many kinds of errors
        raise UserError(
            f"{folder}/model.safetensors does not hold the model of its config.toml ({first_line(error)})"
        ) from None
    require_finite(state, f"{folder}/model.safetensors")
    return Checkpoint(model.eval(), config, label_map, preprocessing, origin, folder)


def model_folder(path: Path) -> Path:
    """The model folder at a path, which may be that of a run; UserError if there is none."""
    for folder in (current_folder(path), current_folder(path / "best"), current_folder(path / "last")):
        if (folder / "model.safetensors").is_file():
            return folder
    if not path.exists():
        raise UserError(f"{path} does not exist; expected a run folder written by opendetr train, or its best or last")
    raise UserError(f"{path} is no model: neither it nor its best or last holds model.safetensors; give a run folder")


def copy_checkpoint(source: Path, folder: Path) -> None:
    """Copy a model folder without its training state and the folders of engines."""
    with replacing_folder(folder, durable=True) as new:
        for path in source.iterdir():
            if path.is_file() and path.name != "training.pt":
                shutil.copy2(path, new / path.name)
