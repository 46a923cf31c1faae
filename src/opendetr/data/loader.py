"""From an index of pictures to batches."""

import os
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from opendetr.data.augmentation import OwnTransform
from opendetr.data.cache import PictureCache, kept_size
from opendetr.data.check import require_size
from opendetr.data.index import DatasetIndex, Record
from opendetr.data.transforms import to_target
from opendetr.errors import UserError
from opendetr.images import read_image
from opendetr.progress import warn
from opendetr.structures import Batch, Target, Targets

SHARED_MEMORY = Path("/dev/shm")  # of Linux
AGAIN = 2**20  # epochs between the keys of a picture that is shown twice in one epoch
READ_AHEAD = 2  # batches that each loader process prepares ahead

Sample = tuple[Tensor, Target, Record]
T = TypeVar("T")
CPU = torch.device("cpu")


class DetectionDataset(Dataset[Sample]):
    """The pictures of an index, read and transformed.

    A key is `epoch * len(self) + position`: the randomness of a sample is drawn from (seed, key) alone, so it does not
    depend on the worker that reads it or on where a run was interrupted.

    Args:
        index: the pictures.
        transform: of picture and objects.
        seed: of the randomness.
        cache: of decoded pictures.
        white_level: as in `Preprocessing`.
        skips_broken: a picture that cannot be used is replaced by the next one that can be, which depends on the files
            alone; otherwise it is an error.
        own_transform: of the user's, before `transform`.
    """

    def __init__(
        self,
        index: DatasetIndex,
        transform: v2.Transform,
        seed: int = 0,
        cache: PictureCache | None = None,
        white_level: int | None = None,
        skips_broken: bool = False,
        own_transform: OwnTransform | None = None,
    ) -> None:
        self.index, self.transform, self.seed, self.cache = index, transform, seed, cache
        self.white_level, self.skips_broken = white_level, skips_broken
        self.own_transform = own_transform
        _ = (
            index.starts,
            index.labels,
            index.boxes_xyxy,
        )  # made once, before loader processes are forked, which share them
        self.broken: dict[int, str] = {}  # position -> why the picture cannot be used, as far as this process knows
        self.unsaid: list[str] = []  # of these, what no batch has said yet

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: int) -> Sample:
        """The transformed picture [3, H, W], its target, and its record.

        Raises:
            UserError: the picture cannot be read or does not have the size in its annotation; where such are skipped,
                no picture can be used.
        """
        record, picture = self._usable(key % len(self))
        height, width = picture.shape[1:]
        boxes = torch.from_numpy(record.boxes_xyxy)
        if (height, width) != (record.height, record.width):
            boxes = boxes * torch.tensor([width / record.width, height / record.height] * 2)
        objects = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
            "labels": torch.from_numpy(record.labels),
        }
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would also seed GPUs, whose dropout must not restart, and record a stack trace.
            torch.default_generator.manual_seed(hash((self.seed, key)))
            image = tv_tensors.Image(picture)
            if self.own_transform is not None:  # it may change in place what the cache and the index keep
                objects = {name: tensor.clone() for name, tensor in objects.items()}
                image, objects = self.own_transform(tv_tensors.Image(picture.clone()), objects, record)
            image, objects = self.transform(image, objects)
        return image.as_subclass(Tensor), to_target(image, objects), record

    def _usable(self, position: int) -> tuple[Record, Tensor]:
        """The picture at a position, or the first after it that can be used."""
        for at in chain(range(position, len(self)), range(position)):
            if at in self.broken:
                continue
            try:
                return self.index.records[at], self.picture(at)
            except UserError as error:
                if not self.skips_broken:
                    raise
                self.broken[at] = str(error)
                self.unsaid.append(str(error))
        first = next(iter(self.broken.values()))
        raise UserError(f"not one of the {len(self):,} pictures of {self.index.source} can be used: {first}")

    def collate(self, samples: list[Sample]) -> tuple[Batch, Targets]:
        """Stack samples of this data set in this process; the batch says which pictures could not be used."""
        batch, targets = collate(samples)
        batch = batch._replace(left_out=tuple(self.unsaid))
        self.unsaid.clear()
        return batch, targets

    def picture(self, position: int) -> Tensor:
        """The picture [3, H, W] before the transform, from the file or from the cache; the same either way."""
        record = self.index.records[position]
        kept = None if self.cache is None else self.cache.get(record)
        if kept is not None:
            return kept
        picture = read_image(record.path, white_level=self.white_level)
        require_size(record, picture.size, self.index)
        if self.cache is not None and (size := kept_size(*picture.size, self.cache.side)) != picture.size:
            picture = picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
        tensor: Tensor = v2.functional.pil_to_tensor(picture)
        if self.cache is not None:
            self.cache.put(record, tensor)
        return tensor


