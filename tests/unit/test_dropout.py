import pytest
import torch

from opendetr.model.attention import MultiheadAttention
from opendetr.model.dropout import CHANCES, Dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_as_many_values_as_asked_become_zero_and_the_others_make_up_for_them(p, dtype):
    torch.manual_seed(0)
    x = torch.full((1001, 999), 2.0, dtype=dtype)
    found = Dropout(p)(x)
    kept = found != 0
    assert found.dtype == dtype
    assert kept.float().mean().item() == pytest.approx(1 - p, abs=2.5e-3)  # five standard deviations
    exact = CHANCES / (CHANCES - round(p * CHANCES))  # p in whole chances
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(found[kept], torch.full_like(found[kept], 2 * exact), rtol=rounding, atol=0)
    for neighbours in (kept[:, 1:] & kept[:, :-1], kept[:, 4:] & kept[:, :-4], kept[1:] & kept[:-1]):
        assert neighbours.float().mean().item() == pytest.approx((1 - p) ** 2, abs=5e-3)  # each for itself


def test_the_seed_decides_and_evaluation_changes_nothing():
    x, dropout = torch.randn(3, 5, 7), Dropout(0.4)
    torch.manual_seed(1)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(1)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(first, second)
    assert torch.equal(dropout.eval()(x), x)


def test_a_gradient_goes_where_values_went():
    torch.manual_seed(0)
    x = torch.rand(6, 10, dtype=torch.double).add(1).transpose(0, 1).requires_grad_()
    found = Dropout(0.3)(x)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(gradient * x, found)


@pytest.mark.parametrize("masked", ["no", "keys", "keys of each query"])
@pytest.mark.parametrize("focused", [False, True])
@pytest.mark.parametrize("large", [False, True])
def test_attention_learns_from_what_it_will_say(masked, focused, large, monkeypatch):
    """Written out while it is small, and fused: the same answers and gradients."""
    monkeypatch.setattr("opendetr.model.attention.SMALL", 0 if large else 1000)
    torch.manual_seed(0)
    attention = MultiheadAttention(16, 4, 0.0).double()
    query, key, value = (torch.randn(2, count, 16, dtype=torch.double, requires_grad=True) for count in (5, 9, 9))
    blocked = {"no": None, "keys": torch.rand(2, 9) < 0.3, "keys of each query": torch.rand(2, 5, 9) < 0.3}[masked]
    focus = torch.randn(2, 1, 5, 9, dtype=torch.double, requires_grad=True) if focused else None
    learned = [query, key, value, *attention.parameters(), *([focus] if focused else [])]
    found = []
    for training in (True, False):
        output = attention.train(training)(query, key, value, blocked, focus)
        found.append((output, *torch.autograd.grad(output.square().sum(), learned)))
    torch.testing.assert_close(found[0], found[1])


def test_attention_that_learns_is_as_exact_in_bf16_as_the_one_that_answers():
    torch.manual_seed(0)
    attention, worst = MultiheadAttention(32, 4, 0.0), {}
    given = [4 * torch.randn(8, 40, 32) for _ in range(3)]  # sharp: one key has most of the weight
    with torch.no_grad():
        expected = attention.eval()(*given)
        for mode in (True, False):
            with torch.autocast("cpu", torch.bfloat16):
                worst[mode] = (attention.train(mode)(*given) - expected).abs().mean()
    assert worst[True] < 1.1 * worst[False]


def test_attention_drops_weights():
    torch.manual_seed(0)
    attention = MultiheadAttention(16, 4, 0.5).train()
    given = [torch.randn(2, 5, 16) for _ in range(3)]
    assert not torch.allclose(attention(*given), attention(*given))
