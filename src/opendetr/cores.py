"""The processor's cores: how many this process may use, and how many other programs use."""

import os
import time
from pathlib import Path

import psutil

from opendetr.control_groups import group_folders


def available_cores(system: Path = Path("/")) -> int:
    """How many cores this process may use, at least 1, by its affinity and the quota of its control groups."""
    count = os.cpu_count() or 1
    affinity = getattr(os, "sched_getaffinity", None)  # missing on macOS and Windows
    allowed = count if affinity is None else len(affinity(0))
    quota = _quota(system)
    return max(1, min(count, allowed, count if quota is None else int(quota + 0.5)))


def _quota(system: Path) -> float | None:
    """Cores that control groups let this process use on average; None without a limit."""
    limits = [limit for version, folder in group_folders("cpu", system) for limit in _limit(version, folder)]
    return min(limits, default=None)


def _limit(version: int, group: Path) -> list[float]:
    """The limit of one group, where it has one."""
    try:
        if version == 2:
            quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = ((group / name).read_text(encoding="utf-8") for name in names)
        return [int(quota) / int(period)] if int(quota) > 0 else []
    except (OSError, ValueError):  # no such file, or `max`
        return []


def others_cores(seconds: float = 0.2) -> float:
    """How many cores other programs use, on average over some seconds in which this one sleeps."""
    before, begun = others_seconds(), time.perf_counter()
    time.sleep(seconds)
    return (others_seconds() - before) / (time.perf_counter() - begun)


def others_seconds() -> float:
    """Seconds that all cores together have worked for other processes; only differences of two calls mean something."""
    times = psutil.cpu_times()
    worked = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
    return float(worked) - time.process_time()
