from collections.abc import Callable

import pytest
import torch
from hypothesis import settings

from opendetr.structures import DetrOutput, Target, Targets

# The same examples every time: a failure is the change's own. No deadline: any machine may be busy for a moment.
settings.register_profile("unit", max_examples=60, deadline=None, derandomize=True)
settings.load_profile("unit")


@pytest.fixture
def random_output() -> Callable[..., DetrOutput]:
    """Makes what a model might say: L layers about B images with Q queries, C classes and no-object."""

    def make(layers: int = 2, images: int = 3, queries: int = 6, classes: int = 4, seed: int = 0) -> DetrOutput:
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(layers, images, queries, classes + 1, generator=generator) * 2
        return DetrOutput(logits, _random_boxes((layers, images, queries), generator))

    return make


@pytest.fixture
def random_targets() -> Callable[..., Targets]:
    """Makes true objects, as many per image as `counts` says."""

    def make(*counts: int, classes: int = 4, seed: int = 0) -> Targets:
        generator = torch.Generator().manual_seed(1000 + seed)
        return Targets.stack(
            [
                Target(torch.randint(classes, (count,), generator=generator), _random_boxes((count,), generator))
                for count in counts
            ]
        )

    return make


def _random_boxes(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.rand(*shape, 4, generator=generator) * 0.5 + 0.2
