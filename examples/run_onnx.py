"""Detect objects with an exported model without opendetr or PyTorch: onnxruntime, numpy and Pillow are enough.

opendetr export runs/cells --output cells.onnx
python run_onnx.py cells.onnx cell.jpg 0.5
"""

import itertools
import json
import os
import sys
from typing import NoReturn

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def refuse(reason: str) -> NoReturn:
    """End with one sentence."""
    print(f"{reason}: run_onnx.py cells.onnx cell.jpg 0.5", file=sys.stderr)
    sys.exit(2)


def resize(pixels: np.ndarray, axis: int, size: int) -> np.ndarray:
    """One axis of an antialiased bilinear resize, with the rounding of torchvision, in which the model was trained.

    Pillow's differs by one grey level in a few pixels of a thousand, and that can move an uncertain box by pixels.
    """
    old = pixels.shape[axis]
    scale = old / size
    reach = max(scale, 1.0)
    centre, at = (np.arange(size)[:, None] + 0.5) * scale, np.arange(old)
    near = (at >= np.trunc(centre - reach + 0.5)) & (at < np.trunc(centre + reach + 0.5))
    weights = np.maximum(1 - abs(at + 0.5 - centre) / reach, 0) * near
    weights /= weights.sum(1, keepdims=True)
    bits = next(bits for bits in range(22) if int(0.5 + weights.max() * 2 ** (bits + 1)) >= 2**15)
    whole = np.floor(weights * 2**bits + 0.5)  # whole numbers of 15 bits
    mixed = np.moveaxis(np.tensordot(whole, pixels, (1, axis)), 0, axis)
    return np.floor((mixed + 2 ** (bits - 1)) / 2**bits).clip(0, 255)


if len(sys.argv) != 4:
    refuse("Give an exported model, a picture and a threshold")
model, file, text = sys.argv[1:]
try:
    threshold = float(text)
except ValueError:
    refuse(f"The threshold must be a number from 0 to 1, not '{text}'")
if missing := [path for path in (model, file) if not os.path.isfile(path)]:
    refuse(f"The file '{missing[0]}' does not exist; give an exported model, a picture and a threshold")
session = onnxruntime.InferenceSession(model)
about = json.loads(session.get_modelmeta().custom_metadata_map["opendetr"])
how, labels = about["preprocessing"], about["labels"]
if how.get("resampling", "bilinear") != "bilinear":
    refuse("The model wants pictures that are resized bicubically, which this example does not do")

picture = ImageOps.exif_transpose(Image.open(file))
if picture.has_transparency_data:
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
picture = picture.convert("RGB")
shorter, longer, multiple = min(picture.size), max(picture.size), how["multiple_of"]
rounding, scale = how.get("rounding"), min(how["image_size"] / shorter, how["max_size"] / longer)
exact = min(how["image_size"], how["max_size"] * shorter / longer)
size = max(1, round(exact))
if rounding != "transformers" or size == shorter:
    exact = size
width, height = w, h = [size if side == shorter else max(1, int(exact * side / shorter)) for side in picture.size]
if rounding in ("nearest", "down"):
    width, height = w, h = [max(1, {"nearest": round, "down": int}[rounding](side * scale)) for side in picture.size]
if multiple > 1:  # take the pair of multiples nearest in aspect and area
    near = [[max(1, side // multiple + step) * multiple for step in (-1, 0, 1, 2)] for side in (h, w)]
    aspect, area = np.log(w / h), np.log(w * h)
    height, width = min(
        itertools.product(*near),
        key=lambda s: abs(np.log(s[1] / s[0]) - aspect) + 0.15 * abs(np.log(s[0] * s[1]) - area),
    )
pixels = resize(resize(np.asarray(picture, np.float64), 1, width), 0, height).astype(np.float32) / 255
images = ((pixels - np.float32(how["mean"])) / np.float32(how["std"])).transpose(2, 0, 1)[None]
padding_mask = np.zeros((1, height, width), bool)

scores, classes, boxes = session.run(
    ["scores", "labels", "boxes_xyxy"], {"images": images, "padding_mask": padding_mask}
)
for score, index, box in zip(scores[0], classes[0], boxes[0] * np.tile(picture.size, 2)):
    if score >= threshold and labels[index]["id"] is not None:
        print(labels[index]["name"], f"{score:.3f}", *box.round(1))
