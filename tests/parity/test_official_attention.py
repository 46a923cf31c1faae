"""Attention maps are those that the official code's own attention modules return, per head and averaged."""

import pytest
import torch
from test_official_model import CONFIGS, NUM_CLASSES, PICTURE_SIZES

from opendetr.config import LossConfig
from opendetr.model.build import build_model
from opendetr.model.capture import capture_attention

OF_MAXIMUM = 1e-5  # of each row's largest weight; float32 through all layers


@pytest.fixture(scope="module", params=["tiny-post-norm-sine", "tiny-pre-norm-learned", "r50", "r50-dc5"])
def both(official, request):
    """What our capture and the official modules say, layer by layer: [B, heads, N, M] each."""
    config = CONFIGS[request.param]
    generator = torch.Generator().manual_seed(1)
    batch = official.pad([torch.randn(3, *size, generator=generator) for size in PICTURE_SIZES])
    theirs = official.build_model(config, NUM_CLASSES)
    official.spread_answers(theirs, batch)
    ours = build_model(config, LossConfig(), NUM_CLASSES).eval()
    official.copy_weights(theirs, ours)
    returned = []

    def per_head(module, args, kwargs):
        return args, kwargs | {"need_weights": True, "average_attn_weights": False}

    for module in theirs.transformer.modules():
        if isinstance(module, torch.nn.MultiheadAttention):
            module.register_forward_pre_hook(per_head, with_kwargs=True)
            module.register_forward_hook(lambda module, args, output: returned.append(output[1]))
    with torch.no_grad(), capture_attention(ours) as captured:
        theirs(batch)
        ours(batch.tensors, batch.mask)
        return [layer.weights() for layer in captured.layers()], returned


def assert_rows_agree(ours, theirs):
    assert ((ours - theirs).abs() / theirs.amax(-1, keepdim=True)).max() < OF_MAXIMUM


def test_every_layer_and_head_agrees(both):
    ours, theirs = both
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs):
        assert_rows_agree(one, other)
        assert_rows_agree(one.mean(1), other.mean(1))


def test_the_rows_are_not_flat(both):
    """Flat rows would agree however wrong the maps were."""
    for weights in both[1]:
        typical = weights.amax(-1) * weights.shape[-1]  # 1 where a row is flat
        assert typical.median() > 1.02
