"""The facts of a model for `opendetr info`: classes, cost, preprocessing and origin."""

from typing import Any

from opendetr.checkpoints.native import Checkpoint
from opendetr.data.sizes import snapped_shape
from opendetr.model.complexity import count_gflops, count_parameters


def facts_of(checkpoint: Checkpoint, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """The facts in plain values, with the cost for `size`: height and width in pixels, rounded as the model does.

    The default size is that of a 480x640 picture.
    """
    preprocessing = checkpoint.preprocessing
    height, width = preprocessing.shape(480, 640) if size is None else snapped_shape(*size, preprocessing.multiple_of)
    return {
        "source": str(checkpoint.source),
        "classes": [entry["name"] for entry in checkpoint.label_map.to_json()],
        "category_ids": list(checkpoint.label_map.category_ids),
        "parameters": count_parameters(checkpoint.model),
        "gflops": round(count_gflops(checkpoint.model, height, width), 3),
        "gflops_at": [height, width],
        "preprocessing": preprocessing.to_json(),
        "config": checkpoint.config.to_dict(),
        "origin": checkpoint.origin.to_json(),
    }
