"""How many threads compute, and how they wait for each other.

The threads of a team meet after every operation. Where another program runs on one of the cores, the others wait for
the thread that has none, and by default they wait by spinning: they use up the time that the late one needs. So threads
shall spin only shortly, and there shall not be more of them than help, which is measured: neither the number of cores
nor the load of the machine tells it.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from opendetr.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

# GNU's OpenMP looks so often whether it goes on before it sleeps, by default 300,000 times: some ten microseconds
# instead of milliseconds. Alone that costs nothing; not to spin at all costs a tenth (docs/results/contention.md).
# Intel's and LLVM's OpenMP count milliseconds, by default 200.
WAITING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
WAITING_OF_USERS = ("OMP_WAIT_POLICY", *WAITING)
# Who sets one of these has settled the number of threads, or bound them to cores.
SETTLING = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")

PROBE_SECONDS, TURNS = 0.2, 5  # for each number of threads; in turn, so that what else the machine does falls on all
TIE = 0.05  # speeds that differ by less are equal
LOADED = 0.1  # a share of the processor from which other programs are worth a word
WINDOW_SECONDS, WINDOW_STEPS = 5.0, 5  # at least so much is looked at to say how fast steps are
SLOWER = 1.3  # steps that take so many times as long have a reason
OTHER_SIZE = 1.25  # steps with so many times the pixels, or so few, are not compared
AGAIN_SECONDS = 30.0  # while cores are left unused
MOST_PROBING = 0.02  # a share of the time


def set_waiting_policy() -> None:
    """Let threads of OpenMP sleep soon when they wait. Has an effect only before torch is imported.

    Where the user has set any of the variables that decide about this, nothing is changed.
    """
    if not any(name in os.environ for name in WAITING_OF_USERS):
        os.environ.update(WAITING)


def available_cores(system: Path = Path("/")) -> int:
    """How many cores this process may use, at least 1: its affinity, and the quota of its control groups.

    Args:
        system: where `proc` and `sys` are.
    """
    count = os.cpu_count() or 1
    affinity = getattr(os, "sched_getaffinity", None)  # there is none on macOS and Windows
    allowed = count if affinity is None else len(affinity(0))
    quota = _quota(system)
    return max(1, min(count, allowed, count if quota is None else int(quota + 0.5)))


def _quota(system: Path) -> float | None:
    """Cores that control groups, version 1 or 2, let this process use on average; None where nothing limits it."""
    try:
        groups = [line.split(":", 2) for line in (system / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return None
    limits = list[float]()
    for _, controllers, path in groups:
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = system / "sys/fs/cgroup" / ("cpu" if controllers else "")
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):  # what limits a parent limits us; a container sees only the top
            if folder.is_relative_to(top):
                limits += _limit(folder)
    return min(limits, default=None)


def _limit(group: Path) -> list[float]:
    """The limit of one group, where it has one."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = (group / "cpu.cfs_quota_us").read_text(), (group / "cpu.cfs_period_us").read_text()
        return [int(quota) / int(period)] if int(quota) > 0 else []
    except (OSError, ValueError):  # no such file, or `max`
        return []


class Probe(NamedTuple):
    """What a look at the machine found."""

    speeds: dict[int, float]  # work per second by number of threads
    others: float | None  # the share of the processor that other programs took, 0..1; None where nobody tells


def candidates(cores: int, present: int) -> list[int]:
    """Numbers of threads worth trying: all cores, all but one, a half, a quarter, ..., 1, and the present one."""
    numbers, part = {cores, max(1, cores - 1), min(present, cores)}, cores
    while part > 1:
        part //= 2
        numbers.add(part)
    return sorted(numbers, reverse=True)


def choose(speeds: dict[int, float], present: int) -> int:
    """The number of threads to use: the present one if none is faster, else the least of those that are as fast."""
    enough = max(speeds.values()) * (1 - TIE)
    if speeds.get(present, 0.0) >= enough:
        return present
    return min(number for number, speed in speeds.items() if speed >= enough)


