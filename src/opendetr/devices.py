"""The device and the precision in which a model runs."""

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from opendetr.cores import available_cores
from opendetr.errors import UserError, first_line
from opendetr.wording import counted


def resolve_device(name: str) -> torch.device:
    """The device for `auto | cpu | cuda | cuda:N | mps`.

    Raises:
        UserError: the device is unknown or not present on this machine.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device("cuda" if available["cuda"] else "mps" if available["mps"] else "cpu")
    kind = name.split(":")[0]
    if not available.get(kind, False):
        present = ", ".join(device for device, there in available.items() if there)
        raise UserError(
            f"--device {name} is not available: this machine has {present}; --device auto chooses among them"
        )
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name} is not understood ({first_line(error)})") from None
    if kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise UserError(f"--device {name} is not available: this machine's GPUs are cuda:0 to cuda:{last}")
    return device


AnyModule = TypeVar("AnyModule", bound=nn.Module)


def memory_format(device: torch.device) -> torch.memory_format:
    """The fastest memory layout for convolutions on the device.

    On MPS it is the plain one: until mid-2026 PyTorch's batch norm computed wrong gradients in channels-last there, or
    none (pytorch/pytorch 181411, 188371).
    """
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def place(model: AnyModule, device: torch.device) -> AnyModule:
    """Move a model to the device, in the fastest memory layout for its convolutions."""
    return model.to(device=device, memory_format=memory_format(device))  # type: ignore[call-overload,no-any-return,unused-ignore]


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; to a CUDA device it is copied asynchronously.

    Not to MPS, where such a copy may read memory that was freed meanwhile (pytorch/pytorch 139550, 189690).
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """The autocast context of `precision` (`fp32` or `bf16`)."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which every operation keeps the type it was given: boxes, costs and losses need float32."""
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()  # so that a trace of the model has no region of its own for it
    return torch.autocast(device.type, enabled=False)


def default_workers(device: torch.device) -> int:
    """Number of loader processes: none on a CPU, where they would only slow training; some beside an accelerator."""
    return 0 if device.type == "cpu" else min(4, available_cores())


def describe_machine(device: torch.device | None = None) -> str:
    """Processor, threads and system, for figures that depend on them; the GPU first where `device` is one."""
    processor, _, system = describe_processor().rpartition(", ")
    if device is not None and device.type != "cpu":
        gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "Apple GPU"
        processor = f"{gpu}, {processor}"
    return f"{processor}, {counted(torch.get_num_threads(), 'thread')}, {system}"


def describe_processor() -> str:
    """Processor and system, for results that do not depend on the number of threads."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {platform.system()}"


@contextmanager
def deterministic_where(wanted: bool) -> Iterator[None]:
    """Where wanted, only operations that give the same bits again; RuntimeError of PyTorch's where there is none."""
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA begins
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def keep_freed_memory() -> None:
    """Let the C library keep freed memory instead of returning it to the system at every step.

    Every training step allocates the same large tensors; by glibc's defaults each one is mapped, zeroed and unmapped
    anew, which takes a quarter of a step on two cores. Without glibc nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        set_option = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
    set_option(m_mmap_max, 0)
    set_option(m_trim_threshold, 2**31 - 1)
    set_option(m_top_pad, 2**28)
