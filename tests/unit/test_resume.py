"""The state of random numbers and of means: kept and restored."""

import random

import numpy as np
import pytest
import torch

from opendetr.errors import UserError
from opendetr.training.means import EpochMeans
from opendetr.training.resume import RunState, random_state, require_state, restore_random_state, seed_generators


def draw() -> list:
    return [torch.rand(1).item(), random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn()]


def test_every_generator_goes_on_where_it_was(tmp_path):
    draw()  # a Gaussian number is drawn in pairs: the second one waits in the state
    torch.save(random_state(), tmp_path / "state.pt")
    expected = draw()
    draw()
    restore_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() == expected


@pytest.mark.parametrize("seed", [0, 5, 2**32 - 1, 2**32 + 5])
def test_every_generator_is_seeded(seed):
    """Numpy's knows 32 bits only."""
    seed_generators(seed)
    found = draw()
    np.random.seed(seed % 2**32)
    numbers = np.random.rand(), np.random.randn()
    assert found[3:] == list(numbers)
    seed_generators(seed)
    assert draw() == found
    seed_generators(seed + 1)
    assert not set(draw()) & set(found)


def test_a_new_run_has_done_nothing():
    assert not any(vars(RunState()).values())


def test_a_state_of_an_earlier_version_has_torch_only():
    state = {"random": torch.get_rng_state(), "cuda_random": []}
    expected = torch.rand(1)
    restore_random_state(state)
    assert torch.equal(torch.rand(1), expected)


def test_means_go_on_where_they_were():
    whole, part = EpochMeans(), EpochMeans()
    steps = [{"loss": 0.1 * number, "matched_iou": 0.3 * number, "pairs": float(number)} for number in range(1, 6)]
    for step in steps:
        whole.add(step, 2)
    for step in steps[:3]:
        part.add(step, 2)
    part.begun -= 100
    again = EpochMeans.restored(part.state())
    for step in steps[3:]:
        again.add(step, 2)
    assert again.values() == whole.values()
    assert again.pictures_per_second == pytest.approx(10 / 100, rel=0.01)


def test_means_and_states_of_another_kind_are_refused(tmp_path):
    state = {
        "state": {"epoch": 1, "step": 0}, "steps_per_epoch": 2, "spent": 1.0, "began": 0.5, "total_seconds": None,
        "optimizer": {}, "weights": None, **random_state(), "means": EpochMeans().state(), "other_processes": [],
    }  # fmt: skip
    require_state(state, tmp_path)
    damaged = (
        {"means": {"sums": {}}},
        {"other_processes": [{}]},
        {"log_lines": -1},
        {"pictures": [1]},
        {"pace": {"x": 1}},
    )
    for wrong in damaged:
        with pytest.raises(UserError, match="is damaged"):
            require_state(state | wrong, tmp_path)
