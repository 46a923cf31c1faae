"""Dropout with cheap random numbers: those of PyTorch take a sixth of a bf16 training step on a CPU."""

import torch
from torch import Tensor, nn

CHANCES = 2**16  # the values that 16 random bits have


class Dropout(nn.Dropout):
    """In training every value becomes 0 with probability `p`, or is divided by 1 - p (Srivastava et al. 2014).

    On a CPU PyTorch draws a double for each value, one after the other. Here 16 bits decide, which rounds p to a
    multiple of 2^-16; the divisor is rounded with it, so that the expected value stays exact.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape; `x` itself in evaluation."""
        by_bits = x.device.type == "cpu" and 0 < self.p < 1 and not torch.compiler.is_compiling()
        if not self.training or not by_bits:
            return super().forward(x)
        dropped = min(round(self.p * CHANCES), CHANCES - 1)
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        keep = torch.ge(bits, dropped - CHANCES // 2, out=torch.empty_like(x, requires_grad=False))
        return x * keep * (CHANCES / (CHANCES - dropped))
