"""The official DETR code (PyPI `detr==0.1.4`, 2020) beside ours: loaded, built from our configs, weights copied across.

It is expected in the folder `.peers` at the repository's root, or in the one named by OPENDETR_PEERS.
"""

import importlib
import os
import sys
import warnings
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from opendetr.config import LossConfig, ModelConfig
from opendetr.structures import DetrOutput, Target

TOP_LEVEL_NAMES = ("models", "util", "datasets")


def folder() -> Path:
    """Where the official code should be."""
    return Path(os.environ.get("OPENDETR_PEERS") or Path(__file__).parents[2] / ".peers")


@cache
def load() -> SimpleNamespace:
    """Its modules. Afterwards nothing is left in `sys.path` and `sys.modules`, because its names are everybody's.

    Raises:
        FileNotFoundError: it is not there.
    """
    if not (folder() / "models").is_dir():
        raise FileNotFoundError(
            f"the official code is not in {folder()}: pip install --no-deps --target {folder()} detr==0.1.4"
        )

    def take_from_modules() -> dict[str, Any]:
        names = [name for name in sys.modules if name.split(".")[0] in TOP_LEVEL_NAMES]
        return {name: sys.modules.pop(name) for name in names}

    others, version = take_from_modules(), torchvision.__version__
    sys.path.insert(0, str(folder()))
    torchvision.__version__ = "0.9.0"  # it reads float(__version__[:3]) and takes 0.26 for older than 0.7
    try:
        names = {"backbone": "models.backbone", "detr": "models.detr", "matcher": "models.matcher"}
        names |= {"transformer": "models.transformer", "misc": "util.misc", "transforms": "datasets.transforms"}
        modules = SimpleNamespace(**{key: importlib.import_module(name) for key, name in names.items()})
    finally:
        torchvision.__version__ = version
        sys.path.remove(str(folder()))
        take_from_modules()
        sys.modules.update(others)
    modules.backbone.is_main_process = lambda: False  # the main process downloads ImageNet weights
    return modules


def build_model(config: ModelConfig, num_classes: int, seed: int = 0) -> nn.Module:
    """The official model that `config` describes, in eval mode, with random weights everywhere.

    Norms and biases are drawn too: left at one and zero, they would hide it if two of them were swapped or left out.
    """
    arguments = SimpleNamespace(
        backbone=config.backbone.split(".")[0],
        dilation=config.output_stride == 16,
        hidden_dim=config.embed_dim,
        nheads=config.num_heads,
        enc_layers=config.num_encoder_layers,
        dec_layers=config.num_decoder_layers,
        dim_feedforward=config.feedforward_dim,
        dropout=config.dropout,
        pre_norm=config.pre_norm,
        position_embedding=config.position_encoding,
        lr_backbone=1e-5,
        masks=False,
    )
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision no longer likes the argument `pretrained`
        backbone = load().backbone.build_backbone(arguments)
    transformer = load().transformer.build_transformer(arguments)
    model = load().detr.DETR(backbone, transformer, num_classes, config.num_queries, aux_loss=True)
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 1 and name.endswith(("weight", "running_var")):
            tensor.uniform_(0.5, 1.5)
        elif tensor.ndim == 1:  # biases and running means
            tensor.normal_(0, 0.1)
    return model.eval()


@torch.no_grad()
def spread_answers(model: nn.Module, samples: Any) -> None:
    """Make a random model say something different about every query and picture.

    Fresh backbones give almost the same features everywhere: each channel of the projection gets mean 0 and standard
    deviation 1 over the cells of `samples`. Fresh queries attend almost alike and fresh heads hardly tell them apart:
    both are widened.
    """
    features, _ = model.backbone(samples)
    std, mean = torch.std_mean(model.input_proj(features[-1].tensors), dim=(0, 2, 3))
    model.input_proj.weight /= std[:, None, None, None]
    model.input_proj.bias.sub_(mean).div_(std)
    model.query_embed.weight *= 3
    for linear in (model.class_embed, *model.bbox_embed.layers):
        linear.weight *= 2


def copy_weights(theirs: nn.Module, ours: nn.Module) -> None:
    """Load every parameter and buffer of the official model into ours; a missing or an unknown name is an error."""
    ours.load_state_dict({our_name(name): tensor for name, tensor in theirs.state_dict().items()}, strict=True)


def our_name(name: str) -> str:
    """What an official parameter is called here."""
    name = name.replace("backbone.0.body.", "backbone.body.").replace("backbone.1.", "position_encoding.")
    if name.startswith("transformer."):
        name = name.replace(".linear1.", ".ffn.linear1.").replace(".linear2.", ".ffn.linear2.")
    return name


def pad(pictures: list[Tensor]) -> Any:
    """A padded batch with its mask: an official NestedTensor, whose `tensors` and `mask` are what our model takes."""
    return load().misc.nested_tensor_from_tensor_list(pictures)


def build_criterion(loss: LossConfig, num_classes: int, num_layers: int) -> nn.Module:
    """The official SetCriterion with its matcher and its weights, put together as its `build` does it."""
    matcher = build_matcher(loss)
    weights = {"loss_ce": loss.class_weight, "loss_bbox": loss.l1_weight, "loss_giou": loss.giou_weight}
    auxiliary = {f"{key}_{i}": weight for i in range(num_layers - 1) for key, weight in weights.items()}
    losses = ["labels", "boxes", "cardinality"]
    return load().detr.SetCriterion(num_classes, matcher, weights | auxiliary, loss.no_object_weight, losses)


def build_matcher(loss: LossConfig) -> nn.Module:
    """The official HungarianMatcher."""
    return load().matcher.HungarianMatcher(loss.class_cost, loss.l1_cost, loss.giou_cost)


def total_loss(criterion: nn.Module, losses: dict[str, Tensor]) -> Tensor:
    """The weighted sum that the official training loop minimises."""
    return sum(losses[key] * weight for key, weight in criterion.weight_dict.items())


def to_dict(output: DetrOutput) -> dict[str, Any]:
    """Our output in the official form."""
    *auxiliary, last = [{"pred_logits": a, "pred_boxes": b} for a, b in zip(*output)]
    return {**last, "aux_outputs": auxiliary}


def from_dict(output: dict[str, Any]) -> DetrOutput:
    """The official output in our form."""
    layers = [*output["aux_outputs"], output]
    return DetrOutput(*(torch.stack([layer[key] for layer in layers]) for key in ("pred_logits", "pred_boxes")))


def to_dicts(targets: list[Target]) -> list[dict[str, Tensor]]:
    """Our targets in the official form."""
    return [{"labels": target.labels, "boxes": target.boxes_cxcywh} for target in targets]
