"""Other implementations of DETR with our weights, for comparison in benchmarks; opendetr itself never needs them.

Each prepares pictures, runs and post-processes by its own code. This file imports little, because the process that
measures a peer's memory must not hold our code.
"""

import argparse
import importlib
import os
import sys
import warnings
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from opendetr.errors import UserError, first_line
from opendetr.options import PeerName
from opendetr.structures import DetrOutput

PEERS = get_args(PeerName)
TOP_LEVEL_NAMES = ("models", "util", "datasets")
OFFICIAL_MODULES = {
    "backbone": "models.backbone", "detr": "models.detr", "transformer": "models.transformer", "misc": "util.misc",
    "transforms": "datasets.transforms",
}  # fmt: skip


class OfficialPeer:
    """The authors' code of 2020 (facebookresearch/detr)."""

    engine, precision = "official", "fp32"

    def __init__(self, path: Path, device: torch.device) -> None:
        """Build the model of a `.pth` written by `save_official`.

        Raises:
            UserError: the official code is missing.
        """
        self.device, self.code = device, _official_code(official_folder())
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
        state, arguments = content["model"], content["args"]
        preprocessing = arguments.opendetr["preprocessing"]
        arguments = argparse.Namespace(**{**vars(arguments), "lr_backbone": 0.0})  # of the optimiser, not needed
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the argument `pretrained` is deprecated
            backbone = self.code.backbone.build_backbone(arguments)
        self.model = self.code.detr.DETR(
            backbone, self.code.transformer.build_transformer(arguments), len(state["class_embed.bias"]) - 1,
            arguments.num_queries, aux_loss=arguments.aux_loss,
        )  # fmt: skip
        self.model.load_state_dict(state)
        self.model.eval().to(device)
        transforms = self.code.transforms
        resize = transforms.RandomResize([preprocessing["image_size"]], preprocessing["max_size"])
        normalize = transforms.Normalize(preprocessing["mean"], preprocessing["std"])
        self.transform = transforms.Compose([resize, transforms.ToTensor(), normalize])
        self.postprocess = self.code.detr.PostProcess()

    def answer(self, images: Float[Tensor, "B 3 H W"]) -> DetrOutput:
        """The output of the last decoder layer."""
        images = images.to(self.device)
        mask = torch.zeros(len(images), *images.shape[2:], dtype=torch.bool, device=self.device)
        with torch.inference_mode():
            output = self.model(self.code.misc.NestedTensor(images, mask))
        return DetrOutput(output["pred_logits"][None], output["pred_boxes"][None])

    def detect(self, pictures: list[Image.Image]) -> list[Any]:
        """All answers for every picture: scores, labels and boxes in its pixels."""
        prepared = [self.transform(picture, None)[0] for picture in pictures]
        sizes = torch.tensor([[picture.height, picture.width] for picture in pictures], device=self.device)
        with torch.inference_mode():
            batch = self.code.misc.nested_tensor_from_tensor_list(prepared).to(self.device)
            found = self.postprocess(self.model(batch), sizes)
        return [{name: tensor.cpu() for name, tensor in answers.items()} for answers in found]


class HuggingFacePeer:
    """The DETR or Table Transformer of transformers, with its image processor."""

    engine, precision = "huggingface", "fp32"

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Read a folder written by `save_huggingface`.

        Raises:
            UserError: transformers is missing.
        """
        transformers = _transformers()
        bar_was_shown = transformers.utils.logging.is_progress_bar_enabled()
        transformers.utils.logging.disable_progress_bar()
        try:
            model = transformers.AutoModelForObjectDetection.from_pretrained(folder)
            self.processor = transformers.DetrImageProcessor.from_pretrained(folder)
        finally:
            if bar_was_shown:
                transformers.utils.logging.enable_progress_bar()
        self.device, self.model = device, model.float().eval().to(device)

    def answer(self, images: Float[Tensor, "B 3 H W"]) -> DetrOutput:
        """The output of the last decoder layer."""
        with torch.inference_mode():
            output = self.model(pixel_values=images.to(self.device))
        return DetrOutput(output.logits[None], output.pred_boxes[None])

    def detect(self, pictures: list[Image.Image]) -> list[Any]:
        """All answers for every picture: scores, labels and boxes in its pixels."""
        prepared = self.processor(images=pictures, return_tensors="pt").to(self.device)
        sizes = [(picture.height, picture.width) for picture in pictures]
        with torch.inference_mode():
            output = self.model(**prepared)
            found = self.processor.post_process_object_detection(output, threshold=0.0, target_sizes=sizes)
        return [{name: tensor.cpu() for name, tensor in answers.items()} for answers in found]


Peer = OfficialPeer | HuggingFacePeer


def load_peer(name: str, written: Path, device: torch.device) -> Peer:
    """A peer with weights that were written for it.

    Raises:
        UserError: its code is missing.
    """
    return OfficialPeer(written, device) if name == "official" else HuggingFacePeer(written, device)


def require_peer(name: str) -> str:
    """Check that a peer's code is there; its version.

    Raises:
        UserError: it is not; says what has to be installed.
    """
    if name == "huggingface":
        return str(_transformers().__version__)
    folder = official_folder()
    _official_code(folder)
    return next((found.version for found in distributions(name="detr", path=[str(folder)])), "of unknown version")


def official_folder() -> Path:
    """The folder of the official code: that of OPENDETR_PEERS, else `.peers`."""
    return Path(os.environ.get("OPENDETR_PEERS") or ".peers").resolve()


@cache
def _official_code(folder: Path) -> SimpleNamespace:
    """The official modules. Nothing stays in `sys.path` and `sys.modules`, since other packages have such names."""
    if not (folder / "models").is_dir():
        raise UserError(
            f"--against official needs the authors' code in a folder of its own: pip install --no-deps --target "
            f"{folder} detr==0.1.4, or name another folder in OPENDETR_PEERS"
        )
    import torchvision

    others, version = _taken_from_modules(), torchvision.__version__
    sys.path.insert(0, str(folder))
    torchvision.__version__ = "0.9.0"  # it reads float(__version__[:3]) and takes 0.26 for older than 0.7
    try:
        modules = SimpleNamespace(**{key: importlib.import_module(name) for key, name in OFFICIAL_MODULES.items()})
    except ImportError as error:
        raise UserError(
            f"the official code in {folder} cannot be imported ({first_line(error)}): pip install pycocotools, and "
            f"detr==0.1.4 into that folder"
        ) from None
    finally:
        torchvision.__version__ = version
        sys.path.remove(str(folder))
        _taken_from_modules()
        sys.modules.update(others)
    modules.backbone.is_main_process = lambda: False  # the main process downloads ImageNet weights
    return modules


def _taken_from_modules() -> dict[str, Any]:
    names = [name for name in sys.modules if name.split(".")[0] in TOP_LEVEL_NAMES]
    return {name: sys.modules.pop(name) for name in names}


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError:
        raise UserError("--against huggingface needs transformers: pip install 'transformers>=5.0'") from None
