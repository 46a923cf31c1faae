"""How many threads PyTorch computes with: beside other programs the number that is fastest, by measurement."""

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from opendetr.cores import available_cores, others_cores
from opendetr.errors import UserError
from opendetr.progress import console

# A user who sets one of these has fixed the number of threads, or bound them to cores.
SETTLING = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")

# The number that PyTorch had by itself (it leaves out hyperthreads), or that a program set, by the number that was
# chosen instead: a later call must not mistake our choice for it.
_USUAL: dict[int, int] = {}

QUIET = 0.25  # cores: where others use fewer, all of ours are used without measuring
PROBE_SECONDS, TURNS = 0.2, 5  # for each number of threads; in turn, so that other programs slow all of them alike
TIE = 0.1  # speeds that differ by less are equal
WINDOW_SECONDS, WINDOW_STEPS = 5.0, 5  # the speed of steps is measured over at least this much
SLOWER = 1.3  # measure again where steps take this many times as long
OTHER_SIZE = 1.25  # steps are not compared where their pixels differ by this factor
AGAIN_SECONDS = 30.0  # measure again while cores are unused
MOST_PROBING = 0.02  # a share of the time


def candidates(cores: int, others: float, present: int) -> list[int]:
    """Numbers of threads worth trying.

    For all cores, all but one, all but those that other programs use, a half, a quarter, ..., 1; and the present one.
    """
    halves = {cores >> times for times in range(cores.bit_length())}
    return sorted(halves | {max(1, cores - 1), max(1, cores - round(others)), min(present, cores)}, reverse=True)


def fastest(speeds: dict[int, float], present: int | None) -> int:
    """The number of threads to use: the present one if none is faster, else the least of those that are as fast."""
    enough = max(speeds.values()) * (1 - TIE)
    if present is not None and speeds.get(present, 0.0) >= enough:
        return present
    return min(number for number, speed in speeds.items() if speed >= enough)


