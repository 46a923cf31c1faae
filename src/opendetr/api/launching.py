"""`--devices N`: one training in N processes of this machine, started by PyTorch's own launcher."""

import logging
import os
import pickle
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opendetr.cores import available_cores
from opendetr.devices import resolve_device
from opendetr.errors import UserError
from opendetr.progress import console

PROCESS = "opendetr.cli.launched"  # the module that is one of the processes
SECONDS = 30  # after a signal, for the processes to save and end
STOPPED = 130  # exit code of a process after a second Ctrl-C
ORDER, RESULT, ERROR = "order.pickle", "run.txt", "error.pickle"


def require_devices(count: int, device: str) -> None:
    """Check `--devices`.

    Raises:
        UserError: below 1, more than the machine has, this process is one of several already, or this is Windows.
    """
    if "RANK" in os.environ:
        raise UserError("--devices starts processes itself: leave it out with torchrun or accelerate launch")
    if sys.platform == "win32" and count > 1:  # pytorch/pytorch#178600
        raise UserError(
            "--devices does not work on Windows: PyTorch's launcher cannot run there; leave it out or use WSL"
        )
    kind = resolve_device(device).type
    if count < 1:
        raise UserError(f"--devices must be at least 1, got {count}")
    import torch

    most = {"cuda": torch.cuda.device_count(), "mps": 1}.get(kind, available_cores())
    if count > most:
        what = {"cuda": "GPUs", "mps": "GPU"}.get(kind, "processor cores, and the device is the CPU")
        raise UserError(f"--devices {count}: this machine has {most} {what}")


def train_in_processes(count: int, options: Mapping[str, Any]) -> Path:
    """Call `opendetr.train` with the options in this many processes, each with a device of its own; the run folder.

    A signal to this process or to any of the others lets all of them end cleanly, with the run saved.

    Raises:
        UserError: one of theirs; or a process was killed, and the others were ended.
        KeyboardInterrupt: a signal came before the training had begun, or the processes did not end in time.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for part in ("agent.server.api", "multiprocessing.api"):  # we say in one sentence what they say in many
        logging.getLogger(f"torch.distributed.elastic.{part}").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // count)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SECONDS))
    with tempfile.TemporaryDirectory(prefix="opendetr-") as temporary:
        folder = Path(temporary)
        (folder / ORDER).write_bytes(pickle.dumps({"options": dict(options), "is_quiet": console.quiet}))
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=count, rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1", max_restarts=0, run_id=folder.name,
        )  # fmt: skip
        try:
            elastic_launch(config, sys.executable)("-m", PROCESS, str(folder))
        except ChildFailedError as failed:
            if (folder / ERROR).is_file():
                raise pickle.loads((folder / ERROR).read_bytes()) from None
            killed = [found for found in failed.failures.items() if found[1].exitcode < 0]
            rank, failure = killed[0] if killed else failed.get_first_failure()  # others fail because it is gone
            if failure.exitcode in (-signal.SIGTERM, -signal.SIGINT, STOPPED):
                raise KeyboardInterrupt from None
            end = f"signal {-failure.exitcode}" if failure.exitcode < 0 else f"code {failure.exitcode}"
            raise UserError(
                f"process {rank} of {count} ended with {end}, so the others were ended too; if its reason is not said "
                f"above, it was perhaps memory; continue with --resume RUN"
            ) from None
        except SignalException:
            if not (folder / RESULT).is_file():
                raise KeyboardInterrupt from None
        return Path((folder / RESULT).read_text(encoding="utf-8"))
