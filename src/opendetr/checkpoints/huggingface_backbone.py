"""The backbone in the config of Hugging Face's DETR: read from each of the ways to say it, and written.

Release 5 of `transformers` writes `backbone_config`. Release 4 wrote `backbone`, `backbone_kwargs` and `dilation` for
networks of timm, and `backbone_config` for its own ResNet.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch

from opendetr.checkpoints.official import RESNETS
from opendetr.config import ModelConfig
from opendetr.errors import UserError
from opendetr.model.backbone import Backbone

RESNET = re.compile(r"resnet(18|34|50|101|152)(\.tv\w*)?")
WIDTHS = {"basic": [64, 128, 256, 512], "bottleneck": [256, 512, 1024, 2048]}  # of the stages of a ResNet
STRIDES = (8, 16, 32)
TRIAL = (64, 96)  # height and width of the picture with which feature maps are checked


class Network(NamedTuple):
    """The backbone of a config."""

    name: str  # in timm
    stride: Literal[8, 16, 32] | None = None  # pixels per feature cell; None: the network's own
    stage: int = -1  # the stage whose feature map the transformer reads, as an index of timm's stages
    keeps_norms: bool = False  # whether timm's batch norms stay as they are


def read_backbone(config: Mapping[str, Any], file: str) -> Network:
    """The backbone of a config, `file` is its name.

    Raises:
        UserError: another family of networks, or a value with which features would be other ones.
    """
    nested = config.get("backbone_config")
    if nested:
        kind = nested.get("model_type")
        if kind == "resnet":
            return _own_resnet(nested, file)
        if kind != "timm_backbone":
            raise UserError(
                f"{file}: the backbone is a '{kind}' of transformers (backbone_config.model_type), which opendetr does "
                f"not have; expected resnet or timm_backbone"
            )
        return _of_timm(str(nested.get("backbone")), nested, "backbone_config", file)
    name, given = str(config.get("backbone") or "resnet50"), config.get("backbone_kwargs") or {}
    if config.get("use_timm_backbone", True):
        stride = {"output_stride": 16} if config.get("dilation") else {}
        return _of_timm(name, stride | given, "backbone_kwargs", file)
    plain = name.removeprefix("microsoft/").replace("resnet-", "resnet")
    if RESNET.fullmatch(plain) is None:
        raise UserError(
            f"{file}: the backbone is transformers' '{name}' (use_timm_backbone = false), which opendetr does not "
            f"have; expected a network of timm, or microsoft/resnet-18 to microsoft/resnet-152"
        )
    _require(given, {"output_stride": (32,)}, "backbone_kwargs", file)  # transformers' own networks have no other
    return _of_timm(plain, given, "backbone_kwargs", file)


def _of_timm(name: str, given: Mapping[str, Any], where: str, file: str) -> Network:
    name = name.removeprefix("timm/").removeprefix("microsoft/").replace("resnet-", "resnet")
    _require(given, {"num_channels": (3,), "in_chans": (3,), "features_only": (True,)}, where, file)
    _require(given, {"output_stride": STRIDES}, where, file)
    understood = {"output_stride", "out_indices", "out_features", "num_channels", "in_chans", "features_only"}
    if where == "backbone_kwargs" and (others := sorted(given.keys() - understood)):
        raise UserError(f"{file}: {where}.{others[0]} = {given[others[0]]} cannot be computed here; leave it out")
    stage = max(given.get("out_indices") or (-1,))
    tagged = f"{name}.tv_in1k" if RESNET.fullmatch(name) and "." not in name else name
    return Network(tagged, given.get("output_stride"), stage, bool(given.get("freeze_batch_norm_2d", False)))


def _own_resnet(nested: Mapping[str, Any], file: str) -> Network:
    """The ResNet of transformers; it has no output_stride."""
    depths, kind = tuple(nested.get("depths", (3, 4, 6, 3))), nested.get("layer_type", "bottleneck")
    known = {stages: depth for depth, stages in RESNETS.items()}
    if (depths, kind) not in known:
        raise UserError(f"{file}: a ResNet of stages {depths} with {kind} blocks is none that timm knows")
    expected: dict[str, tuple[Any, ...]] = {
        "hidden_act": ("relu",), "num_channels": (3,), "embedding_size": (64,), "hidden_sizes": (WIDTHS[kind],),
        "downsample_in_first_stage": (False,),
    }  # fmt: skip
    if kind == "bottleneck":
        expected["downsample_in_bottleneck"] = (False,)
    _require({"hidden_sizes": WIDTHS["bottleneck"]} | dict(nested), expected, "backbone_config", file)
    features = (nested.get("out_features") or ["stage4"])[-1]
    if features != "stage4":
        raise UserError(
            f"{file}: the features are those of {features} (backbone_config.out_features), which cannot be computed "
            f"here; expected stage4, the last"
        )
    return Network(f"resnet{known[depths, kind]}.tv_in1k", stage=max(nested.get("out_indices") or (-1,)))


def _require(given: Mapping[str, Any], expected: Mapping[str, tuple[Any, ...]], where: str, file: str) -> None:
    for name, values in expected.items():
        value = given.get(name)
        if value is not None and value not in values:
            *others, last = map(str, values)
            wanted = f"{', '.join(others)} or {last}" if others else last
            raise UserError(f"{file}: {where}.{name} = {value} cannot be computed here; expected {wanted}")


def require_features(backbone: Backbone, network: Network, file: str) -> None:
    """Check, by a trial, that a backbone gives the feature map that its config says; UserError if not."""
    stages: Any = backbone.body.feature_info
    last = len(stages.info) - 1
    if network.stage not in (-1, last):
        raise UserError(
            f"{file}: the features are those of stage {network.stage} of {network.name} (out_indices), which cannot be "
            f"computed here; expected {last}, the last"
        )
    stride = network.stride or stages.reduction()[-1]
    with torch.no_grad():
        shape = tuple(backbone.eval()(torch.zeros(1, 3, *TRIAL), None)[-1].map.shape[2:])
    expected = tuple(math.ceil(side / stride) for side in TRIAL)
    if shape != expected:
        raise UserError(
            f"{file}: {network.name} gives a feature map of {shape[0]}x{shape[1]} cells for a picture of "
            f"{TRIAL[0]}x{TRIAL[1]} pixels; at the config's stride {stride} it would be {expected[0]}x{expected[1]}"
        )


def backbone_fields(model: ModelConfig, body: Any, *, timm_backbone: bool) -> dict[str, Any]:
    """Their config's part about the backbone, which every release reads; their own ResNet has stride 32."""
    is_resnet, stride = RESNET.fullmatch(model.backbone), model.output_stride
    name = model.backbone.split(".")[0] if is_resnet else model.backbone
    if not timm_backbone:
        depths, kind = RESNETS[int(name.removeprefix("resnet"))]
        return {"use_timm_backbone": False, "backbone": None, "dilation": False, "backbone_config": {
            "model_type": "resnet", "depths": list(depths), "out_features": ["stage4"], "layer_type": kind,
            "hidden_sizes": WIDTHS[kind],
        }}  # fmt: skip
    if is_resnet and stride != 8:
        return {"use_timm_backbone": True, "backbone": name, "use_pretrained_backbone": False, "dilation": stride == 16}
    dilated = {} if stride == 32 else {"output_stride": stride}
    return {"use_timm_backbone": False, "backbone": None, "dilation": False, "backbone_config": {
        "model_type": "timm_backbone", "backbone": name, "features_only": True, "use_pretrained_backbone": False,
        "out_indices": list(body.feature_info.out_indices), **dilated,
    }}  # fmt: skip