class Threads:
    """The number of threads PyTorch computes with: settled, or chosen at the start and again when that may help.

    Long work calls `observe` after every step. Engines take the number when they are built, and keep it.
    """

    def __init__(
        self,
        cores: int,
        *,
        measured: bool,
        listen: Callable[[], float] | None = None,
        probe: Callable[[Sequence[int]], dict[int, float]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Choose for the first time, unless the number is settled (not `measured`): then `observe` does nothing either.

        `others_cores` and `probe_speeds` measure by default, and `clock` returns seconds.
        """
        self.cores, self.measured = cores, measured
        self.usual = min(_USUAL.get(self.number, self.number), cores)
        self._listen, self._probe, self._clock = listen or others_cores, probe or probe_speeds, clock
        self._best: _Pace | None = None  # since the number was chosen
        self._recent: deque[_Step] = deque()
        self._recent_seconds = 0.0
        self._cost, self._chosen_at = 0.0, clock()
        if measured:
            self.choose()

    @property
    def number(self) -> int:
        """The present number."""
        return torch.get_num_threads()

    def observe(self, seconds: float, pixels: int) -> None:
        """Record a step's duration and total pixels; measure again if steps became much slower or cores are unused."""
        if not self.measured or self.usual == 1:
            return
        self._recent.append(_Step(seconds, pixels))
        self._recent_seconds += seconds
        while len(self._recent) > WINDOW_STEPS and self._recent_seconds - self._recent[0].seconds >= WINDOW_SECONDS:
            self._recent_seconds -= self._recent.popleft().seconds
        if len(self._recent) < WINDOW_STEPS or self._recent_seconds < WINDOW_SECONDS:
            return
        pace = _Pace.of(self._recent)
        if self._best is None or not self._best.is_of_size(pace):
            self._best = pace
        slower = pace.seconds_per_pixel > SLOWER * self._best.seconds_per_pixel
        self._best = min(self._best, pace)
        waited, rest = self._clock() - self._chosen_at, self._cost / MOST_PROBING
        if waited >= rest and (slower or (self.number < self.usual and waited >= AGAIN_SECONDS)):
            self.choose()

    def choose(self) -> None:
        """Use all cores where no other program computes, else the fastest number of threads; print what changes."""
        before, begun = self.number, self._clock()
        number, others, speeds = self.usual, 0.0, dict[int, float]()
        if self.usual > 1:
            others = self._listen()
            if others >= QUIET:
                speeds = self._probe(candidates(self.usual, others, before))
                number = fastest(speeds, before if before < self.usual else None)  # all cores are no choice
        _USUAL.clear()
        _USUAL[number] = self.usual
        if number != before:
            torch.set_num_threads(number)
            console.print(self._change(before, number, others, speeds))
        self._chosen_at = self._clock()
        self._cost = self._chosen_at - begun
        self._best, self._recent_seconds = None, 0.0
        self._recent.clear()

    def _change(self, before: int, number: int, others: float, speeds: dict[int, float]) -> str:
        """The change and its reason, as a sentence."""
        if before > self.cores:
            return f"only {self.cores} of {os.cpu_count()} cores are available: {_count(number)} instead of {before}"
        if others < QUIET:
            return f"no other program computes now: {_count(number)} instead of {before}"
        share = min(1.0, others / (os.cpu_count() or 1))
        verb, better = "is" if number == 1 else "are", speeds[number] > speeds.get(before, 0.0)
        compared = f"{verb} {'faster than' if better else 'as fast as'} {before}"
        return f"other programs take {share:.0%} of the processor: {_count(number)} {compared}"


class _Step(NamedTuple):
    seconds: float
    pixels: int


class _Pace(NamedTuple):
    """The speed of steps; the fastest comes first in order."""

    seconds_per_pixel: float
    pixels: float  # of a step

    @classmethod
    def of(cls, steps: Sequence[_Step] | deque[_Step]) -> "_Pace":
        """Medians, since a single step may have been slow by chance."""
        return cls(median(step.seconds / step.pixels for step in steps), median(step.pixels for step in steps))

    def is_of_size(self, other: "_Pace") -> bool:
        """Whether the steps have about as many pixels: small pictures take longer for each."""
        return self.pixels / OTHER_SIZE <= other.pixels <= self.pixels * OTHER_SIZE


def settle_threads(asked: int | str | None = None, *, measure: bool, device: str = "cpu") -> Threads:
    """Set the number of threads PyTorch computes with.

    A number in `asked` or in the environment (`OMP_NUM_THREADS`) is final. Else it is measured, about a fifth of a
    second for each number, if `asked` is `auto`, or None and `measure` is True, and the kind of device is `cpu`.

    Raises:
        UserError: `asked` is anything else.
    """
    if asked is not None and asked != "auto":
        try:
            number = int(asked)
        except ValueError:
            number = 0
        if number < 1:
            raise UserError(f"--threads {asked}: expected a whole number from 1 on, or auto")
        torch.set_num_threads(number)
        return Threads(available_cores(), measured=False)
    settled = [name for name in SETTLING if name in os.environ]
    if settled and asked == "auto":
        console.print(f"{settled[0]} is set: {_count(torch.get_num_threads())}, not measured")
    wanted = (measure or asked == "auto") and not settled and device == "cpu"
    wanted = wanted and int(os.environ.get("WORLD_SIZE", "1")) == 1
    if not wanted:  # undo a choice for earlier work of this process
        torch.set_num_threads(_USUAL.get(torch.get_num_threads(), torch.get_num_threads()))
    return Threads(available_cores(), measured=wanted)


def probe_speeds(numbers: Sequence[int], seconds: float = PROBE_SECONDS) -> dict[int, float]:
    """Speed by number of threads, in parts of a small training step per second; each number is tried for `seconds`."""
    before, turn = torch.get_num_threads(), seconds / TURNS
    work = _piece_of_work(max(numbers))
    done, taken = dict.fromkeys(numbers, 0), dict.fromkeys(numbers, 0.0)
    try:
        for first in range(TURNS):
            for number in (*numbers[first % len(numbers) :], *numbers[: first % len(numbers)]):
                torch.set_num_threads(number)
                work()  # OpenMP starts its threads
                begun = time.perf_counter()
                while (passed := time.perf_counter() - begun) < turn:
                    work()
                    done[number] += 1
                taken[number] += passed
    finally:
        torch.set_num_threads(before)
    return {number: done[number] / taken[number] for number in numbers}


def _piece_of_work(most: int) -> Callable[[], Tensor]:
    """Convolutions, matrix products and element-wise operations as in a training step of `fast` with small pictures.

    Four pictures for each of the most threads, so that there is enough work for all. No random numbers are drawn, so
    that the measurement does not change a run.
    """

    def ramp(*shape: int) -> Tensor:
        return torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape)

    batch = 4 * most
    maps = ramp(batch, 24, 32, 32).to(memory_format=torch.channels_last)
    wider, by_channel, narrower = ramp(96, 24, 1, 1), ramp(96, 1, 3, 3), ramp(24, 96, 1, 1)
    tokens, inner, outer = ramp(batch, 100, 128), ramp(256, 128), ramp(128, 256)
    heads = tokens.reshape(batch, 100, 4, 32).transpose(1, 2)

    @torch.inference_mode()
    def work() -> Tensor:
        """Runs for some milliseconds."""
        grown = F.relu6(F.conv2d(maps, wider))
        grown = F.relu6(F.conv2d(grown, by_channel, padding=1, groups=96))
        shrunk = F.conv2d(grown, narrower) + maps
        attention = torch.softmax(heads @ heads.transpose(2, 3), -1) @ heads
        answer = F.layer_norm(F.linear(F.relu(F.linear(tokens, inner)), outer) + tokens, (128,))
        return shrunk.mean() + attention.mean() + answer.mul(0.9).add(tokens).square().mean()

    return work


def _count(number: int) -> str:
    return "1 thread" if number == 1 else f"{number} threads"