def collate(samples: list[Sample]) -> tuple[Batch, Targets]:
    """Stack samples, padded as in `pad_to_largest`."""
    batch = Batch(
        *pad_to_largest([image for image, _, _ in samples]),
        torch.tensor([(record.height, record.width) for _, _, record in samples]),
        tuple(record.image_id for _, _, record in samples),
    )
    return batch, Targets.stack([target for _, target, _ in samples])


def pad_to_largest(
    images: Sequence[Float[Tensor, "3 _ _"]],
) -> tuple[Float[Tensor, "B 3 H W"], Bool[Tensor, "B H W"] | None]:
    """Stack pictures, padded with zeros at the right and bottom to the largest height and width.

    The padding mask is True where a picture was padded; None where none was.
    """
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    if all(image.shape[1:] == (height, width) for image in images):
        return torch.stack(list(images)), None
    stacked = torch.empty(len(images), 3, height, width)
    mask = torch.ones(len(images), height, width, dtype=torch.bool)
    for image, row, padded in zip(images, stacked, mask):
        row[:, : image.shape[1], : image.shape[2]] = image
        row[:, image.shape[1] :] = 0
        row[:, : image.shape[1], image.shape[2] :] = 0
        padded[: image.shape[1], : image.shape[2]] = False
    return stacked, mask


