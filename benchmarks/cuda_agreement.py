"""Part of `cuda.py`: whether a device computes what the CPU computes, forward and backward, in fp32 without TF32.

A step of training with the same random weights and pictures, without dropout. Where values are almost equal a device
may choose otherwise than the CPU: which query is matched to an object, which cells become queries. What the CPU chose
is given to the device, and how much it would have chosen otherwise is told.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from training_step import SEED, random_samples

from opendetr.checkpoints.adapt import train_mode
from opendetr.config import RunConfig
from opendetr.data.loader import collate
from opendetr.devices import place
from opendetr.loss import criterion
from opendetr.model.build import build_model
from opendetr.model.denoising import make_denoising
from opendetr.model.detr import DETR
from opendetr.model.pyramid import InputProjection
from opendetr.model.selection import SelectedQueries
from opendetr.structures import Batch, Denoising, DetrOutput, Matches, Targets

CLASSES = 20
# A hundred layers of sums in another order: each rounds at 1e-7 of its largest term, convolutions by Winograd's method
# at ten times that. Logits are of size 1 to 10 and boxes of 0..1; gradients pass all layers twice.
TOLERANCES = {"logits": 2e-3, "boxes": 2e-4, "loss": 1e-4, "gradients": 2e-3, "otherwise": 0.02}


@dataclass(frozen=True)
class Agreement:
    """The largest differences of a device from the CPU."""

    model: str
    logits: float  # of any decoder layer, absolute
    boxes: float  # cxcywh in 0..1, absolute
    loss: float  # relative, the worst of its parts
    gradients: float  # the length of the difference over the length of the gradient of all weights
    otherwise: float  # share of what the device would have chosen otherwise, 0..1

    def agrees(self) -> bool:
        """Within the tolerances."""
        return all(getattr(self, name) <= most for name, most in TOLERANCES.items())  # not where it is NaN


def compare(name: str, config: RunConfig, size: tuple[int, int], device: torch.device) -> Agreement:
    """A step on two pictures of that height and width, on the CPU and on the device.

    The second picture is narrower where the recipe pads.
    """
    narrower = size[1] if config.data.multiple_of > 1 else size[1] * 3 // 4
    batch, targets = collate(random_samples([size, (size[0], narrower)], CLASSES))
    here = random_model(config, batch)
    there = place(copy.deepcopy(here), device)
    extra = config.loss.denoising_queries
    denoising = make_denoising(targets, CLASSES, extra) if extra else None
    moved = None if denoising is None else Denoising(*(tensor.to(device) for tensor in denoising))
    choices = Choices()
    with choices.made():
        expected = step(here, config, batch, targets, denoising)
    with choices.given():
        found = step(there, config, batch.to(device), targets.to(device), moved)
    return Agreement(
        name,
        _largest(expected.output.logits - found.output.logits.cpu()),
        _largest(expected.output.boxes_cxcywh - found.output.boxes_cxcywh.cpu()),
        _largest(found.losses.cpu() / expected.losses - 1),
        _length(a - b.cpu() for a, b in zip(expected.gradients, found.gradients)) / _length(expected.gradients),
        max(choices.otherwise),
    )


@dataclass(frozen=True)
class Step:
    """What a model makes of pictures, until its weights would be changed."""

    output: DetrOutput
    losses: Tensor  # every part of every layer
    gradients: list[Tensor]


def step(model: DETR, config: RunConfig, batch: Batch, targets: Targets, denoising: Denoising | None) -> Step:
    """As `TrainingStep`, in fp32."""
    loss = criterion.build_criterion(config.loss, config.model.num_queries, model.scoring)
    train_mode(model)
    output = model(batch.images, batch.padding_mask, denoising)
    normalisers = loss.normalisers(targets, denoising)
    matches = criterion.match(output, targets, loss.scoring, loss.costs)
    parts = [criterion.set_loss(output, targets, matches, loss.scoring, normalisers)]
    if output.proposals is not None:
        parts.append(loss.proposal_losses(output.proposals, targets, normalisers))
    if output.denoising is not None and denoising is not None:
        parts.append(loss.denoising_losses(output.denoising, denoising, targets, normalisers))
    sum((loss.weights.total(part) for part in parts), output.logits.new_zeros(())).backward()
    learned = [p for p in model.parameters() if p.requires_grad]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in learned]
    return Step(output, torch.cat([value for part in parts for value in part.values()]).detach(), gradients)


class Choices:
    """What was chosen in one step, for another to choose the same."""

    def __init__(self) -> None:
        self.chosen: list[tuple[Tensor | None, ...]] = []
        self.otherwise: list[float] = []

    @contextmanager
    def made(self) -> Iterator[None]:
        """Choices are remembered."""

        def remember(choose: Callable[..., Any]) -> Callable[..., Any]:
            def remembering(*arguments: Any) -> Any:
                self.chosen.append(choose(*arguments))
                return self.chosen[-1]

            return remembering

        with _instead(remember):
            yield

    @contextmanager
    def given(self) -> Iterator[None]:
        """Choices are those remembered, in their order; it is told how much of each would have been otherwise."""
        left = iter(self.chosen)

        def replay(choose: Callable[..., Any]) -> Callable[..., Any]:
            def replaying(*arguments: Any) -> Any:
                own, given = choose(*arguments), next(left)
                self.otherwise.append(len(_as_set(own) - _as_set(given)) / max(1, len(_as_set(given))))
                moved = [None if part is None else part.to(own[0].device) for part in given]
                return Matches(*moved) if isinstance(given, Matches) else tuple(moved)

            return replaying

        with _instead(replay):
            yield


@contextmanager
def _instead(wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Wherever something is chosen, the wrapped function chooses."""
    with ExitStack() as patches:
        for owner, name in ((criterion, "match"), (SelectedQueries, "most_promising")):
            patches.enter_context(mock.patch.object(owner, name, wrap(getattr(owner, name))))
        yield


