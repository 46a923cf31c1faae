import math

import pytest
import torch

from opendetr.errors import UserError
from opendetr.model.position import SPREAD, LearnedPosition, SinePosition, build_position_encoding, focus_on

ENCODINGS = {"sine": SinePosition, "learned": LearnedPosition}


def mask_of(*shapes, padded_to):
    """Padding masks of pictures of the given heights and widths in cells."""
    mask = torch.ones(len(shapes), *padded_to, dtype=torch.bool)
    for row, (height, width) in enumerate(shapes):
        mask[row, :height, :width] = False
    return mask


@pytest.mark.parametrize("kind", ENCODINGS)
def test_padding_does_not_move_a_picture(kind):
    torch.manual_seed(0)
    encoding, shapes = build_position_encoding(kind, 16), [(4, 6), (7, 2), (7, 9), (1, 1)]
    assert isinstance(encoding, ENCODINGS[kind])
    padded = encoding(mask_of(*shapes, padded_to=(7, 9)))
    assert padded.shape == (4, 7, 9, 16)
    assert padded.isfinite().all()
    for row, (height, width) in enumerate(shapes):
        alone = encoding(mask_of((height, width), padded_to=(height, width)))[0]
        assert torch.equal(padded[row, :height, :width], alone)


@pytest.mark.parametrize("kind", ENCODINGS)
def test_every_cell_has_a_place_of_its_own(kind):
    torch.manual_seed(0)
    encoded = build_position_encoding(kind, 32)(mask_of((7, 9), padded_to=(7, 9)))[0].flatten(0, 1)
    distance = torch.cdist(encoded, encoded) + 10 * torch.eye(len(encoded))
    assert distance.min() > 0.05


def test_no_encoding():
    assert build_position_encoding("none", 16) is None


def test_sine_runs_to_two_pi_over_the_picture_first_y_then_x():
    encoded = SinePosition(16)(mask_of((5, 8), padded_to=(6, 10)))[0]
    y, x = encoded[..., :8], encoded[..., 8:]
    assert torch.equal(y[:5, :8], y[:5, :1].expand(5, 8, 8))
    assert torch.equal(x[:5, :8], x[:1, :8].expand(5, 8, 8))
    for row, frequency in ((0, 0), (2, 1), (4, 3)):
        angle = 2 * math.pi * (row + 1) / 5 / 10000 ** (frequency / 4)
        expected = torch.tensor([math.sin(angle), math.cos(angle)])
        # The division by the picture's size has a millionth added to it.
        torch.testing.assert_close(y[row, 0, 2 * frequency : 2 * frequency + 2], expected, rtol=0, atol=1e-5)


def test_sine_sees_fractions_of_the_picture():
    """A picture of twice the cells has the same places at every second one."""
    small, large = (SinePosition(16)(mask_of((n, n), padded_to=(n, n)))[0] for n in (4, 8))
    torch.testing.assert_close(large[1::2, 1::2], small, rtol=0, atol=1e-5)


def test_learned_has_a_vector_per_column_then_one_per_row():
    torch.manual_seed(0)
    encoding = LearnedPosition(16)
    encoded = encoding(mask_of((5, 8), padded_to=(5, 8)))[0]
    assert torch.equal(encoded[3, 6], torch.cat([encoding.col_embed.weight[6], encoding.row_embed.weight[3]]))


@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_more_cells_than_learned_vectors(shape):
    with pytest.raises(UserError, match=rf"4 cells per side and the feature map has {shape[0]}x{shape[1]}.*max_size"):
        LearnedPosition(8, num_cells=4)(mask_of(shape, padded_to=shape))
    assert LearnedPosition(8, num_cells=5)(mask_of(shape, padded_to=shape)).shape == (1, *shape, 8)


def test_focus_is_a_gaussian_in_shares_of_the_box():
    box, cell = torch.tensor([[[0.4, 0.5, 0.2, 0.4]]]), 0.02
    places = torch.tensor([[0.4, 0.5], [0.5, 0.5], [0.4, 0.7], [0.5, 0.7]])  # the centre, right, below, the corner
    found = focus_on(box, torch.cat([places, torch.full((4, 2), cell)], 1)[None])
    across, down = 0.1 / (SPREAD * 0.2 + cell / 2), 0.2 / (SPREAD * 0.4 + cell / 2)  # half a cell is added
    expected = torch.tensor([0, across**2, down**2, across**2 + down**2]) / -2
    torch.testing.assert_close(found, expected[None, None, None], rtol=0, atol=1e-5)


def test_focus_stays_finite_for_boxes_of_no_size():
    found = focus_on(torch.zeros(1, 1, 4), torch.tensor([[[0.5, 0.5, 0.1, 0.1]]]))
    assert torch.isfinite(found).all()
