import pytest
import torch

from opendetr.training.means import EpochMeans, combine


def part(loss, pairs, iou, cardinality):
    figures = {"loss": loss, "pairs": pairs, "matched_iou": iou, "cardinality_error": cardinality}
    return {name: torch.tensor(float(value)) for name, value in figures.items()}


def test_losses_add_up_and_figures_of_pairs_are_weighed_by_their_number():
    combined = combine([part(1, 1, 0.2, 3), part(2, 3, 0.6, 5)])
    assert combined == pytest.approx({"loss": 3, "pairs": 4, "matched_iou": 0.5, "cardinality_error": 4})


def test_a_process_without_objects_has_no_part_in_figures_of_pairs():
    """Of two processes; the sum over both is what the reduction gives to each."""
    sums = []
    combine([part(2, 0, 0.0, 3)], lambda here: (sums.append(here), here)[1])
    combined = combine([part(1, 2, 0.4, 5)], lambda here: here + sums[0])
    assert combined == pytest.approx({"loss": 3, "pairs": 2, "matched_iou": 0.4, "cardinality_error": 4})


def test_steps_without_objects_do_not_dilute_what_matched_pairs_say():
    means = EpochMeans()
    means.add({"loss": 4.0, "pairs": 2.0, "matched_iou": 0.8}, pictures=2)
    means.add({"loss": 2.0, "pairs": 0.0, "matched_iou": 0.0}, pictures=2)
    assert means.values() == pytest.approx({"loss": 3.0, "matched_iou": 0.8})
