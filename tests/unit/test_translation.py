import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from opendetr.engines.graph_engine import OUTPUTS
from opendetr.exporting.translation import part_of, to_onnx
from translations import counted_translations

X = torch.tensor([[1.0, -2.0, 3.0], [float("nan"), float("inf"), float("-inf")]])
MASK = torch.tensor([[True, False, True], [False, True, True]])


class Computes(nn.Module):
    """A module of two inputs whose outputs are all those that a function gives, repeated."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images, padding_mask):
        found = self.function(images * 1, padding_mask)
        return tuple(found + 0 for _ in OUTPUTS)


def answers(function):
    """What the function gives for `X` and `MASK`, and what its translation gives."""
    module = Computes(function)
    model = to_onnx(torch.export.export(module, (X, MASK)))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return module(X, MASK)[0].numpy(), session.run(None, {"images": X.numpy(), "padding_mask": MASK.numpy()})[0]


def added_in_place(x, mask):
    y = x * 2
    y += mask
    return y


@pytest.mark.parametrize(
    "function",
    [
        lambda x, mask: torch.nan_to_num(x, nan=0.5, posinf=9.0, neginf=-7.0),
        lambda x, mask: x[:, :, None].expand(-1, -1, 4).movedim(-1, 0),
        lambda x, mask: x[:, :, None].expand(-1, -1, 4).movedim(0, 1),
        lambda x, mask: x.square() + mask.to(torch.float32),
        added_in_place,
        lambda x, mask: torch.eye(2) @ x.square(),
        lambda x, mask: x.to(torch.promote_types(x.dtype, torch.float32)),  # a question that is in the graph
    ],
)
def test_operators_that_onnx_lacks_are_translated_without_decomposing(function, monkeypatch):
    taken = counted_translations(monkeypatch)
    expected, found = answers(function)
    np.testing.assert_array_equal(found, expected)
    assert len(taken) == 1


def read_after_it_was_changed(x, mask):
    y = x * 2
    z = y + 1
    y += 1
    return z * y


@pytest.mark.parametrize("function", [read_after_it_was_changed, lambda x, mask: torch.special.entr(x)])
def test_other_programs_are_decomposed(function):
    expected, found = answers(function)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


class ComputesTwo(nn.Module):
    def forward(self, images, padding_mask):
        shared = images * 2
        return shared.sin(), shared.cos(), ~padding_mask


def test_a_part_of_a_graph_computes_its_outputs_alone_under_their_new_names():
    whole = to_onnx(torch.export.export(ComputesTwo(), (X, MASK)), ["a.logits", "b.logits", "mask"])
    for outputs, expected in (
        ({"b.logits": "logits"}, (2 * X).cos()),
        ({"mask": "mask", "a.logits": "logits"}, (2 * X).sin()),
    ):
        part = part_of(whole, outputs)
        assert len({node.op_type for node in part.graph.node} & {"Sin", "Cos"}) == 1
        session = onnxruntime.InferenceSession(part.SerializeToString())
        assert [one.name for one in session.get_outputs()] == list(outputs.values())
        assert [one.name for one in session.get_inputs()] == ["images", "padding_mask"]
        (found,) = session.run(["logits"], {"images": X.numpy(), "padding_mask": MASK.numpy()})
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6)  # another library's sine
    assert [one.name for one in whole.graph.output] == ["a.logits", "b.logits", "mask"]
