"""Frozen batch norm as part of the convolution before it: the same numbers in fewer passes over the feature map.

In training and under autocast, the norm becomes part of the convolution's weights. Other evaluation keeps the order of
operations of the official code, and so its last bit. Where gradients are off, it writes into the convolution's output
instead of making two more of its size: a hook for features must be on the norm or on a stage.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from opendetr.devices import without_autocast


class FoldedConv2d(nn.Conv2d):
    """A convolution that may include the frozen batch norm after it; its weights train as before."""

    norm: tuple[Any]  # in a tuple, so that it is not registered as a submodule twice
    unfolded: type[nn.Conv2d]
    pads_same: bool  # as TensorFlow does: by the size of the input

    def forward(self, x: Tensor) -> Tensor:
        """Normalised features where it folds, else those of the convolution alone."""
        if not _folds(self, x):
            return self.unfolded.forward(self, x)
        weight, shift = self.merged()
        padding: Any = self.padding
        if self.pads_same:
            from timm.layers import pad_same  # type: ignore[attr-defined]

            x, padding = pad_same(x, self.kernel_size, self.stride, self.dilation), 0  # type: ignore[arg-type]
        if self._learns_slowly_in_bf16(x):
            with without_autocast(x.device):
                out = F.conv2d(x.float(), weight, shift, self.stride, padding, self.dilation, self.groups)
            return out.to(torch.get_autocast_dtype(x.device.type))
        return F.conv2d(x, weight, shift, self.stride, padding, self.dilation, self.groups)

    def merged(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution with the norm after it."""
        scale, shift = _scale_and_shift(*self.norm)
        if self.bias is not None:
            shift = shift + self.bias * scale
        return self.weight * scale[:, None, None, None], shift

    def _learns_slowly_in_bf16(self, x: Tensor) -> bool:
        """On a CPU the gradient of a depthwise convolution with a stride takes ten times as long in bf16 as in fp32."""
        depthwise = self.groups == self.in_channels > 1
        return depthwise and max(self.stride) > 1 and x.requires_grad and x.device.type == "cpu" and _in_autocast(x)


class MergedNorm(nn.Module):
    """A frozen batch norm whose convolution includes it for good: only its activation, if any, remains."""

    def forward(self, x: Tensor) -> Tensor:
        """The convolution's output, which is normalised already, after the activation."""
        return self.act(self.drop(x)) if hasattr(self, "act") else x  # type: ignore[operator]


class FoldedNorm(MergedNorm):
    """A frozen batch norm that its convolution may include; then only its activation, if any, remains."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalised features, in the place of `x` where gradients are off; after a folded convolution they are `x`."""
        if not _folds(self, x):
            scale, shift = (values[:, None, None] for values in _scale_and_shift(self))
            x = x * scale + shift if torch.is_grad_enabled() else x.mul_(scale).add_(shift)
        return super().forward(x)


def merge_folded_norms(body: nn.Module) -> None:
    """Write every folded norm into its convolution's weight and bias: a graph to run has no use for the norm's own.

    It cannot be undone, and names of weights no longer fit a checkpoint.
    """
    folded: list[Any] = [module for module in body.modules() if isinstance(module, FoldedConv2d)]
    for convolution in folded:
        with torch.no_grad():
            weight, bias = convolution.merged()
        convolution.weight, convolution.bias = nn.Parameter(weight), nn.Parameter(bias)
        (norm,) = convolution.norm
        convolution.__class__, norm.__class__ = convolution.unfolded, MergedNorm


def _folds(module: nn.Module, x: Tensor) -> bool:
    return module.training or _in_autocast(x)


def _in_autocast(x: Tensor) -> bool:
    return torch.is_autocast_enabled(x.device.type)


def _scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """Factor and offset of each channel of a frozen batch norm."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


def fold_frozen_norms(body: nn.Module) -> None:
    """Fold every frozen batch norm that reads a convolution's output. Names and weights do not change.

    The pairs are found by running the network, so that any timm architecture works.
    """
    from timm.layers import Conv2dSame, FrozenBatchNormAct2d  # type: ignore[attr-defined]

    outputs: dict[int, tuple[Any, Tensor]] = {}  # the tensor is kept so that its id is not used again
    calls: list[nn.Module] = []
    pairs: list[tuple[Any, Any]] = []

    def after_convolution(module: nn.Module, _: Any, output: Tensor) -> None:
        outputs[id(output)] = (module, output)
        calls.append(module)

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in outputs:
            pairs.append((outputs[id(inputs[0])][0], module))
        calls.append(module)

    hooks = []
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after_convolution))
        elif isinstance(module, FrozenBatchNormAct2d | FrozenBatchNorm2d):
            hooks.append(module.register_forward_pre_hook(before_norm))
    was_training = body.training
    with torch.no_grad():
        body.eval()(torch.zeros(1, 3, 64, 64, dtype=next(body.parameters()).dtype))
    body.train(was_training)
    for hook in hooks:
        hook.remove()
    for convolution, norm in pairs:
        if calls.count(convolution) == calls.count(norm) == 1:  # a module used twice is left alone
            convolution.norm = (norm,)
            convolution.unfolded, convolution.pads_same = type(convolution), isinstance(convolution, Conv2dSame)
            convolution.__class__, norm.__class__ = FoldedConv2d, FoldedNorm
