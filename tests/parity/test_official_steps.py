"""Twenty-one steps of `--recipe paper` move every weight as the official training does, the drop of the rate included.

The official package has no training loop (its `engine.py` and `main.py` are not in it): `official_steps` is that of the
paper (section A.4), with the official criterion, groups of weights, clipping and step schedule.
"""

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from opendetr.config import RunConfig
from opendetr.loss.criterion import build_criterion
from opendetr.model.build import build_model
from opendetr.recipes.recipe import resolve_config
from opendetr.structures import Batch, Target, Targets
from opendetr.training.optim import build_optimizer, set_learning_rates
from opendetr.training.step import TrainingStep

NUM_CLASSES = 5
EPOCHS, STEPS = 3, 7  # the rate drops after two thirds of the epochs, as after 200 of the official 300
TOLERANCE = 1e-10  # of the movement's norm; both sides are in float64
SMALL = {
    "model.backbone": "resnet18", "model.embed_dim": 32, "model.num_heads": 4,
    "model.num_encoder_layers": 2, "model.num_decoder_layers": 2, "model.feedforward_dim": 64, "model.num_queries": 10,
    "model.dropout": 0.0,
    "loss.no_object_weight": 0.125,  # exact in float32, in which both sides keep it; the default 0.1 is not
    "train.precision": "fp32",
}  # fmt: skip


def make_batches(official) -> list[tuple[Batch, Targets]]:
    """A batch of two pictures of different sizes for every step of an epoch, with 0 to 3 objects each."""
    generator = torch.Generator().manual_seed(1)
    batches = []
    for number in range(STEPS):
        sizes = [(40 + 4 * number, 72), (64, 48)]
        padded = official.pad([torch.randn(3, *size, generator=generator, dtype=torch.float64) for size in sizes])
        targets = [
            Target(
                torch.randint(NUM_CLASSES, (count,), generator=generator),
                torch.rand(count, 4, generator=generator, dtype=torch.float64) * 0.5 + 0.05,
            )
            for count in (number % 4, 2)
        ]
        batches.append((Batch(padded.tensors, padded.mask, torch.tensor(sizes), (1, 2)), Targets.stack(targets)))
    return batches


def our_steps(model: nn.Module, config: RunConfig, batches: list[tuple[Batch, Targets]]) -> None:
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(model, build_optimizer(model, config.train))
    criterion = build_criterion(config.loss, config.model.num_queries, model.scoring)
    step = TrainingStep(model, optimizer, criterion, accelerator, config, NUM_CLASSES)
    for epoch in range(EPOCHS):
        for number, batch in enumerate(batches):
            set_learning_rates(optimizer, (epoch + number / STEPS) / EPOCHS, config.train)
            step([batch])


def official_steps(official, model: nn.Module, config: RunConfig, batches: list[tuple[Batch, Targets]]) -> None:
    train, trained = config.train, {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups = [
        {"params": [p for name, p in trained.items() if "backbone" not in name], "lr": train.lr},
        {"params": [p for name, p in trained.items() if "backbone" in name], "lr": train.backbone_lr},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=train.weight_decay, foreach=False)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, EPOCHS * 2 // 3)
    criterion = official.build_criterion(config.loss, NUM_CLASSES, config.model.num_decoder_layers).double()
    for _ in range(EPOCHS):
        for batch, targets in batches:
            output = model(official.load().misc.NestedTensor(batch.images, batch.padding_mask))
            truth = [
                {"labels": targets.labels[row, :count], "boxes": targets.boxes_cxcywh[row, :count].double()}
                for row, count in enumerate(targets.counts.tolist())
            ]
            optimizer.zero_grad()
            official.total_loss(criterion, criterion(output, truth)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), train.clip_norm)
            optimizer.step()
        schedule.step()


def copy_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    ("positions", "pre_norm"),
    [
        # Pre-norm and learned positions: test_official_model.py has their forward pass, slow tests their steps.
        pytest.param("sine", False, id="sine-post-norm"),
        pytest.param("learned", True, id="learned-pre-norm", marks=pytest.mark.slow),
        pytest.param("sine", True, id="sine-pre-norm", marks=pytest.mark.slow),
        pytest.param("learned", False, id="learned-post-norm", marks=pytest.mark.slow),
    ],
)
def test_every_weight_moves_as_in_the_official_training(official, positions, pre_norm):
    config = resolve_config(
        "paper", None, {**SMALL, "model.position_encoding": positions, "model.pre_norm": pre_norm}
    )  # fmt: skip
    theirs = official.build_model(config.model, NUM_CLASSES).double()
    batches = make_batches(official)
    official.spread_answers(theirs, official.load().misc.NestedTensor(batches[0][0].images, batches[0][0].padding_mask))
    ours = build_model(config.model, config.loss, NUM_CLASSES).double()
    official.copy_weights(theirs, ours)
    before = copy_of(ours)
    our_steps(ours.train(), config, batches)
    official_steps(official, theirs.train(), config, batches)
    after, expected = copy_of(ours), {official.our_name(name): p for name, p in copy_of(theirs).items()}
    moved = {name: (expected[name] - before[name]).norm() for name in before}
    everything = torch.stack(list(moved.values())).norm()
    for name in before:
        # A tensor's own movement measures nothing where the true gradient is zero: the decoder starts from equal
        # queries, so that its first self-attention moves by rounding errors and weight decay alone.
        scale = moved[name] if moved[name] > 1e-4 * everything else everything
        assert (after[name] - expected[name]).norm() <= TOLERANCE * scale, name
    learned = ["position_encoding.row_embed.weight"] if positions == "learned" else []
    for name in ["backbone.body.layer4.1.conv2.weight", "class_embed.weight", *learned]:
        assert moved[name] > 1e-4, name
