"""Whether pictures may be flipped: the half-trained model is asked how well it understands them flipped."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from opendetr.config import DataConfig, RunConfig
from opendetr.data.loader import DetectionDataset, collate
from opendetr.devices import autocast
from opendetr.loss.criterion import LossWeights, Normalisers, set_loss, statistics
from opendetr.loss.matcher import CostWeights, match
from opendetr.model.detr import DETR
from opendetr.structures import DetrOutput, Targets

PICTURES = 48
TRIALS = (0.2, 0.3, 0.4, 0.5)  # of the run: by then a model knows the objects, and not yet the pictures by heart
KNOWS_CLASSES = 0.85  # accuracy below which nothing can be said: a mirrored 7 is no riddle to who cannot read
KNOWS_BOXES = 0.5  # IoU, likewise: with one class the accuracy says nothing
AS_WELL = 1.2  # flipped pictures may cost that many times what they do upright


class FlipTrial(NamedTuple):
    """What a model made of pictures upright and flipped."""

    accuracy: float  # share of upright objects whose class the model knows, 0..1
    iou: float  # mean of the boxes of upright objects
    mirrored: float  # the loss of mirrored pictures over that of upright ones
    upside_down: float


def open_flips(config: DataConfig) -> list[str]:
    """The flips that are still to be tried."""
    return [name for name in ("horizontal_flip", "vertical_flip") if getattr(config, name) == -1]


def settle_flips(config: RunConfig, trial: FlipTrial, *, is_last: bool) -> tuple[RunConfig, list[str]]:
    """Decide the open flips; the config with them, and a sentence each. A model that knows too little decides last."""
    decided, reasons = {}, []
    knows = trial.accuracy >= KNOWS_CLASSES and trial.iou >= KNOWS_BOXES
    words = {"horizontal_flip": ("mirrored", trial.mirrored), "vertical_flip": ("upside down", trial.upside_down)}
    for name in open_flips(config.data) if knows or is_last else ():
        flipped, cost = words[name]
        agrees = knows and cost < AS_WELL
        decided[f"data.{name}"] = 0.5 if agrees else 0.0
        why = f"where they cost the model {cost:.2f} times what they do upright"
        if not knows:
            why = f"for the model is not sure yet ({trial.accuracy:.0%} of the classes, boxes to {trial.iou:.2f} IoU)"
        reasons.append(f"pictures are {'also' if agrees else 'never'} shown {flipped}, {why}")
    return config.with_values(decided, "the flips tried"), reasons


def mirrored(images: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures [B, 3, H, W] and boxes [B, T, 4] (cxcywh, 0..1) with left and right exchanged."""
    return images.flip(3), torch.cat([1 - boxes[..., :1], boxes[..., 1:]], -1)


def upside_down(images: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures and boxes with top and bottom exchanged."""
    return images.flip(2), torch.cat([boxes[..., :1], 1 - boxes[..., 1:2], boxes[..., 2:]], -1)


@torch.no_grad()
def try_flips(
    model: DETR,
    dataset: DetectionDataset,
    costs: CostWeights,
    weights: LossWeights,
    device: torch.device,
    precision: str,
    should_stop: Callable[[], bool] = lambda: False,
) -> FlipTrial | None:
    """Show a model pictures upright and flipped.

    Args:
        model: in eval mode, trained for a while without the flips in question.
        dataset: pictures as evaluation sees them.
        costs: of the matching.
        weights: of the loss.
        device: where the model is.
        precision: `fp32` or `bf16`.
        should_stop: asked before every picture; the trial is given up, and None returned, where it says so.
    """
    flips: list[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = [lambda *same: same, mirrored, upside_down]
    losses, right, fit, objects = torch.zeros(3), 0.0, 0.0, 0
    shown = [position for position, record in enumerate(dataset.index.records) if len(record.labels)]
    for position in shown[:: max(1, len(shown) // PICTURES)][:PICTURES]:
        if should_stop():
            return None
        batch, targets = collate([dataset[position]])
        batch, targets = batch.to(device), targets.to(device)
        for which, flip in enumerate(flips):
            images, boxes = flip(batch.images, targets.boxes_cxcywh)
            flipped = Targets(targets.labels, boxes, targets.counts)
            with autocast(device, precision):
                output = model(images, None)
            last = DetrOutput(output.logits[-1:], output.boxes_cxcywh[-1:])
            matches = match(last, flipped, model.scoring, costs)
            normalisers = Normalisers.of_batch(flipped, last.logits.shape[2], model.scoring)
            losses[which] += float(weights.total(set_loss(last, flipped, matches, model.scoring, normalisers)))
            if which == 0:
                figures = statistics(last, flipped, matches, model.scoring)
                right += float(figures["matched_accuracy"]) / 100 * len(matches.targets)
                fit += float(figures["matched_iou"]) * len(matches.targets)
                objects += len(matches.targets)
    if not objects:
        return FlipTrial(0.0, 0.0, 1.0, 1.0)
    upright, *others = losses.tolist()
    return FlipTrial(right / objects, fit / objects, others[0] / upright, others[1] / upright)