def epoch_order(
    length: int,
    epoch: int,
    seed: int,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    shapes: Sequence[Hashable] | None = None,
    factors: Float[Tensor, " N"] | None = None,
) -> list[list[int]]:
    """The batches of one epoch for one process, as keys of a `DetectionDataset`.

    Every process gets the same number of full batches. Pictures left over after the last full batch wait for the
    next epoch; a data set smaller than one batch is repeated to fill it. With `shapes`, one per picture, pictures of
    equal shape are batched together as far as they fill steps, so that there is little padding. With `factors`, the
    expected shares of the pictures in an epoch, which stays as long; a picture that is shown again in an epoch is
    augmented in another way.
    """
    generator = torch.Generator().manual_seed(hash((seed, epoch)))
    order = torch.randperm(length, generator=generator).tolist()
    if factors is not None:
        order = _repeated(order, factors, generator)
    per_step = batch_size * world_size
    if length < per_step:
        order = (order * (per_step // length + 1))[:per_step]
    order = order[: len(order) // per_step * per_step]  # before grouping, which would drop rare shapes
    if shapes is not None:
        order = _by_shape(order, shapes, per_step)
    keys, shown = [], Counter[int]()
    for position in order:
        keys.append((epoch + AGAIN * shown[position]) * length + position)
        shown[position] += factors is not None  # one that only fills a step is the same again
    steps = [keys[start : start + per_step] for start in range(0, len(keys), per_step)]
    if shapes is not None:  # shuffled, so that mixed steps are not always last
        steps = [steps[number] for number in torch.randperm(len(steps), generator=generator).tolist()]
    return [step[rank::world_size] for step in steps]


def _repeated(order: list[int], factors: Float[Tensor, " N"], generator: torch.Generator) -> list[int]:
    """As many positions as there were, each drawn as often as its factor says in the mean."""
    whole = factors.floor()
    chances = torch.rand(len(factors), generator=generator)
    counts = (whole + (chances < factors - whole)).long().tolist()
    repeated = [position for position in order for _ in range(counts[position])]
    shuffled = torch.randperm(len(repeated), generator=generator)[: len(order)].tolist()
    return [repeated[number] for number in shuffled]


def _by_shape(order: list[int], shapes: Sequence[Hashable], per_step: int) -> list[int]:
    """The same positions: whole steps of one shape as they fill up, then the mixed rest."""
    waiting: dict[Hashable, list[int]] = {}
    grouped: list[int] = []
    for position in order:
        group = waiting.setdefault(shapes[position], [])
        group.append(position)
        if len(group) == per_step:
            grouped += waiting.pop(shapes[position])
    return grouped + [position for group in waiting.values() for position in group]


def training_loader(
    dataset: DetectionDataset,
    batches: Iterable[list[int]],
    workers: int,
    device: torch.device = CPU,
) -> Iterator[tuple[Batch, Targets]]:
    """Read batches ahead of their use.

    Args:
        dataset: the pictures.
        batches: the keys of each batch's pictures; there may be no end of batches.
        workers: loader processes, of which fewer are used where shared memory is too small; 0 reads in this process.
        device: where the batches are used. They stay in main memory; for a CUDA device it is pinned, so that they can
            be copied asynchronously.
    """
    if workers and sys.platform.startswith("linux"):
        batches = iter(batches)
        first = list(islice(batches, 1))
        workers, batches = workers_with_room(dataset, first[0], workers) if first else 0, chain(first, batches)
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        prefetch_factor=READ_AHEAD if workers else None,
        collate_fn=dataset.collate,
        pin_memory=device.type == "cuda",  # which then copies them asynchronously
        worker_init_fn=partial(_ignore_signals, os.getpid()),
    )
    return iter(loader)


def workers_with_room(dataset: DetectionDataset, batch: list[int], workers: int) -> int:
    """How many of `workers` loader processes have room for their batches; prints a message if not all have.

    On Linux batches are passed through /dev/shm, of which a container has 64 MB by default; a process that finds it
    full is killed. `batch` are the keys of one batch.
    """
    try:
        room = shutil.disk_usage(SHARED_MEMORY)
    except OSError:
        return 0  # without shared memory no batch can be passed
    of_batch = 2 * len(batch) * dataset[batch[0]][0].nbytes  # twice, since a larger picture may pad the batch
    fitting = min(workers, room.free // (of_batch * (READ_AHEAD + 1)))
    if fitting < workers:
        _say_once(
            f"{SHARED_MEMORY} is too small ({room.total / 1e6:.0f} MB) for the batches of {workers} loader processes: "
            f"{fitting or 'none'} will read ahead; start the container with --shm-size=2g for more"
        )
    return fitting


@cache
def _say_once(sentence: str) -> None:
    warn(sentence)  # a run makes several loaders


def _ignore_signals(training: int, worker: int) -> None:
    """Let a worker live until the process `training`, whose loader it belongs to, ends it.

    Ctrl-C in a terminal reaches every process, and schedulers and launchers send SIGTERM to all; the training loop must
    not find its workers killed. Where the system does not tell who sent a signal (macOS, Windows), SIGTERM ends them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform.startswith("linux"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_by, args=(training,), daemon=True).start()


def _end_by(training: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != training:
        pass
    os._exit(0)


def group_equal_shapes(items: Iterable[T], shape: Callable[[T], tuple[int, ...]], batch_size: int) -> Iterator[list[T]]:
    """Collect items into lists of at most `batch_size` with the same shape, so that nothing needs padding.

    Padding differs from the border of a convolution, so only unpadded batches give every picture the result that it has
    alone. At most `8 * batch_size` items wait for others of their shape.
    """
    waiting: dict[tuple[int, ...], list[T]] = {}
    for item in items:
        group = waiting.setdefault(shape(item), [])
        group.append(item)
        if len(group) == batch_size:
            yield waiting.pop(shape(item))
        elif sum(map(len, waiting.values())) >= 8 * batch_size:
            yield waiting.pop(max(waiting, key=lambda key: len(waiting[key])))
    yield from waiting.values()
