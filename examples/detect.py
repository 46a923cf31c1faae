"""Detect objects with any DETR: `python examples/detect.py detr-r50 photo.jpg`.

The first argument is a run folder, an official `.pth`, a released name (detr-r50, detr-r101, detr-r50-dc5 or
detr-r101-dc5), a folder written by transformers, or a name on the Hugging Face hub (facebook/detr-resnet-50).
"""

import sys

from opendetr import Detector

if len(sys.argv) < 3:
    print(__doc__.splitlines()[0], file=sys.stderr)
    sys.exit(2)
model, *pictures = sys.argv[1:]
detector = Detector.load(model)
for picture, detections in zip(pictures, detector.predict(pictures, threshold=0.7)):
    for name, score, box in zip(detections.names, detections.scores.tolist(), detections.boxes_xyxy.tolist()):
        print(f"{picture}: {name} {score:.2f} at {[round(side) for side in box]}")