class Threads:
    """The number of threads PyTorch computes with: settled, or measured at the start and again when that may help.

    Long work calls `observe` after every step. Engines take the number when they are built, and keep it.
    """

    def __init__(
        self,
        cores: int,
        *,
        measured: bool,
        probe: Callable[[Sequence[int]], Probe] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Measure for the first time, unless the number is settled.

        Args:
            cores: the most threads to try.
            measured: False: the number is settled, and `observe` does nothing.
            probe: says how fast numbers of threads are.
            clock: seconds.
        """
        import torch

        self.cores, self.measured = cores, measured
        self._probe, self._clock = probe or probe_speeds, clock
        self._usual: _Pace | None = None  # the best since the number was chosen
        self._recent: deque[_Step] = deque()
        self._recent_seconds = 0.0
        self._cost, self._looked_at = 0.0, clock()
        if not measured:
            return
        if cores == 1:
            torch.set_num_threads(1)
        else:
            self.measure()

    @property
    def number(self) -> int:
        """How many they are now."""
        import torch

        return torch.get_num_threads()

    def observe(self, seconds: float, pixels: int) -> None:
        """Take note of a step; where steps have become much slower, or cores are unused for long, measure again.

        Args:
            seconds: that the step took.
            pixels: of all its pictures together.
        """
        if not self.measured or self.cores == 1:
            return
        self._recent.append(_Step(seconds, pixels))
        self._recent_seconds += seconds
        while len(self._recent) > WINDOW_STEPS and self._recent_seconds - self._recent[0].seconds >= WINDOW_SECONDS:
            self._recent_seconds -= self._recent.popleft().seconds
        if len(self._recent) < WINDOW_STEPS or self._recent_seconds < WINDOW_SECONDS:
            return
        pace = _Pace.of(self._recent)
        if self._usual is None or not self._usual.is_of_size(pace):
            self._usual = pace
        slower = pace.seconds_per_pixel > SLOWER * self._usual.seconds_per_pixel
        self._usual = min(self._usual, pace)
        waited, rest = self._clock() - self._looked_at, self._cost / MOST_PROBING
        if waited >= rest and (slower or (self.number < self.cores and waited >= AGAIN_SECONDS)):
            self.measure()

    def measure(self) -> None:
        """Look which number of threads is the fastest now, use it, and say so where it is another."""
        import torch

        before, begun = self.number, self._clock()
        found = self._probe(candidates(self.cores, before))
        number = choose(found.speeds, before)
        torch.set_num_threads(number)
        self._looked_at = self._clock()
        self._cost = self._looked_at - begun
        self._usual, self._recent_seconds = None, 0.0
        self._recent.clear()
        if number != before:
            _say(f"{_reason(found.others, more=number > before)}: {_count(number)} faster than {before}")


class _Step(NamedTuple):
    seconds: float
    pixels: int


class _Pace(NamedTuple):
    """How fast steps are, the fastest first."""

    seconds_per_pixel: float
    pixels: float  # of a step

    @classmethod
    def of(cls, steps: Sequence[_Step] | deque[_Step]) -> "_Pace":
        """Medians: a single step may have waited for anything."""
        return cls(median(step.seconds / step.pixels for step in steps), median(step.pixels for step in steps))

    def is_of_size(self, other: "_Pace") -> bool:
        """Whether the steps have about as many pixels: small pictures take longer for each."""
        return self.pixels / OTHER_SIZE <= other.pixels <= self.pixels * OTHER_SIZE


def settle_threads(asked: int | str | None = None, *, measure: bool, device: str = "cpu") -> Threads:
    """Decide how many threads PyTorch computes with.

    A number that is asked for, or that the environment sets (`OMP_NUM_THREADS`), is final. Else it is measured, in
    about a fifth of a second for each number tried, where `measure` or `auto` wants it and the device is the CPU.

    Args:
        asked: a number, `auto`, or None for what `measure` says.
        measure: whether the work is of the kind whose number of threads is measured.
        device: the kind of device that computes.

    Raises:
        UserError: `asked` is none of these.
    """
    import torch

    if asked is not None and asked != "auto":
        torch.set_num_threads(require_count(asked))
        return Threads(available_cores(), measured=False)
    settled = [name for name in SETTLING if name in os.environ]
    if settled and asked == "auto":
        _say(f"{settled[0]} is set: nothing is measured, {_count(torch.get_num_threads())} used")
    wanted = (measure or asked == "auto") and not settled and device == "cpu"
    return Threads(available_cores(), measured=wanted and int(os.environ.get("WORLD_SIZE", "1")) == 1)


def require_count(asked: int | str) -> int:
    """The number of threads that is asked for.

    Raises:
        UserError: it is no whole number from 1 on.
    """
    try:
        number = int(asked)
    except ValueError:
        number = 0
    if number < 1:
        raise UserError(f"--threads {asked}: expected a whole number from 1 on, or auto")
    return number


def probe_speeds(numbers: Sequence[int], seconds: float = PROBE_SECONDS) -> Probe:
    """How fast work like that of a small training step is with these numbers of threads, in turn.

    Args:
        numbers: of threads; PyTorch's own number is not changed.
        seconds: for each.
    """
    import torch

    before, turn = torch.get_num_threads(), seconds / TURNS
    work = _piece_of_work()
    done, taken = dict.fromkeys(numbers, 0), dict.fromkeys(numbers, 0.0)
    began, others = time.perf_counter(), others_seconds()
    try:
        for first in range(TURNS):
            for number in (*numbers[first % len(numbers) :], *numbers[: first % len(numbers)]):
                torch.set_num_threads(number)
                work()  # the team is called together
                begun = time.perf_counter()
                while (passed := time.perf_counter() - begun) < turn:
                    work()
                    done[number] += 1
                taken[number] += passed
    finally:
        torch.set_num_threads(before)
    share = None
    if others is not None:
        share = ((others_seconds() or 0.0) - others) / ((time.perf_counter() - began) * (os.cpu_count() or 1))
    return Probe({number: done[number] / taken[number] for number in numbers}, share)


def _piece_of_work() -> "Callable[[], Tensor]":
    """Convolutions, matrix products and element-wise operations as in a training step of `fast` with 8 small pictures.

    No random numbers are drawn: a run shall not notice that somebody looked.
    """
    import torch
    from torch.nn import functional as F

    def ramp(*shape: int) -> "Tensor":
        return torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape)

    maps = ramp(8, 24, 32, 32).to(memory_format=torch.channels_last)
    wider, by_channel, narrower = ramp(96, 24, 1, 1), ramp(96, 1, 3, 3), ramp(24, 96, 1, 1)
    tokens, inner, outer = ramp(8, 100, 128), ramp(256, 128), ramp(128, 256)
    heads = tokens.reshape(8, 100, 4, 32).transpose(1, 2)

    @torch.inference_mode()
    def work() -> "Tensor":
        """Some milliseconds."""
        grown = F.relu6(F.conv2d(maps, wider))
        grown = F.relu6(F.conv2d(grown, by_channel, padding=1, groups=96))
        shrunk = F.conv2d(grown, narrower) + maps
        attention = torch.softmax(heads @ heads.transpose(2, 3), -1) @ heads
        answer = F.layer_norm(F.linear(F.relu(F.linear(tokens, inner)), outer) + tokens, (128,))
        return shrunk.mean() + attention.mean() + answer.mul(0.9).add(tokens).square().mean()

    return work


def others_seconds() -> float | None:
    """Seconds that all processors have worked for anybody but this process; None where the system does not tell."""
    try:
        line = Path("/proc/stat").read_text().splitlines()[0]
    except OSError:
        return None
    user, nice, system, _, _, interrupts, soft_interrupts, stolen = map(int, line.split()[1:9])
    ticks = user + nice + system + interrupts + soft_interrupts + stolen
    return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def _reason(others: float | None, *, more: bool) -> str:
    """Why the number of threads changes, as far as it is known."""
    if others is not None and others >= LOADED:
        return f"other programs take {others:.0%} of the processor"
    return "measured" if others is None or not more else "the processor is free"


def _count(number: int) -> str:
    return f"{number} thread is" if number == 1 else f"{number} threads are"


def _say(sentence: str) -> None:
    from opendetr.progress import console

    console.print(sentence)
