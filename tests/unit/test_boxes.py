import math
from itertools import product

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_convert
from torchvision.ops import box_iou as torchvision_iou
from torchvision.ops import generalized_box_iou as torchvision_giou

from opendetr.boxes import box_iou, clip_boxes, cxcywh_to_xyxy, generalized_box_iou, xyxy_to_cxcywh

ROUNDING = 1e-6  # a few roundings of float32 numbers near 1


@st.composite
def boxes(draw, count: int = 3):
    """Boxes [count, 4] as xyxy, up to twice the picture away and from a thousandth of it to twice its size."""
    number = st.floats(-2, 2, width=32), st.floats(-2, 2, width=32), st.floats(1e-3, 2), st.floats(1e-3, 2)
    x, y, w, h = torch.tensor(draw(st.lists(st.tuples(*number), min_size=count, max_size=count))).unbind(1)
    return torch.stack([x, y, x + w, y + h], dim=1)


def test_a_wrong_shape_is_refused():  # as everywhere in the tests that tests/conftest.py names
    with pytest.raises(jaxtyping.TypeCheckError):
        box_iou(torch.zeros(2, 3), torch.zeros(2, 3))


anything = st.lists(st.floats(width=32), min_size=12, max_size=12).map(lambda values: torch.tensor(values).view(3, 4))
SPECIAL = [0.0, 1.0, -1.0, 0.5, math.nan, math.inf, -math.inf, 1e38, -1e38, 1e-38, 1e-45]


@given(boxes())
def test_format_round_trip(xyxy):
    torch.testing.assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(xyxy)), xyxy, rtol=0, atol=4 * ROUNDING)
    torch.testing.assert_close(xyxy_to_cxcywh(xyxy), box_convert(xyxy, "xyxy", "cxcywh"), rtol=0, atol=4 * ROUNDING)


def test_formats_by_hand():
    xyxy, cxcywh = torch.tensor([10.0, 20.0, 30.0, 80.0]), torch.tensor([20.0, 50.0, 20.0, 60.0])
    assert torch.equal(xyxy_to_cxcywh(xyxy), cxcywh)
    assert torch.equal(cxcywh_to_xyxy(cxcywh), xyxy)


@given(boxes(), boxes())
def test_bounds_symmetry_and_order(a, b):
    iou, giou = box_iou(a, b), generalized_box_iou(a, b)
    assert ((iou >= 0) & (iou <= 1 + ROUNDING)).all()
    assert ((giou >= -1 - ROUNDING) & (giou <= iou)).all()
    assert torch.equal(iou, box_iou(b, a))
    assert torch.equal(giou, generalized_box_iou(b, a))


def test_rounding_never_lifts_giou_above_iou():
    """One box inside the other: the hull is the union, but for rounding."""
    torch.manual_seed(0)
    outer = torch.cat([torch.rand(10_000, 2), 1 + torch.rand(10_000, 2)], dim=1)
    inner = outer + torch.rand(10_000, 4) * torch.tensor([0.1, 0.1, -0.1, -0.1])
    assert (generalized_box_iou(inner, outer) <= box_iou(inner, outer)).all()


@given(boxes())
def test_a_box_and_itself(a):
    assert torch.equal(box_iou(a, a), torch.ones(3))
    assert torch.equal(generalized_box_iou(a, a), torch.ones(3))


@given(boxes(), boxes())
def test_the_unit_does_not_matter(a, b):
    for function in (box_iou, generalized_box_iou):
        torch.testing.assert_close(function(a * 640, b * 640), function(a, b), rtol=0, atol=4 * ROUNDING)


@given(boxes(count=3), boxes(count=4))
def test_pairwise_is_the_loop_over_aligned(a, b):
    for function in (box_iou, generalized_box_iou):
        pairwise = function(a[:, None], b[None])
        assert torch.equal(pairwise, torch.stack([torch.stack([function(x, y) for y in b]) for x in a]))


@given(boxes(count=3), boxes(count=4))
def test_equal_to_torchvision(a, b):
    # the two round unions of thin boxes differently
    torch.testing.assert_close(box_iou(a[:, None], b[None]), torchvision_iou(a, b), rtol=1e-4, atol=ROUNDING)
    torch.testing.assert_close(
        generalized_box_iou(a[:, None], b[None]), torchvision_giou(a, b), rtol=1e-4, atol=4 * ROUNDING
    )


