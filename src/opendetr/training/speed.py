"""Training speed and memory of this machine, measured before the first step, and a forecast of the run."""

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from opendetr.config import RunConfig
from opendetr.devices import autocast, memory_format
from opendetr.memory import free_bytes, processes_here
from opendetr.model.denoising import make_denoising
from opendetr.model.detr import DETR
from opendetr.structures import DetrOutput, Targets
from opendetr.training.choices import FEWEST_PASSES, FOR_STEPS, SMALLEST_PIXELS, ObjectSizes, pixels_in
from opendetr.wording import counted

LOOKED_AT = (224, 288)  # height and width of the measured pictures
BESIDE = 1.1  # factor for matching, losses, the optimiser and reading, which the measured step lacks
IN_A_RUN = 1.2  # factor of a run over its steps: trying flips, saving, small pictures, which cost more per pixel
KEPT_TWICE = 1.5  # factor for gradients and temporary memory over what is kept for the backward pass
COPIES = 5  # of every trained weight: itself, its gradient, AdamW's two means, the average


@dataclass(frozen=True)
class Speed:
    """Time and memory per trained pixel on this machine, and its free memory."""

    seconds_per_pixel: float
    bytes_per_pixel: float  # kept by the forward pass for the backward pass
    free_bytes: float = math.inf  # of memory, before the measurement

    @property
    def in_a_run(self) -> float:
        """Expected seconds per pixel of a whole run."""
        return IN_A_RUN * self.seconds_per_pixel


def look_at_speed(config: RunConfig, model: DETR, device: torch.device, objects: int) -> Speed:
    """Measure three steps over grey pictures with `objects` objects each, of which the fastest counts."""
    free = free_bytes(device)  # measured first: the C library keeps memory that the measurement frees
    if device.type != "cuda":
        free //= processes_here()
    batch, (height, width) = min(4, config.train.batch_size or 4), LOOKED_AT
    labels, boxes = torch.zeros(batch, objects, dtype=torch.long), torch.full((batch, objects, 4), 0.5)
    targets = Targets(labels, boxes, torch.full((batch,), objects)).to(device)
    images = torch.zeros(batch, 3, height, width, device=device).to(memory_format=memory_format(device))
    taken, statistics = [], {name: buffer.clone() for name, buffer in model.named_buffers()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for number in range(3):
        begun = time.perf_counter()
        denoising = make_denoising(targets, model.num_classes, config.loss.denoising_queries)
        counting = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
        with autocast(device, config.train.precision), counting if number == 0 else nullcontext():  # counting is slow
            output: DetrOutput = model(images, None, denoising)
        total = output.logits.float().sum() + output.boxes_cxcywh.float().sum()
        torch.autograd.backward(total)
        float(total.detach())
        taken.append(time.perf_counter() - begun)
    model.zero_grad(set_to_none=True)  # the model stays as it was
    for name, buffer in model.named_buffers():  # undo what batch norm learned from this
        buffer.copy_(statistics[name])
    pixels = batch * height * width
    return Speed(BESIDE * min(taken) / pixels, sum(kept.values()) / pixels, free)


def expectations(
    config: RunConfig,
    objects: ObjectSizes,
    pictures: int,
    speed: Speed,
    seconds: float | None,
    processes: int = 1,
    epochs_done: int = 0,
) -> tuple[str, str]:
    """A forecast of a run, and why it is too short to learn much; empty where there is nothing to say.

    Objects and pictures are those of the training split, the speed is that of one process, `seconds` are left for
    training (None where epochs are counted).
    """
    sizes = config.data.train_sizes or (config.data.image_size,)
    pixels = objects.aspect * sum(size**2 for size in sizes) / len(sizes)  # of a typical picture of full size
    if seconds is None:
        # The same steps at two thirds of the size take four ninths of the time.
        each = speed.in_a_run * pixels * (1 - 5 / 9 * config.train.small_first) / processes
        epochs = config.train.epochs - epochs_done
        if epochs <= 0:
            return "", ""
        return (
            f"This machine trains on about {1 / each:.3g} pictures a second: "
            f"{counted(epochs, 'epoch')} of {counted(pictures, 'picture')} will take about "
            f"{minutes_in_words(epochs * pictures * each / 60)}, evaluations apart."
        ), ""
    if seconds <= 0:
        return "", ""
    learned = pixels_in(config, seconds * processes, speed.in_a_run) / pixels
    passes = learned / pictures
    forecast = (
        f"This machine trains on about {learned / (FOR_STEPS * max(seconds, 1.0)):.3g} pictures a second: "
        f"{passes:.1f} passes over {counted(pictures, 'picture')} in the {minutes_in_words(seconds / 60)} left."
    )
    visible = config.data.image_size  # a size at which the smallest kind of object can be found
    if objects.smallest_kind * visible < SMALLEST_PIXELS and SMALLEST_PIXELS / objects.smallest_kind <= objects.pixels:
        visible = math.ceil(SMALLEST_PIXELS / objects.smallest_kind)
    passes_then = passes * (config.data.image_size / visible) ** 2
    if epochs_done + passes_then >= FEWEST_PASSES:
        return forecast, ""
    enough = config.train.minutes + ((FEWEST_PASSES - epochs_done) / passes_then - 1) * seconds / 60
    at_size = f" at {visible} pixels, which its smallest objects need" if visible > config.data.image_size else ""
    return forecast, (
        f"this is too short to learn much; --minutes {math.ceil(enough)} would be enough for {FEWEST_PASSES} "
        f"passes{at_size}."
    )


def memory_problem(config: RunConfig, objects: ObjectSizes, speed: Speed, model: DETR) -> str | None:
    """A sentence where a step probably does not fit into the free memory."""
    batch, free = config.train.batch_size, speed.free_bytes
    needed = step_bytes(config, objects, speed, model, batch)
    if needed <= free:
        return None
    return (
        f"a step of {counted(batch, 'picture')} needs about {needed / 1e9:.1f} GB of memory and "
        f"{free / 1e9:.1f} GB are free, so the run may be ended by the system; take a smaller --batch-size or "
        f"--image-size."
    )


def fits_in_memory(objects: ObjectSizes, speed: Speed, model: DETR, config: RunConfig, batch: int) -> bool:
    """Whether a step over `batch` pictures probably fits into the memory that was free at the start."""
    return step_bytes(config, objects, speed, model, batch) <= speed.free_bytes


def step_bytes(config: RunConfig, objects: ObjectSizes, speed: Speed, model: DETR, batch: int) -> float:
    """Expected memory of a step over `batch` pictures, copies of the weights included."""
    largest = max(config.data.train_sizes or (config.data.image_size,)) ** 2 * objects.aspect
    weights = sum(parameter.nbytes for parameter in model.parameters())
    return KEPT_TWICE * speed.bytes_per_pixel * largest * batch + COPIES * weights


def minutes_in_words(minutes: float) -> str:
    """A time in words, with the precision of a forecast."""
    if minutes < 1.5:
        return counted(max(1, round(60 * minutes)), "second")
    if minutes < 100:
        return f"{minutes:.3g} minutes" if minutes < 10 else f"{minutes:.0f} minutes"
    return f"{minutes / 60:.3g} hours" if minutes < 4800 else f"{minutes / 1440:.3g} days"
