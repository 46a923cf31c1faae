"""A training step whose gradient was not finite, kept in a file with what it needs to be repeated exactly.

The file holds the batch, the weights, the state of the random numbers before the step, and the config: no code.
"""

import io
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from opendetr.checkpoints.adapt import freeze, train_mode
from opendetr.checkpoints.finite import not_finite
from opendetr.checkpoints.pickles import read_pickle
from opendetr.checkpoints.weights import damage_is_said
from opendetr.config import RunConfig
from opendetr.devices import place
from opendetr.errors import UserError
from opendetr.files import write_bytes
from opendetr.loss.criterion import build_criterion
from opendetr.model.build import build_model
from opendetr.model.detr import DETR
from opendetr.structures import Batch, Targets
from opendetr.training.resume import random_state, restore_random_state
from opendetr.training.step import MicroBatches, TrainingStep

CAPTURES = "captures"  # in a run folder
EXPECTED = "a step that opendetr train kept because its numbers were not finite"


@dataclass(frozen=True)
class Replay:
    """What came of a step that was repeated."""

    step: int  # of the run
    loss: float
    gradient_norm: float
    weights: list[str]  # names of those that were not finite before the step
    pictures: list[Any]  # ids
    where: str  # weights, pictures, forward, loss or gradient; empty where all was finite this time
    module: str  # the first one whose output, or whose gradient, is not finite

    def in_words(self) -> str:
        """One or two sentences."""
        of = f"step {self.step}, of the pictures {', '.join(map(str, self.pictures))}"
        said = {
            "weights": f"the weights were not finite before it, first {self.module}",
            "pictures": "a picture itself is not finite",
            "forward": f"'{self.module}' is the first module whose output is not finite, though its input is",
            "loss": "all modules answer with finite numbers, and the loss of these answers is not finite",
            "gradient": f"loss and answers are finite; on the way back '{self.module}' is the first module whose "
            f"gradient is not finite",
            "": f"all is finite here (loss {self.loss:.4g}, gradient norm {self.gradient_norm:.4g}): on another "
            f"machine or device it was not",
        }
        return f"{of}: {said[self.where]}."


def save_capture(
    path: Path, model: DETR, config: RunConfig, step: int, random: Mapping[str, Any], micro_batches: MicroBatches
) -> None:
    """Write a step; `random` is the state of the random numbers before it. The weights are those before it."""
    content = {
        "step": step, "threads": torch.get_num_threads(), "random": dict(random), "config": config.to_dict(),
        "num_classes": model.num_classes,
        "weights": {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
        "micro_batches": [
            {
                "images": batch.images.cpu(), "sizes": batch.original_sizes, "ids": list(batch.image_ids),
                "padding_mask": None if batch.padding_mask is None else batch.padding_mask.cpu(),
                "labels": targets.labels.cpu(), "boxes_cxcywh": targets.boxes_cxcywh.cpu(),
                "counts": targets.counts.cpu(),
            }
            for batch, targets in micro_batches
        ],
    }  # fmt: skip
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


def replay_capture(path: Path) -> Replay:
    """Repeat a step of `save_capture` on the CPU, and find the first module whose numbers are not finite.

    Raises:
        UserError: the file is missing, damaged, or of something else.
    """
    content = read_pickle(path, EXPECTED)
    if not isinstance(content, dict) or not {"micro_batches", "weights", "random"} <= content.keys():
        raise UserError(f"{path} is no such step; expected {EXPECTED} (RUN/captures/step-N.pt)")
    with damage_is_said(path):
        config = RunConfig.from_dict(content["config"], str(path))
        micro_batches = [_read_batch(one) for one in content["micro_batches"]]
        step, weights, num_classes = int(content["step"]), content["weights"], int(content["num_classes"])
        model = build_model(config.model, config.loss, num_classes)
        model.load_state_dict(weights)
        freeze(model, config.train.freeze)
        torch.set_num_threads(int(content["threads"]))  # sums are rounded by their number
        model = place(model, torch.device("cpu"))
    return _repeat(model, config, step, content["random"], micro_batches)


def _read_batch(content: Mapping[str, Any]) -> tuple[Batch, Targets]:
    batch = Batch(content["images"], content["padding_mask"], content["sizes"], tuple(content["ids"]))
    return batch, Targets(content["labels"], content["boxes_cxcywh"], content["counts"])


def _repeat(
    model: DETR, config: RunConfig, number: int, random: Mapping[str, Any], micro_batches: MicroBatches
) -> Replay:
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)  # never stepped
    criterion = build_criterion(config.loss, config.model.num_queries, model.scoring)
    step = TrainingStep(model, optimizer, criterion, accelerator, config, model.num_classes)
    train_mode(model)
    wrong = not_finite(model.state_dict())
    before = random_state()
    restore_random_state(random)
    with _watching(model) as seen:
        figures = step.add_gradients(micro_batches)
    restore_random_state(before)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    bad = {name.rpartition(".")[0] for name in not_finite(gradients)}
    where, module = "", ""
    if wrong:
        where, module = "weights", wrong[0]
    elif not all(torch.isfinite(batch.images).all() for batch, _ in micro_batches):
        where = "pictures"
    elif seen.first:
        where, module = "forward", seen.first
    elif not math.isfinite(figures["loss"]):
        where = "loss"
    elif bad:  # gradients come in the opposite order
        where, module = "gradient", next((name for name in reversed(seen.order) if name in bad), min(bad))
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    ids = [image_id for batch, _ in micro_batches for image_id in batch.image_ids]
    return Replay(number, float(figures["loss"]), float(norm), wrong, ids, where, module)


@dataclass
class _Seen:
    """The modules of a forward pass in the order in which they answered, and the first whose answer is not finite."""

    order: list[str] = field(default_factory=list)
    first: str = ""


@contextmanager
def _watching(model: nn.Module) -> Iterator[_Seen]:
    seen = _Seen()

    def look(name: str, output: Any) -> None:
        seen.order.append(name)
        if not seen.first and not _are_finite(output):
            seen.first = name

    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: look(name, output))
        for name, module in model.named_modules() if name
    ]  # fmt: skip
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _are_finite(value: Any) -> bool:
    """Whether all tensors in an output are finite."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, list | tuple):
        return all(map(_are_finite, value))
    return True