def _as_set(choice: tuple[Tensor | None, ...]) -> set[tuple[int, ...]]:
    """The pairs that were matched, or the pictures' cells that became queries."""
    if isinstance(choice, Matches):
        return set(zip(*(index.tolist() for index in choice)))
    assert choice[0] is not None
    return {(picture, cell) for picture, cells in enumerate(choice[0].tolist()) for cell in cells}


@torch.no_grad()
def random_model(config: RunConfig, batch: Batch) -> DETR:
    """A model whose every part matters to what it says.

    Fresh ones have norms that do nothing, boxes that all are alike, and features of any size, for fixed norms do not
    normalise what random convolutions make.
    """
    torch.manual_seed(SEED)
    model = build_model(config.model, config.loss, CLASSES)
    for name, tensor in model.backbone.state_dict().items():
        if tensor.ndim == 1 and name.endswith(("weight", "running_var")):
            tensor.uniform_(0.5, 1.5)
        elif tensor.ndim == 1:
            tensor.normal_(0, 0.1)
    for name, parameter in model.named_parameters():
        if not name.startswith("backbone"):
            parameter.add_(0.02 * torch.randn_like(parameter))
    if isinstance(model.input_proj, InputProjection):
        features = model.eval().backbone(batch.images, batch.padding_mask)
        std, mean = torch.std_mean(model.input_proj(features)[0].map, dim=(0, 2, 3))
        model.input_proj.weight /= std[:, None, None, None]
        if isinstance(model.input_proj.bias, nn.Parameter):
            model.input_proj.bias.sub_(mean).div_(std)
    return model


def _largest(differences: Tensor) -> float:
    return float(differences.detach().abs().max())


def _length(tensors: Iterable[Tensor]) -> float:
    return float(torch.stack([tensor.double().square().sum() for tensor in tensors]).sum().sqrt())