@pytest.mark.parametrize(
    ("other", "iou", "giou"),
    [
        ([0.0, 0.0, 2.0, 2.0], 1.0, 1.0),
        ([1.0, 0.0, 3.0, 2.0], 1 / 3, 1 / 3),  # the hull holds nothing else
        ([1.0, 1.0, 3.0, 3.0], 1 / 7, 1 / 7 - 2 / 9),
        ([2.0, 0.0, 4.0, 2.0], 0.0, 0.0),  # side by side
        ([6.0, 0.0, 8.0, 2.0], 0.0, -0.5),
        ([1.0, 1.0, 1.0, 1.0], 0.0, 0.0),  # empty, inside
        ([8.0, 0.0, 6.0, 2.0], 0.0, -2 / 3),  # reversed: has no area
        ([0.0, 8.0, 2.0, 6.0], 0.0, -2 / 3),
    ],
)
def test_by_hand(other, iou, giou):
    one, other = torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor(other)
    for pair in ((one, other), (other, one)):
        assert float(box_iou(*pair)) == pytest.approx(iou, abs=ROUNDING)
        assert float(generalized_box_iou(*pair)) == pytest.approx(giou, abs=ROUNDING)


@given(anything, anything)
def test_any_floats_give_finite_values_within_bounds(a, b):
    assert_sane(a, b)


@pytest.mark.parametrize("special", SPECIAL)
def test_special_numbers_give_finite_values_within_bounds(special):
    others = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5], [special] * 4])
    for elsewhere, where in product(SPECIAL, range(4)):
        box = torch.full((4,), elsewhere)
        box[where] = special
        assert_sane(box, others)


def assert_sane(a, b):
    a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
    iou, giou = box_iou(a, b), generalized_box_iou(a, b)
    assert ((iou >= 0) & (iou <= 1 + ROUNDING)).all()
    assert ((giou >= -1 - ROUNDING) & (giou <= iou)).all()
    (iou.sum() + giou.sum()).backward()
    assert a.grad.isfinite().all()
    assert b.grad.isfinite().all()


def test_what_is_left_of_boxes_in_a_picture():
    """Cut off at its edges; which have an area there, in each direction, and are finite."""
    nan, inf = float("nan"), float("inf")
    rows = [
        ([2, 3, 5, 8], [2, 3, 5, 8], True),
        ([-4, -1, 5, 30], [0, 0, 5, 10], True),
        ([15, 5, 40, 9], [15, 5, 20, 9], True),
        ([25, 2, 30, 8], [20, 2, 20, 8], False),  # beside the picture
        ([2, 12, 8, 30], [2, 10, 8, 10], False),  # below it
        ([5, 2, 5, 8], [5, 2, 5, 8], False),  # no width
        ([2, 5, 8, 5], [2, 5, 8, 5], False),  # no height
        ([9, 2, 5, 8], [9, 2, 5, 8], False),  # right before left
        ([2, 9, 5, 3], [2, 9, 5, 3], False),
        ([-inf, 2, inf, 8], [0, 2, 20, 8], False),
        ([nan, 2, 5, 8], [nan, 2, 5, 8], False),
        ([2, 3, 5, nan], [2, 3, 5, nan], False),
    ]
    boxes, expected, used = zip(*rows)
    clipped, has_area = clip_boxes(torch.tensor(boxes), (10, 20))
    torch.testing.assert_close(clipped, torch.tensor(expected, dtype=clipped.dtype), equal_nan=True, rtol=0, atol=0)
    assert has_area.tolist() == list(used)
    assert [clip_boxes(torch.tensor([[box]]), (10, 20))[1].item() for box in boxes] == list(used)  # of any shape


def test_boxes_that_are_turned_round_have_no_area():
    """A width below 0, of which no model says any, is 0: IoU stays within its bounds."""
    turned, whole = torch.tensor([[8.0, 2.0, 4.0, 6.0], [2.0, 8.0, 6.0, 4.0]]), torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    assert box_iou(turned, whole.expand(2, 4)).tolist() == [0, 0]
    assert box_iou(whole.expand(2, 4), turned).tolist() == [0, 0]


def test_apart_boxes_are_pulled_together():
    """What IoU alone cannot do: it has no gradient there."""
    predicted = torch.tensor([0.0, 0.0, 1.0, 1.0], requires_grad=True)
    generalized_box_iou(predicted, torch.tensor([3.0, 0.0, 4.0, 1.0])).backward()
    assert predicted.grad[2] > 0  # the right side should move right
