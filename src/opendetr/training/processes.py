"""Values that the processes of a run share. With one process there is no communication."""

import atexit
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from opendetr.errors import UserError, first_line
from opendetr.progress import console, warn
from opendetr.training.run_folder import is_unsaved, was_saved

T = TypeVar("T")


def any_process(accelerator: Accelerator, here: bool) -> bool:
    """Whether it holds in any process: their clocks and signals differ, their numbers of steps must not."""
    if accelerator.num_processes == 1:
        return here
    flag = torch.tensor(float(here), device=accelerator.device)
    return bool(accelerator.reduce(flag, "sum") > 0)


def of_first(accelerator: Accelerator, here: bool) -> bool:
    """What the first process decides by its clock."""
    return any_process(accelerator, here and accelerator.is_main_process)


def mean_of_processes(accelerator: Accelerator, here: float) -> float:
    """The mean of the processes' values."""
    if accelerator.num_processes == 1:
        return here
    value = torch.tensor(here, device=accelerator.device, dtype=torch.float64)  # equal values keep all their bits
    return float(accelerator.reduce(value, "mean"))


def sum_of_processes(accelerator: Accelerator, here: Tensor) -> Tensor:
    """The sum of the processes' tensors."""
    if accelerator.num_processes == 1:
        return here
    summed: Tensor = accelerator.reduce(here, "sum")
    return summed


def of_all_processes(accelerator: Accelerator, here: list[Any]) -> list[Any]:
    """The items of all processes in one list."""
    return here if accelerator.num_processes == 1 else list(gather_object(here))


def of_first_process(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """The result of work that the first process does alone, in every process.

    Raises:
        UserError: that of the first process, in all of them, so that none waits for one that has ended.
    """
    if accelerator.num_processes == 1:
        return work()
    found: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            found[0] = work()
        except UserError as error:
            found[1] = error
    result, failure = broadcast_object_list(found)
    if failure is not None:
        raise said_by_first(accelerator, failure)
    return cast(T, result)


def said_by_first(accelerator: Accelerator, error: UserError) -> UserError:
    """An error that all processes raise: the first one says it."""
    error.is_said_elsewhere = not accelerator.is_main_process
    return error


def stoppable_work_of_first(
    accelerator: Accelerator, work: Callable[[Callable[[], bool]], T], stops: Callable[[], bool]
) -> T:
    """As `of_first_process`, for long work that ends early where `stops` holds in any process.

    `work` gets a function that says so, and calls it often; meanwhile the other processes do nothing but answer it.
    """
    if accelerator.num_processes == 1:
        return work(stops)

    def any_stops() -> bool:
        any_process(accelerator, True)  # the work goes on
        return any_process(accelerator, stops())

    def first() -> T:
        try:
            return work(any_stops)
        finally:
            any_process(accelerator, False)

    if not accelerator.is_main_process:
        while any_process(accelerator, False):
            any_process(accelerator, stops())
    return of_first_process(accelerator, first)


class SharedStop:
    """Lets processes stop together that work on shares which take different times.

    All of them ask the same number of times, so that none waits for an answer that another will not give: before every
    `every` items of the share, and at its end as often as one with a larger share asked more.
    """

    def __init__(self, accelerator: Accelerator, stops: Callable[[], bool], total: int, every: int) -> None:
        """`total` are the items of all processes, in shares of equal size up to one item."""
        self.accelerator, self.stops, self.every = accelerator, stops, every
        largest = -(-total // accelerator.num_processes)
        self.rounds, self.asked = -(-largest // every), 0

    def is_due(self, done: int) -> bool:
        """Whether all stop, where this process has done so many items of its share."""
        return self._ask_until(min(self.rounds, done // self.every + 1))

    def is_due_at_the_end(self) -> bool:
        """Whether all stop, where this process has done its share."""
        return self._ask_until(self.rounds)

    def _ask_until(self, asked: int) -> bool:
        while self.asked < asked:
            self.asked += 1
            if any_process(self.accelerator, self.stops()):
                return True
        return False


def restarted_run(output: Path | None, resume: Path | None, device: torch.device) -> Path | None:
    """The folder of a run that goes on, since its launcher (`torchrun --max-restarts`) has started it again.

    None in every other case: a folder with a run is never continued unasked. After a failure the launcher of one
    machine counts a restart, those of others do not, so the processes tell each other.

    Raises:
        UserError: there may be restarts, and the folder has no name or is not the same for all processes.
    """
    if not int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")):
        return None
    folder = resume if output is None else output
    if folder is None:
        raise UserError("a launcher with --max-restarts starts a training again in its folder: give --output RUN")
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # pytorch/pytorch 135712
        warn(
            "after a restart the processes look for each other where they were before, and fail, unless torchrun is "
            "started with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment."
        )
    join_processes(device)
    is_restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    has_begun = was_saved(folder) or (resume is None and is_unsaved(folder))
    restarted, begun = zip(*gather_object([(is_restarted, has_begun)]))
    if not any(restarted) or not any(begun):
        return None
    if not all(begun):
        raise UserError(
            f"only some of the processes see the run in {folder}, so it cannot go on: give an --output on a disk that "
            f"all of them share"
        )
    console.print(f"{folder}: started again by its launcher, so it goes on")
    return folder


PEER_IS_GONE = ("by peer", "NCCL", "gloo")  # in what a process says when another one has ended


class PeerGoneError(UserError):
    """Another process of the training has ended, so this one cannot go on."""


@contextmanager
def gone_peers_are_said() -> Iterator[None]:
    """Say in one sentence that another process has ended.

    Raises:
        PeerGoneError: instead of the RuntimeError in which the processes' connection says so.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(word in str(error) for word in PEER_IS_GONE) or PartialState().num_processes == 1:
            raise
        raise PeerGoneError(
            "another process of this training has ended, so this one ends too: if its reason is not said above, it was "
            f"perhaps memory; continue with --resume RUN ({first_line(error)})"
        ) from error


def join_processes(device: torch.device) -> None:
    """Meet the other processes of the training, where a launcher has started several."""
    if PartialState(cpu=device.type == "cpu").num_processes > 1:
        atexit.unregister(leave_processes)  # this may be the second training
        atexit.register(leave_processes)


def leave_processes() -> None:
    """End the process group while Python still runs.

    Its threads free tensors; one that does so while the interpreter ends is killed and takes the process with it
    ("terminate called without an active exception").
    """
    gc.collect()  # a trainer is part of reference cycles, and its model keeps the group
    PartialState().destroy_process_group()
