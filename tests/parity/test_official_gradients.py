"""Gradients of the whole loss, through matching, heads, transformer and backbone, are the official ones."""

import pytest
import torch
from torch import Tensor, nn

from opendetr.config import LossConfig, ModelConfig
from opendetr.loss.criterion import LossWeights, Normalisers, set_loss
from opendetr.loss.matcher import CostWeights, match
from opendetr.model.build import build_model
from opendetr.structures import Target, Targets

NUM_CLASSES = 5
LOSS = LossConfig(no_object_weight=0.125)  # exact in float32, in which both sides keep it; the default 0.1 is not
TOLERANCE = 1e-8  # of a gradient's norm, in float64; what is left here are rounding errors of size 1e-15


@pytest.fixture(scope="module", params=[(False, "sine"), (True, "learned")], ids=["post-norm-sine", "pre-norm-learned"])
def gradients(official, request) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Ours and theirs, of every trained parameter, under our names."""
    pre_norm, position_encoding = request.param
    config = ModelConfig(
        backbone="resnet18", embed_dim=32, num_heads=4, num_encoder_layers=2, num_decoder_layers=3, feedforward_dim=64,
        num_queries=10, dropout=0.0, pre_norm=pre_norm, position_encoding=position_encoding,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    batch = official.pad(
        [torch.randn(3, *size, generator=generator, dtype=torch.float64) for size in [(100, 130), (120, 90)]]
    )
    targets = [
        Target(
            torch.randint(NUM_CLASSES, (count,), generator=generator),
            (torch.rand(count, 4, generator=generator) * 0.5 + 0.05).double(),  # targets are float32 in a batch
        )
        for count in (3, 2)
    ]

    theirs = official.build_model(config, NUM_CLASSES).double()
    official.spread_answers(theirs, batch)
    ours = build_model(config, LOSS, NUM_CLASSES).eval().double()
    official.copy_weights(theirs, ours)

    criterion = official.build_criterion(LOSS, NUM_CLASSES, config.num_decoder_layers).double()
    official.total_loss(criterion, criterion(theirs(batch), official.to_dicts(targets))).backward()

    output, padded = ours(batch.tensors, batch.mask), Targets.stack(targets)
    matches = match(output, padded, ours.scoring, CostWeights())
    normalisers = Normalisers.of_batch(padded, config.num_queries, ours.scoring)
    LossWeights().total(set_loss(output, padded, matches, ours.scoring, normalisers)).backward()
    return trained(ours), {official.our_name(name): gradient for name, gradient in trained(theirs).items()}


def trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_the_same_parameters_are_trained(gradients):
    ours, theirs = gradients
    assert ours.keys() == theirs.keys()
    assert "backbone.body.layer2.0.conv1.weight" in ours
    assert "backbone.body.layer1.0.conv1.weight" not in ours


def test_gradients_agree(gradients):
    ours, theirs = gradients
    everything = torch.stack([gradient.norm() for gradient in theirs.values()]).norm()
    for name, expected in theirs.items():
        # A tensor's own norm measures nothing where the true gradient is zero: the decoder starts from equal queries,
        # so that its first self-attention gets the same values whatever it attends to.
        scale = expected.norm() if expected.norm() > 1e-12 * everything else everything
        assert (ours[name] - expected).norm() <= TOLERANCE * scale, name
