"""The cost of a model: the columns of the paper's table 1."""

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """All parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_gflops(model: nn.Module, height: int, width: int) -> float:
    """Billions of multiply-adds for one image, one each, as the paper's table 1 counts them."""
    device = next(model.parameters()).device
    weights = {name: value.detach() for name, value in model.named_parameters()}  # the counter fails with gradients
    # The fused kernels hide their products from the counter; the plain one shows them.
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        functional_call(model, weights, (torch.zeros(1, 3, height, width, device=device),))
    return float(counter.get_total_flops()) / 2 / 1e9
