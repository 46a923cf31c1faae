"""Peak memory of a side, measured in its own process, since one process has only one peak."""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch
from PIL import Image

from opendetr.errors import UserError

if TYPE_CHECKING:  # our code would count as the peer's memory
    from opendetr.benchmarking.sides import Side

PICTURES_SHOWN = 5  # OpenVINO compiles for the first shape and for repeated ones, which takes memory too
SEED = 0


@dataclass(frozen=True)
class Order:
    """The model and pictures of the process."""

    engine: str  # or the peer's name
    precision: str
    device: str
    written: str  # the weights: our model folder, or the file written for the peer
    source: str  # the folder of our model, which keeps its engines
    image_size: int  # of the preprocessing of ours
    max_size: int
    picture: tuple[int, int]  # height, width
    batch: int
    threads: int


def peak_memory(order: Order) -> int:
    """Peak memory of the process in bytes, Python and PyTorch included; on CUDA the GPU's memory.

    Raises:
        UserError: the process failed.
    """
    command = [sys.executable, "-P", "-m", "opendetr.benchmarking.process_memory", json.dumps(asdict(order))]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        said = (ended.stderr.strip() or f"it ended with {ended.returncode}").splitlines()[-1]
        raise UserError(f"the memory of {order.engine} {order.precision} could not be measured: {said}")
    return int(ended.stdout.split()[-1])


def make_pictures(count: int, height: int, width: int) -> list[Image.Image]:
    """Different pictures of smooth noise; their content does not change the work."""
    generator = np.random.default_rng(SEED)
    drawn = generator.integers(0, 256, (count, 12, 16, 3), dtype=np.uint8)
    return [Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC) for pixels in drawn]


def _main() -> None:
    """Run the model of the order and print the peak in bytes."""
    values = json.loads(sys.argv[1])
    order = Order(**{**values, "picture": tuple(values["picture"])})
    torch.set_num_threads(order.threads)
    detect = _load(order).detect
    for _ in range(PICTURES_SHOWN):
        detect(make_pictures(order.batch, *order.picture))
    print(_own_peak())


def _load(order: Order) -> "Side":
    from opendetr.benchmarking.peers import PEERS, load_peer
    from opendetr.devices import resolve_device

    if order.engine in PEERS:
        return load_peer(order.engine, Path(order.written), resolve_device(order.device))
    from opendetr.benchmarking.sides import OwnSide
    from opendetr.checkpoints.native import load_folder

    checkpoint = replace(load_folder(order.written), source=Path(order.source))
    preprocessing = replace(checkpoint.preprocessing, image_size=order.image_size, max_size=order.max_size)
    return OwnSide(checkpoint, preprocessing, order.engine, order.precision, order.device)


def _own_peak() -> int:
    """Peak memory in bytes. Linux's `ru_maxrss` would include the peak of the parent process."""
    if on_gpus := sum(torch.cuda.max_memory_reserved(number) for number in range(torch.cuda.device_count())):
        return on_gpus
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        if sys.platform == "win32":
            return int(psutil.Process().memory_info().peak_wset)
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    _main()
