"""How much training pictures are changed: three strengths by name, and a transform of the user's own."""

import importlib
import inspect
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from opendetr.boxes import clip_boxes
from opendetr.data.index import Record
from opendetr.errors import UserError, first_line
from opendetr.options import Augmentation

NO_FLIP: Mapping[str, Any] = {"data.horizontal_flip": 0.0, "data.vertical_flip": 0.0}
# What is not named here, such as how far is zoomed, stays the recipe's.
STRENGTHS: dict[Augmentation, Mapping[str, Any]] = {
    "none": {
        **NO_FLIP, "data.crop_probability": 0.0, "data.zoom_probability": 0.0, "data.colour": 0.0,
        "data.train_sizes": (),
    },
    "light": {"data.crop_probability": 0.0, "data.zoom_probability": 0.3, "data.colour": 0.1},
    "strong": {"data.zoom_probability": 0.8, "data.colour": 0.4},
}  # fmt: skip


def augmentation_values(augment: Augmentation | None, *, no_flip: bool) -> dict[str, Any]:
    """The config values, by dotted name, that `--augment` and `--no-flip` stand for."""
    return {**(STRENGTHS[augment] if augment else {}), **(NO_FLIP if no_flip else {})}


class OwnTransform:
    """A transform of the user's, `module:name`: a torchvision v2 transform or a function of picture and objects.

    Or a class or function without arguments that makes one.

    It is called before the recipe's own, with the picture as it was read, a `tv_tensors.Image` [3, H, W] of uint8, and
    `{"boxes": tv_tensors.BoundingBoxes, "labels": Tensor}`, and returns the two. Torch's, Python's and numpy's
    generators are seeded for every sample, so that no sample depends on those before it, nor on the process it is made
    in. Boxes are cut off at the edges of the new picture; those without an area there are left out.

    Raises:
        UserError: no such module or name, or it is no transform.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        module, _, attribute = name.partition(":")
        if not (module and attribute):
            raise UserError(f"--transform {name}: expected MODULE:NAME, such as my_augmentation:rotate for rotate in "
                            f"my_augmentation.py")  # fmt: skip
        here = str(Path.cwd())
        if here not in sys.path:  # as `python -m` has it; the command's own folder is no one's
            sys.path.insert(0, here)
        try:
            found = getattr(importlib.import_module(module), attribute)
            self.transform: Any = found if _takes_a_sample(found) else found()
        except Exception as error:  # of the user's code
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise UserError(f"--transform {name}: it cannot be made ({reason}); expected a torchvision v2 transform, "
                            f"or what makes one when it is called without arguments") from None  # fmt: skip
        if not callable(self.transform):
            kind = type(self.transform).__name__
            raise UserError(f"--transform {name} is of the type {kind}; expected a torchvision v2 transform")

    def __reduce__(self) -> tuple[type["OwnTransform"], tuple[str]]:
        """A loader process that does not share this one's memory makes the transform again."""
        return OwnTransform, (self.name,)

    def __call__(
        self, image: tv_tensors.Image, objects: dict[str, Any], record: Record
    ) -> tuple[tv_tensors.Image, dict[str, Any]]:
        """The transformed picture and objects of a record.

        Raises:
            UserError: the transform fails, or returns something else; names the picture.
        """
        before = random.getstate(), np.random.get_state()
        seed = int(torch.randint(2**32, ()))
        random.seed(seed)
        np.random.seed(seed)
        try:
            known = set(objects["labels"].tolist())
            return _checked(self.transform(image, objects), known)
        except Exception as error:  # of the user's code
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise UserError(f"--transform {self.name} fails on {record.path} ({reason})") from None
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def _takes_a_sample(found: Any) -> bool:
    """Whether it is a transform already: a module, or what is called with picture and objects; else it makes one."""
    if isinstance(found, torch.nn.Module) or inspect.isclass(found):
        return not inspect.isclass(found)
    needed = [one for one in inspect.signature(found).parameters.values() if one.default is one.empty]
    return len(needed) == 2


def _checked(returned: Any, known: set[int]) -> tuple[tv_tensors.Image, dict[str, Any]]:
    """What a transform returned, its boxes cut off at the edges; ValueError says what is wrong with it."""
    if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], dict)):
        raise ValueError("it must return two things: the picture, and the dictionary with boxes and labels")
    image, objects = returned
    boxes, labels = objects.get("boxes"), objects.get("labels")
    if not (isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3):
        raise ValueError("the picture it returns must be a uint8 tensor [3, H, W], as the one it gets")
    height, width = image.shape[-2:]
    if not height or not width:
        raise ValueError("the picture it returns has no pixels")
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or not set(labels.tolist()) <= known:
        raise ValueError("the labels it returns must be some of those it gets, as int64")
    if not isinstance(boxes, tv_tensors.BoundingBoxes) or len(boxes) != len(labels):
        raise ValueError("the boxes it returns must be tv_tensors.BoundingBoxes, one for each of the labels")
    corners = v2.functional.convert_bounding_box_format(boxes, new_format="XYXY").as_subclass(Tensor).float()
    if not corners.isfinite().all():
        raise ValueError("the boxes it returns are not finite")
    clipped, used = clip_boxes(corners, (height, width))
    kept = tv_tensors.BoundingBoxes(clipped[used], format="XYXY", canvas_size=(height, width))
    return tv_tensors.Image(image), {**objects, "boxes": kept, "labels": labels[used]}
