"""Any model as a folder of `transformers` that brings its own code: what that library's own DETR cannot compute.

config.json                with the run's config in its field `opendetr`
preprocessor_config.json   size, mean and standard deviation, scoring
model.safetensors          our names behind `detr.`
modeling_opendetr.py       run by `transformers` where `trust_remote_code=True` is given, and never by us
README.md                  the model card
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from opendetr.checkpoints.description import checked_thresholds
from opendetr.checkpoints.huggingface_config import read_labels
from opendetr.checkpoints.huggingface_processor import FILE, read_preprocessing
from opendetr.checkpoints.native import Checkpoint
from opendetr.checkpoints.one_file import one_file
from opendetr.checkpoints.origin import Origin
from opendetr.checkpoints.public import without_places
from opendetr.checkpoints.shapes import require_shapes, shapes_of
from opendetr.checkpoints.state_dicts import find_weights
from opendetr.checkpoints.versions import stored_config
from opendetr.checkpoints.weight_files import read_weights_of
from opendetr.checkpoints.weights import damage_is_said, fill
from opendetr.data.transforms import WITHOUT_PADDING
from opendetr.errors import UserError
from opendetr.files import read_json, replacing_folder, write_json, write_text
from opendetr.model.build import build_model
from opendetr.version import __version__

MODEL_TYPE = "opendetr"
CODE = "modeling_opendetr"
PREFIX = "detr."
OWN_FIELDS = ("white_level", "rounding", "resampling", "resizer")  # of the preprocessing, in the image processor
READ = ("architecture, classes and preprocessing: from the folder's config files; its Python code is not run",)


def save_with_code(checkpoint: Checkpoint, folder: Path, card: str = "") -> Path:
    """Write a folder that `AutoModelForObjectDetection` and `AutoImageProcessor` read, with a model card.

    Raises:
        UserError: the model is one for padded pictures, which this code does not pad.
    """
    if checkpoint.preprocessing.pad_size is not None:
        raise UserError(f"a folder with code of its own pads no pictures: {WITHOUT_PADDING}")
    weights = {
        PREFIX + name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.model.state_dict().items()
    }
    with replacing_folder(folder) as new:
        save_file(weights, new / "model.safetensors", {"format": "pt"})
        write_text(new / f"{CODE}.py", one_file(f"{CODE}.py.txt"))
        write_text(new / "README.md", card)
        write_json(new / "config.json", _config_of(without_places(checkpoint)))
        write_json(new / FILE, _processor_of(checkpoint))
    return folder


def load_with_code(folder: Path, state: Mapping[str, Any] | None = None) -> Checkpoint:
    """Read a folder written by `save_with_code`, without its code; arguments as in `load_huggingface`.

    Raises:
        UserError: a file is missing or damaged, or the weights are those of another model.
    """
    config = read_json(folder / "config.json", "the config of a Hugging Face model")
    found = find_weights(read_weights_of(folder) if state is None else state, str(folder))
    with damage_is_said(folder / "config.json"):
        told = config["opendetr"]
        run = stored_config(told["config"], told["origin"].get("version"), f"{folder}/config.json")
        label_map = read_labels(config, len(told["category_ids"]), folder)
        origin = replace(Origin.from_json(told["origin"]), read=(*READ, *found.remarks))
        origin = replace(origin, thresholds=checked_thresholds(origin.thresholds, label_map.num_classes))
        processor = read_json(folder / FILE, "the config of an image processor")
        values = {"multiple_of": processor["multiple_of"], "rounding": "official"}  # as before it was stored
        values |= {name: processor[name] for name in OWN_FIELDS if name in processor}
        preprocessing, _ = read_preprocessing(folder, values)
    require_shapes(run.model, shapes_of(found.state), str(folder))
    model = build_model(run.model, run.loss, label_map.num_classes)
    fill(model, found.state, str(folder), found.prefix.__add__)
    return Checkpoint(model.eval(), run, label_map, preprocessing, origin, folder)


def _config_of(checkpoint: Checkpoint) -> dict[str, Any]:
    labels = checkpoint.label_map
    return {
        "architectures": ["OpendetrForObjectDetection"], "model_type": MODEL_TYPE, "dtype": "float32",
        "auto_map": {
            "AutoConfig": f"{CODE}.OpendetrConfig",
            "AutoModelForObjectDetection": f"{CODE}.OpendetrForObjectDetection",
        },
        "id2label": {str(index): name for index, name in enumerate(labels.names)},
        "label2id": {name: index for index, name in enumerate(labels.names)},
        "opendetr": {
            "category_ids": list(labels.category_ids), "config": checkpoint.config.to_dict(),
            "origin": replace(checkpoint.origin, version=__version__).to_json(),
        },
    }  # fmt: skip


def _processor_of(checkpoint: Checkpoint) -> dict[str, Any]:
    preprocessing = checkpoint.preprocessing
    unused = [index for index, category_id in enumerate(checkpoint.label_map.category_ids) if category_id is None]
    return {
        "image_processor_type": "OpendetrImageProcessor",
        "auto_map": {"AutoImageProcessor": f"{CODE}.OpendetrImageProcessor"},
        "size": {"shortest_edge": preprocessing.image_size, "longest_edge": preprocessing.max_size},
        "image_mean": list(preprocessing.mean), "image_std": list(preprocessing.std),
        "multiple_of": preprocessing.multiple_of, "scoring": checkpoint.config.model.scoring, "unused_labels": unused,
        **{name: getattr(preprocessing, name) for name in OWN_FIELDS},
    }  # fmt: skip
