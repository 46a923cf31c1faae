"""Clocks: the peak speed of a machine, and the times of calls that are made in turn."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch.nn import functional as F

from opendetr.cores import others_seconds
from opendetr.progress import show_progress, waiting
from opendetr.wording import counted

WARM_UP, WARM_UP_SHARE = 3, 0.3  # calls of each kind, at most in this share of the time: an engine may compile
MOST_ROUNDS = 200
TURN = 0.05  # seconds: fast calls are repeated in their turn
PRODUCTS = (512, 2048)  # rows and columns of the matrices whose product is the peak
LARGE_PRODUCT = 8192  # for GPUs, which compute a smaller one in the time that a launch takes
TRIES = 4
SLOW = 1.0  # seconds: a product that would take longer is not tried


@dataclass
class Clock:
    """Calls by name, and the seconds that each of them took, as often as it was timed."""

    calls: dict[str, Callable[[], object]]
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def tick(self) -> None:
        """Time every call, once or as often as fits into a turn.

        The first call is not timed: during it the threads of the previous side go to sleep and those of this side wake.
        """
        next(iter(self.calls.values()))()
        for name, call in self.calls.items():
            taken, turn = self.seconds.setdefault(name, []), 0.0
            while turn < TURN:
                begun = time.perf_counter()
                call()
                taken.append(time.perf_counter() - begun)
                turn += taken[-1]


def take_turns(clocks: list[Clock], seconds: float) -> float:
    """Run all clocks in turn, round after round, so that other programs slow all of them.

    The slowdown is unequal: PyTorch's threads wait for each other in every layer, and where another program takes a
    core from one of them they can be fifty times as slow, other engines three times.

    Each clock gets at most about `seconds`, and one round where that takes longer.

    Returns:
        The share of the processors' time that other programs took meanwhile, 0..1.
    """
    for clock in show_progress(clocks, "warming up", len(clocks), "rows"):
        begun = time.perf_counter()
        for number in range(WARM_UP):
            if number and time.perf_counter() - begun > WARM_UP_SHARE * seconds:
                break
            for call in clock.calls.values():
                call()
    begun, worked = time.perf_counter(), others_seconds()
    with waiting(f"measuring {counted(len(clocks), 'row')} in turn", seconds * len(clocks)):
        for number in range(MOST_ROUNDS):
            passed = time.perf_counter() - begun
            if number and passed * (number + 1) / number > seconds * len(clocks):  # another round would take too long
                break
            first = number % len(clocks)  # rotate which one is first
            for clock in clocks[first:] + clocks[:first]:
                clock.tick()
    available = (time.perf_counter() - begun) * (os.cpu_count() or 1)
    return min(max(0.0, (others_seconds() - worked) / available), 1.0)


def measure_peaks(device: torch.device) -> dict[str, float]:
    """The speed of a large matrix product in fp32 and bf16, the best of several, in billions of operations a second.

    A multiply-add counts as two operations. On a CPU PyTorch has two libraries for it, and which is faster depends on
    the processor: in fp32 `@` takes one, and a convolution of 1x1, which is the same product, takes oneDNN. A
    precision that the device lacks is left out.
    """
    found = {}
    for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        try:
            found[name] = _peak(device, kind)
        except (RuntimeError, TypeError):  # the device lacks the type
            continue
    return found


def _peak(device: torch.device, kind: torch.dtype) -> float:
    best = 0.0
    for side in PRODUCTS if device.type == "cpu" else (*PRODUCTS, LARGE_PRODUCT):
        operations = 2 * side**3 / 1e9
        if best and operations / best > SLOW:  # without instructions for it bf16 is a hundred times slower
            break
        left, right = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
        pixels = left.T.reshape(1, side, side, 1).to(memory_format=torch.channels_last)
        kernels = right.T.reshape(side, side, 1, 1).to(memory_format=torch.channels_last)
        for product in (partial(torch.matmul, left, right), partial(F.conv2d, pixels, kernels)):
            for _ in range(TRIES):
                begun = time.perf_counter()
                product()[..., :1, :1].cpu()  # waits for the device
                best = max(best, operations / (time.perf_counter() - begun))
    return best
