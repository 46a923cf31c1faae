"""The control groups of this process: Linux's limits of containers and shared servers."""

from collections.abc import Iterator
from pathlib import Path


def group_folders(controller: str, system: Path = Path("/")) -> Iterator[tuple[int, Path]]:
    """Version (1 or 2) and folder of the groups that limit this process, its own and those above; none elsewhere.

    The controller is `cpu` or `memory`; `proc` and `sys` are in the folder `system`.
    """
    try:
        lines = (system / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):  # another system
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        version, mounted = (1, system / "sys/fs/cgroup" / controller) if controllers else (2, system / "sys/fs/cgroup")
        # In a container the path may be the host's, and only the top is there: it is our own.
        names = [name for name in path.split("/") if name not in ("", "..")]
        for count in range(len(names), -1, -1):
            yield version, mounted.joinpath(*names[:count])
