"""The backbone: any timm network as a source of feature maps.

timm is imported where a network is made: it takes half a second, which who runs an exported file need not wait for.
"""

from contextlib import nullcontext
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from opendetr.devices import without_autocast
from opendetr.errors import UserError, first_line
from opendetr.model.folding import fold_frozen_norms
from opendetr.model.tokens import Features

TRANSFORMERS_EPS = 1e-5


class Backbone(nn.Module):
    """A timm network without its head: the feature map of its last stage, and of some earlier stages."""

    def __init__(
        self,
        name: str,
        output_stride: int = 32,
        extra_strides: tuple[int, ...] = (),
        *,
        pretrained: bool,
        freeze_depthwise: bool = False,
        batch_norm: Literal["timm", "huggingface"] = "timm",
    ) -> None:
        """Build the network with random weights.

        Args:
            name: of a timm network.
            output_stride: pixels per feature cell; 16 dilates the last stage (DC5).
            extra_strides: of finer maps to return beside the last.
            pretrained: whether ImageNet weights will be loaded: then batch norm, the stem and the first stage are
                frozen (section A.4). Random weights are never frozen: batch norm is trained, and the last batch norm of
                a residual branch starts at one instead of timm's zero.
            freeze_depthwise: whether pretrained depthwise kernels above 3x3 are frozen too.
            batch_norm: timm's own, or as `transformers` replaces it in a DETR.

        Raises:
            UserError: timm has no such network, or it cannot be used as a backbone at this stride.
        """
        super().__init__()
        self.body = _create(name, output_stride, extra_strides)
        if batch_norm == "huggingface":
            norm_as_transformers(self.body)
        stages: Any = self.body.feature_info
        self.channels: list[int] = stages.channels()  # of the maps, finest first
        self.channels_last = _gives_channels_last(self.body, self.channels[-1], name)
        self.in_full_precision = False  # whether autocast stops at the backbone
        if pretrained:
            self._freeze(freeze_depthwise)
        else:
            for module in self.body.modules():
                if isinstance(module, nn.BatchNorm2d) and module.weight is not None and not module.weight.any():
                    nn.init.ones_(module.weight)

    def forward(self, images: Float[Tensor, "B 3 H W"], padding_mask: Bool[Tensor, "B H W"] | None) -> list[Features]:
        """Feature maps, coarsest last."""
        with without_autocast(images.device) if self.in_full_precision else nullcontext():
            found = self.body(images)
        maps = [features.permute(0, 3, 1, 2) if self.channels_last else features for features in found]
        return [Features(features, _shrink(padding_mask, features)) for features in maps]

    def _freeze(self, freeze_depthwise: bool) -> None:
        stages: Any = self.body.feature_info
        from timm.layers import freeze_batch_norm_2d  # type: ignore[attr-defined]

        self.body = freeze_batch_norm_2d(self.body)  # type: ignore[no-untyped-call]
        fold_frozen_norms(self.body)
        # The modules that end stages up to stride 4; feature wrappers flatten `stages.0` to `stages_0`.
        ends = tuple(info["module"].replace(".", "_") + "_" for info in stages.info if info["reduction"] <= 4)
        names, parameters = zip(*self.body.named_parameters())
        frozen = [position for position, name in enumerate(names) if name.replace(".", "_").startswith(ends)]
        for parameter in parameters[: max(frozen, default=-1) + 1]:
            parameter.requires_grad_(False)
        for module in self.body.modules():
            if freeze_depthwise and isinstance(module, nn.Conv2d) and module.groups == module.in_channels:
                module.weight.requires_grad_(module.kernel_size <= (3, 3) and module.weight.requires_grad)


def _create(name: str, output_stride: int, extra_strides: tuple[int, ...]) -> nn.Module:
    import timm

    if not timm.is_model(name):
        nearest = timm.list_models(f"*{name.split('.')[0].split('_')[-1]}*")[:5]
        hint = f"; similar names are: {', '.join(nearest)}" if nearest else ""
        raise UserError(f"model.backbone: timm has no network called '{name}'{hint}")
    options: dict[str, Any] = {"pretrained": False, "features_only": True}
    if output_stride != 32:
        options["output_stride"] = output_stride
    try:
        indices = _stages_of_strides(name, options, extra_strides) if extra_strides else (-1,)
        return timm.create_model(name, out_indices=indices, **options)
    except (RuntimeError, TypeError, NotImplementedError, AssertionError, AttributeError) as error:
        raise UserError(
            f"model.backbone: timm's '{name}' cannot be a backbone at stride {output_stride} ({error})"
        ) from None


def _stages_of_strides(name: str, options: dict[str, Any], strides: tuple[int, ...]) -> tuple[int, ...]:
    """The last stage of each stride, and the last of all."""
    import timm

    stages: Any = timm.create_model(name, **options).feature_info
    reductions: list[int] = stages.reduction()
    for stride in strides:
        if stride not in reductions[:-1]:
            raise UserError(
                f"model.backbone: timm's '{name}' has no feature map of stride {stride} before its last; it has "
                f"{', '.join(map(str, reductions))}; choose with --set model.encoder_strides=[...] and "
                f"--set model.proposal_strides=[...], [] for none"
            )
    last_of = {reduction: index for index, reduction in enumerate(reductions)}
    return (*sorted(last_of[stride] for stride in strides), len(reductions) - 1)


def _gives_channels_last(body: nn.Module, num_channels: int, name: str) -> bool:
    """Whether the maps are [B, h, w, F], by a trial; UserError if it does not take any size, or gives no maps."""
    try:
        with torch.no_grad():
            features = body.eval()(torch.zeros(1, 3, 96, 160))[-1]
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(
            f"model.backbone: timm's '{name}' does not take pictures of any size ({first_line(error)}); "
            f"choose another, a convolutional network for example"
        ) from None
    finally:
        body.train()
    if features.ndim == 4 and num_channels in (features.shape[1], features.shape[3]):
        return bool(features.shape[1] != num_channels)
    raise UserError(
        f"model.backbone: timm's '{name}' gives {tuple(features.shape)}, no feature map of {num_channels} channels"
    )


def norm_as_transformers(body: nn.Module) -> None:
    """Replace every batch norm as `transformers` does in a DETR.

    It puts a plain one of eps 1e-5 in the place of each. timm's EfficientNets (and others) have another eps, and batch
    norms that hold the activation after them, which is lost: the models were trained without it.
    """
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = TRANSFORMERS_EPS
            if hasattr(module, "act"):
                module.act = nn.Identity()


def is_normed_as_transformers(body: nn.Module) -> bool:
    """Whether `transformers` would compute the same: every batch norm, frozen or not, is a plain one of eps 1e-5."""
    norms: list[Any] = [module for module in body.modules() if hasattr(module, "running_var")]
    return all(
        norm.eps == TRANSFORMERS_EPS and isinstance(getattr(norm, "act", None), nn.Identity | None) for norm in norms
    )


def _shrink(padding_mask: Tensor | None, features: Tensor) -> Tensor | None:
    if padding_mask is None:
        return None
    return F.interpolate(padding_mask[None].float(), size=features.shape[-2:]).to(torch.bool)[0]


def normalisation(body: nn.Module) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation (RGB, 0..1) the network's ImageNet weights were trained with."""
    pretrained: Any = body.pretrained_cfg
    return tuple(pretrained["mean"]), tuple(pretrained["std"])
