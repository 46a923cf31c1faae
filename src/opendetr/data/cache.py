"""A cache of decoded pictures for later epochs, in memory or on disk: decoding can take as long as training."""

import hashlib
import io
import shutil
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from opendetr.config import DataConfig
from opendetr.data.index import Record
from opendetr.data.transforms import largest_look
from opendetr.files import cache_folder, write_bytes
from opendetr.locations import FilePath, file_state
from opendetr.memory import free_bytes, processes_here
from opendetr.progress import warn
from opendetr.version import __version__

# Largest cache in memory, over all loader processes, and at most a quarter of the free memory: training and other
# programs need memory too. Pictures that do not fit are read in every epoch.
RAM_BYTES, RAM_SHARE = 2**31, 4
FREE_BYTES = 2**32  # of the disk, left for other programs


class RamCache:
    """Keeps pictures [3, h, w] of uint8, as they are before the transform, in the memory of each loader process.

    A kept picture has a shorter side of at most `side` pixels.
    """

    def __init__(self, side: int) -> None:
        self.side, self.bytes = side, 0
        self.room = min(RAM_BYTES, free_bytes() // RAM_SHARE) // processes_here()  # processes of a machine share it
        self.pictures: dict[FilePath, Tensor] = {}

    def get(self, record: Record) -> Tensor | None:
        """The picture, where this process has read it."""
        return self.pictures.get(record.path)

    def put(self, record: Record, picture: Tensor) -> None:
        """Keep it, where there is room."""
        worker = get_worker_info()
        room = self.room // (1 if worker is None else worker.num_workers)
        if self.bytes + picture.nbytes <= room:
            self.pictures[record.path] = picture
            self.bytes += picture.nbytes


class DiskCache:
    """The same in a `.npy` file per picture in the cache folder, for all loader processes and for later runs."""

    def __init__(self, side: int, white_level: int | None = None) -> None:
        self.side, self.folder, self.is_full = side, cache_folder() / "pictures", False
        self.white_level = white_level  # with which 16-bit pictures were read

    def get(self, record: Record) -> Tensor | None:
        """The picture; None where it is not kept, its file has changed since, or what was kept is damaged."""
        try:
            pixels = np.load(self._file(record))
        except (OSError, ValueError, EOFError):
            return None
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def put(self, record: Record, picture: Tensor) -> None:
        """Keep it; where writing fails, warn once and keep no more."""
        if self.is_full:
            return
        content = io.BytesIO()
        np.save(content, picture.permute(1, 2, 0).numpy())  # pixel by pixel, as from a file: it is resized faster
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self.folder).free < FREE_BYTES:
                raise OSError("its disk is almost full")
            write_bytes(self._file(record), content.getvalue())
        except OSError as error:
            self.is_full = True
            warn(
                f"{self.folder} cannot store more pictures ({error.strerror or error}); the others are "
                f"decoded whenever they are needed"
            )

    def _file(self, record: Record) -> Path:
        """The file; its name depends on all that its content depends on, and on the size that the record states."""
        path = record.path.resolve()
        versions = __version__, PIL.__version__
        asked = record.width, record.height, self.side, self.white_level
        parts = path, *file_state(path), *asked, *versions
        name = hashlib.blake2b("\n".join(map(str, parts)).encode(), digest_size=16).hexdigest()
        return self.folder / name[:2] / f"{name}.npy"


PictureCache = RamCache | DiskCache


def build_cache(
    config: DataConfig, sizes: np.ndarray | None = None, workers: int = 0, white_level: int | None = None
) -> PictureCache | None:
    """The cache that a config asks for, with a message if memory has no room for pictures of all `sizes` [N, 2].

    Each of the loader processes (`workers`) reads every picture at some time and keeps its own copy. Pictures are read
    with `white_level`.
    """
    if config.cache == "none":
        return None
    side = largest_look(config)
    if config.cache == "disk":
        return DiskCache(side, white_level)
    cache = RamCache(side)
    kept = [kept_size(width, height, side) for width, height in ([] if sizes is None else sizes.tolist())]
    needed = max(1, workers) * sum(3 * width * height for width, height in kept)
    if needed > cache.room:
        warn(
            f"not all pictures can be kept in memory: they need {needed / 1e9:.1f} GB, and {cache.room / 1e9:.1f} GB "
            f"may be used; the others are decoded in every epoch, and --cache disk keeps all"
        )
    return cache


def kept_size(width: int, height: int, side: int) -> tuple[int, int]:
    """Width and height of a picture as a cache keeps it: the shorter side has at most `side` pixels."""
    shorter = min(width, height)
    if shorter <= side:
        return width, height
    return max(1, round(width * side / shorter)), max(1, round(height * side / shorter))
