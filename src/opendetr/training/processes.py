"""Values that the processes of a run share. With one process there is no communication."""

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

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
    """The result of work that the first process does alone, in every process."""
    found: list[T | None] = [work() if accelerator.is_main_process else None]
    result: T = broadcast_object_list(found)[0]
    return result


def leave_processes() -> None:
    """End the process group while Python still runs.

    Its threads free tensors; one that does so while the interpreter ends is killed and takes the process with it
    ("terminate called without an active exception").
    """
    gc.collect()  # a trainer is part of reference cycles, and its model keeps the group
    PartialState().destroy_process_group()
