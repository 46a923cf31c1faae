"""Frozen batch norm as part of the convolution before it: the same numbers in fewer passes over the feature map."""

from typing import Any

import torch
from timm.layers import Conv2dSame, FrozenBatchNormAct2d, pad_same  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d


class FoldedConv2d(nn.Conv2d):
    """A convolution that in training does the work of the frozen batch norm after it; its weights train as before."""

    norm: tuple[Any]  # in a tuple, because it belongs to the network as a module of its own
    unfolded: type[nn.Conv2d]

    def forward(self, x: Tensor) -> Tensor:
        """Normalised features in training; in evaluation those of the convolution alone."""
        if not self.training:
            return self.unfolded.forward(self, x)
        (norm,) = self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        if self.bias is not None:
            shift = shift + self.bias * scale
        weight = self.weight * scale[:, None, None, None]
        padding: Any = self.padding
        if issubclass(self.unfolded, Conv2dSame):  # TensorFlow's padding, which depends on the size of the input
            x, padding = pad_same(x, self.kernel_size, self.stride, self.dilation), 0  # type: ignore[arg-type]
        return F.conv2d(x, weight, shift, self.stride, padding, self.dilation, self.groups)


class FoldedNorm(nn.Module):
    """In training, what is left of a frozen batch norm: the activation, if it has one."""

    unfolded: type[nn.Module]

    def forward(self, x: Tensor) -> Tensor:
        """The activation in training; normalised features in evaluation."""
        if not self.training:
            return self.unfolded.forward(self, x)  # type: ignore[no-any-return]
        return self.act(self.drop(x)) if hasattr(self, "act") else x  # type: ignore[operator]


def fold_frozen_norms(body: nn.Module) -> None:
    """Fold every frozen batch norm that reads the output of a convolution. Names and weights stay as they are.

    Only training folds: evaluation keeps the order of operations, and with it the last bit, of the official code.
    The pairs are found by running the network, so that any timm architecture will do.
    """
    outputs: dict[int, tuple[Any, Tensor]] = {}  # the tensor is kept so that its id stays its own
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
            convolution.unfolded, norm.unfolded = type(convolution), type(norm)
            convolution.__class__, norm.__class__ = FoldedConv2d, FoldedNorm
