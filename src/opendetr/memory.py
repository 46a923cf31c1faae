"""Free memory for this process: of the machine, within the limits of its container."""

import os
from pathlib import Path

import psutil
import torch

from opendetr.control_groups import group_folders

FILES = {  # by version: limit, bytes in use, and of these the name of reclaimable ones in memory.stat
    1: [("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")],
    2: [(limit, "memory.current", "inactive_file") for limit in ("memory.max", "memory.high")],
}


def free_bytes(device: torch.device | None = None) -> int:
    """Free bytes on the device of a model; never below 0.

    Args:
        device: an accelerator, for its own memory; None or a CPU for the machine's, within this process's limits.
    """
    kind = "cpu" if device is None else device.type
    if kind == "cuda":  # memory that PyTorch keeps for later tensors counts as free
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    if kind == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    available, left = int(psutil.virtual_memory().available), control_group_bytes()
    return available if left is None else min(available, left)


def control_group_bytes(root: Path = Path("/")) -> int | None:
    """Free bytes within the limits of this process's control group and the groups above it; None without a limit.

    Containers and shared servers limit memory by control groups (Linux), which `free` does not show; a process that
    takes more is killed.
    """
    groups = group_folders("memory", root)
    left = [free for version, folder in groups for names in FILES[version] for free in _left(folder, *names)]
    return min(left, default=None)


def processes_here() -> int:
    """Number of processes of one run on this machine, as torchrun says; 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _left(folder: Path, limit: str, used: str, reclaimable: str) -> list[int]:
    """Free bytes within one limit of one group, as a list: empty where the file is missing or says "max".

    Cached files count as used in the statistics, but the system frees them when memory is needed.
    """
    try:
        most, taken = (int((folder / name).read_text(encoding="utf-8")) for name in (limit, used))
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):
        return []
    return [max(0, most - taken + int(statistics.get(reclaimable, 0)))]
