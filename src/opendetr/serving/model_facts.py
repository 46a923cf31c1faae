"""A model in plain values, as the page needs it: `GET /v1/model` of the server, `model.json` of a static folder."""

from pathlib import Path
from typing import Any

from opendetr.checkpoints.description import Description
from opendetr.checkpoints.native import Checkpoint
from opendetr.detections import Threshold
from opendetr.version import __version__

OF_PREPROCESSING = ("image_size", "max_size", "multiple_of", "rounding", "resampling", "resizer")
OF_ARCHITECTURE = (
    "parameters", "num_queries", "encoder_layers", "decoder_layers", "heads", "focus", "query_source", "strides",
    "costs",
)  # fmt: skip


def model_facts(
    name: str,
    description: Description,
    thresholds: Threshold,
    *,
    checkpoint: Checkpoint | None,
    engine: str,
    precision: str,
    certificate: dict[str, Any] | None,
    can_look: bool,
) -> dict[str, Any]:
    """The facts.

    Args:
        name: of the model.
        description: its classes, preprocessing and scoring.
        thresholds: those that are used where none is asked for.
        checkpoint: the model itself; None where only an exported file is known, which tells no architecture.
        engine: what runs it.
        precision: in which.
        certificate: that the engine agrees with PyTorch; None where it is PyTorch.
        can_look: whether attention can be shown.
    """
    labels, preprocessing = description.label_map, description.preprocessing
    every = [thresholds] * labels.num_classes if isinstance(thresholds, int | float) else list(thresholds)
    return {
        "name": name,
        "classes": [
            {"label": label, "name": called, "category_id": category_id}
            for label, (called, category_id) in enumerate(zip(labels.names, labels.category_ids))
        ],
        "thresholds": every,
        "scoring": description.to_json()["scoring"],
        "preprocessing": preprocessing.to_json() | {key: getattr(preprocessing, key) for key in OF_PREPROCESSING},
        "engine": engine,
        "precision": precision,
        "certificate": certificate,
        "can_look": can_look,
        "data": None,
        "run": None,
        "version": __version__,
        **(dict.fromkeys(OF_ARCHITECTURE) if checkpoint is None else _architecture(checkpoint)),
    }


def _architecture(checkpoint: Checkpoint) -> dict[str, Any]:
    model, loss = checkpoint.config.model, checkpoint.config.loss
    values = (
        sum(parameter.numel() for parameter in checkpoint.model.parameters()), model.num_queries,
        model.num_encoder_layers, model.num_decoder_layers, model.num_heads, model.focus, model.query_source,
        sorted({*model.encoder_strides, model.output_stride}),
        {"class": loss.class_cost, "l1": loss.l1_cost, "giou": loss.giou_cost},
    )  # fmt: skip
    return dict(zip(OF_ARCHITECTURE, values))


def short_name(model: str | Path) -> str:
    """The name of a model without the folders above it, which may tell a user's name."""
    path = Path(model)
    return f"{path.parent.name}/{path.name}" if path.name in ("last", "best") else path.name or str(model)
