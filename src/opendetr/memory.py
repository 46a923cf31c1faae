"""How much memory this process may still take: what is free on the machine, and what its container leaves."""

import os
from pathlib import Path

import psutil
import torch

from opendetr.control_groups import group_folders


def free_bytes(device: torch.device | None = None) -> int:
    """Bytes that can still be taken where a model runs; never below 0.

    Args:
        device: an accelerator, for its own memory; where None or a CPU, the machine's, as far as this process may.
    """
    kind = "cpu" if device is None else device.type
    if kind == "cuda":  # what PyTorch keeps for later tensors is not free on the device, but it is ours
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    if kind == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    available, left = int(psutil.virtual_memory().available), control_group_bytes()
    return available if left is None else min(available, left)


def control_group_bytes(root: Path = Path("/")) -> int | None:
    """Bytes that this process's control group, and each group above it, leave; None where none of them is limited.

    Containers and shared servers limit memory by control groups (Linux, versions 1 and 2), which `free` does not show;
    a process that takes more is killed.

    Args:
        root: of the file system.
    """
    left: list[int] = []
    for version, folder in group_folders("memory", root):
        if version == 2:
            for limit in ("memory.max", "memory.high"):
                left += _left(folder, limit, "memory.current", "inactive_file")
        else:
            left += _left(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    return min(left, default=None)


def processes_here() -> int:
    """Processes of one run that share this machine's memory, as torchrun says; 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _left(folder: Path, limit: str, used: str, reclaimable: str) -> list[int]:
    """What one limit of one group leaves, as a list: empty where the file is missing or says "max".

    Files that were read and are not in use count as used, but make room when it is needed.
    """
    try:
        most, taken = (int((folder / name).read_text(encoding="utf-8")) for name in (limit, used))
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):
        return []
    return [max(0, most - taken + int(statistics.get(reclaimable, 0)))]
