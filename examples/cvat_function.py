"""Label a task of CVAT with a model: a function for `cvat-cli`, in an environment with opendetr and cvat-cli.

cvat-cli --server-host http://localhost:8080 --auth USER task auto-annotate TASK --function-file cvat_function.py \
    -p model=str:runs/cells --allow-unmatched-labels

The labels of the task are the model's classes by their names.
"""

from typing import Any

import cvat_sdk.auto_annotation as cvat
from PIL import Image

from opendetr import Detector


class Function:
    """What CVAT asks for: `spec`, the labels, and `detect`, the boxes of a picture."""

    def __init__(self, model: str, threshold: float | None = None) -> None:
        """Load a model; without a threshold here or from `--conf-threshold` its own of each class are used."""
        self.detector, self.threshold = Detector.load(model), threshold
        labels = self.detector.description.label_map
        used = [(label, name) for label, name in enumerate(labels.names) if labels.category_ids[label] is not None]
        self.spec = cvat.DetectionFunctionSpec(
            labels=[cvat.label_spec(name, label, type="rectangle") for label, name in used]
        )

    def detect(self, context: Any, image: Image.Image) -> list[Any]:
        """The boxes, in pixels and within the picture."""
        asked = context.conf_threshold
        found = self.detector.predict(image, self.threshold if asked is None else asked)
        return [cvat.rectangle(one.label, list(one.box_xyxy)) for one in found.visible()]


create = Function  # what cvat-cli calls, with the parameters of -p
