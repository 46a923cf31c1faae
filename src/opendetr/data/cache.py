"""Decoded pictures that are kept for the next epoch, in memory or on disk: decoding can take as long as learning."""

import hashlib
import io
import os
import shutil
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import PIL
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

import opendetr
from opendetr.config import DataConfig
from opendetr.data.datasets import Record
from opendetr.data.transforms import largest_look
from opendetr.files import cache_folder, write_bytes
from opendetr.progress import console

RAM_BYTES = 2**31  # of pictures in memory, over all loader processes; what finds no room is read again and again
FREE_BYTES = 2**32  # of the disk are left to others


@runtime_checkable
class PictureCache(Protocol):
    """Keeps pictures [3, h, w] of uint8 as they are before the transform."""

    side: int  # they are kept with a shorter side of at most so many pixels

    def get(self, record: Record) -> Tensor | None:
        """The picture of a record, where it is kept."""

    def put(self, record: Record, picture: Tensor) -> None:
        """Keep it, where there is room."""


def build_cache(config: DataConfig) -> PictureCache | None:
    """The cache that a config asks for."""
    if config.cache == "none":
        return None
    return RamCache(largest_look(config)) if config.cache == "ram" else DiskCache(largest_look(config))


class RamCache:
    """In the memory of each loader process."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.pictures: dict[Path, Tensor] = {}
        self.bytes = 0

    def get(self, record: Record) -> Tensor | None:
        """The picture, where this process has read it."""
        return self.pictures.get(record.path)

    def put(self, record: Record, picture: Tensor) -> None:
        """Keep it, where there is room."""
        worker = get_worker_info()
        room = RAM_BYTES // (1 if worker is None else worker.num_workers)
        if self.bytes + picture.nbytes <= room:
            self.pictures[record.path] = picture
            self.bytes += picture.nbytes


class DiskCache:
    """A `.npy` file per picture in the cache folder, for all loader processes and for later runs."""

    def __init__(self, side: int) -> None:
        self.side, self.folder, self.is_full = side, cache_folder() / "pictures", False

    def get(self, record: Record) -> Tensor | None:
        """The picture; None where it is not kept, its file has changed since, or what was kept is damaged."""
        try:
            pixels = np.load(self._file(record))
        except (OSError, ValueError, EOFError):
            return None
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def put(self, record: Record, picture: Tensor) -> None:
        """Keep it; a disk that is full is said once, and nothing is kept from then on."""
        if self.is_full:
            return
        content = io.BytesIO()
        np.save(content, picture.permute(1, 2, 0).numpy())  # pixel by pixel, as it comes from a file: resized faster
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self.folder).free < FREE_BYTES:
                raise OSError("its disk is almost full")
            write_bytes(self._file(record), content.getvalue())
        except OSError as error:
            self.is_full = True
            console.print(
                f"Warning: {self.folder} takes no more pictures ({error.strerror or error}); the others are decoded "
                f"whenever they are needed", style="yellow",
            )  # fmt: skip

    def _file(self, record: Record) -> Path:
        """Named by all that decides what is in it; the stated size too, which is checked only when a file is read."""
        path = record.path.resolve()
        state = os.stat(path)
        versions = opendetr.__version__, PIL.__version__
        parts = path, state.st_mtime_ns, state.st_size, record.width, record.height, self.side, *versions
        name = hashlib.blake2b("\n".join(map(str, parts)).encode(), digest_size=16).hexdigest()
        return self.folder / name[:2] / f"{name}.npy"
