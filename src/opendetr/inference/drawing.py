"""Pictures with boxes drawn on them, by supervision."""

import numpy as np
from PIL import Image

from opendetr._supervision import supervision as sv
from opendetr.structures import Detections


def draw(image: Image.Image, detections: Detections) -> Image.Image:
    """A copy of the RGB picture with a labelled box per detection, a colour per class."""
    thickness = sv.calculate_optimal_line_thickness(image.size)
    scale = sv.calculate_optimal_text_scale(image.size)
    objects = detections.to_supervision()
    labels = [f"{name} {score:.2f}" for name, score in zip(detections.names, detections.scores.tolist())]
    scene = np.asarray(image)[:, :, ::-1].copy()  # supervision draws BGR, as OpenCV does
    scene = sv.BoxAnnotator(thickness=thickness).annotate(scene, objects)
    scene = sv.LabelAnnotator(text_scale=scale, text_padding=3).annotate(scene, objects, labels=labels)
    return Image.fromarray(scene[:, :, ::-1].copy())
