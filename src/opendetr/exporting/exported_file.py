"""The metadata of an exported file, and such a file ready to run."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opendetr.checkpoints.description import Description
from opendetr.checkpoints.native import Checkpoint
from opendetr.checkpoints.weights import damage_is_said
from opendetr.engines.engine import Engine
from opendetr.engines.file_kinds import read_metadata, run_file
from opendetr.engines.graph_engine import FromPixels
from opendetr.labels import LabelMap
from opendetr.version import __version__


@dataclass(frozen=True)
class Exported:
    """An exported file, ready to run."""

    engine: Engine
    description: Description
    metadata: dict[str, Any]


def metadata_of(checkpoint: Checkpoint, precision: str, inputs: dict[str, str]) -> dict[str, Any]:
    """The metadata of an exported file, without its certificate."""
    return {
        "opendetr": __version__,
        "model": checkpoint.source.name,
        "weights": fingerprint(checkpoint),
        "precision": precision,
        "inputs": inputs,
        **checkpoint.description.to_json(),
        "certificate": None,
    }


def fingerprint(checkpoint: Checkpoint) -> str:
    """A hash of what a model computes, so without thresholds; a DC5 backbone has the weights of a plain one."""
    said = json.dumps(replace(checkpoint.description, thresholds=()).to_json()) + repr(checkpoint.config.model)
    digest = hashlib.blake2b(said.encode(), digest_size=16)
    for name, tensor in sorted(checkpoint.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def describe_exported(path: Path) -> dict[str, Any]:
    """The facts of an exported file, for `opendetr info`.

    Raises:
        UserError: the file is missing, damaged, or not ours.
    """
    metadata = read_metadata(path)
    with damage_is_said(path):
        labels = LabelMap.from_json(metadata.pop("labels"))
    classes = {"classes": list(labels.names), "category_ids": list(labels.category_ids)}
    return {"source": str(path), **classes, **metadata}


def load_exported(path: Path, engine: str = "auto") -> Exported:
    """An exported file with the engine that runs it.

    Raises:
        UserError: the file cannot be used, or not with that engine.
    """
    metadata = read_metadata(path)
    with damage_is_said(path):
        description, from_pixels = Description.from_json(metadata), metadata["inputs"]["images"].startswith("uint8")
    running = run_file(path, metadata["precision"], engine)
    if from_pixels:
        running = FromPixels(running, description.preprocessing)
    return Exported(running, description, metadata)
