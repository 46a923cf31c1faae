"""Every decoder layer's logits and boxes are those of the official model with the same weights."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from opendetr.config import LossConfig, ModelConfig
from opendetr.model.build import build_model
from opendetr.structures import DetrOutput

TOLERANCE = 1e-5  # absolute; logits are of size 1 to 5, so that float32 rounding over all layers comes to about 3e-6
TINY = ModelConfig(
    backbone="resnet18", embed_dim=32, num_heads=4, num_encoder_layers=2, num_decoder_layers=3, feedforward_dim=64,
    num_queries=10,
)  # fmt: skip
CONFIGS = {
    "tiny-post-norm-sine": TINY,
    "tiny-post-norm-learned": replace(TINY, position_encoding="learned"),
    "tiny-pre-norm-sine": replace(TINY, pre_norm=True),
    "tiny-pre-norm-learned": replace(TINY, pre_norm=True, position_encoding="learned"),
    "r50": ModelConfig(),
    "r50-dc5": ModelConfig(output_stride=16),
}
NUM_CLASSES = 91
PICTURE_SIZES = [(150, 230), (200, 170)]  # padded to 200x230: a whole number of cells in neither direction

BROKEN_RULES = {
    "position on the encoder's values": (
        "transformer.encoder.layers.0.self_attn",
        lambda query, key, value, mask: (query, key, key, mask),
    ),
    "no position on the encoder's queries and keys": (
        "transformer.encoder.layers.0.self_attn",
        lambda query, key, value, mask: (value, value, value, mask),
    ),
    "padding read by the encoder": (
        "transformer.encoder.layers.0.self_attn",
        lambda query, key, value, mask: (query, key, value, None),
    ),
    "query position on the decoder's self-attention values": (
        "transformer.decoder.layers.1.self_attn",
        lambda query, key, value: (query, key, key),
    ),
    "no query position in the decoder's self-attention": (
        "transformer.decoder.layers.1.self_attn",
        lambda query, key, value: (value, value, value),
    ),
    "position on the memory's values": (
        "transformer.decoder.layers.1.multihead_attn",
        lambda query, memory_key, memory, mask: (query, memory_key, memory_key, mask),
    ),
    "no position on the memory's keys": (
        "transformer.decoder.layers.1.multihead_attn",
        lambda query, memory_key, memory, mask: (query, memory, memory, mask),
    ),
    "padding read by the decoder": (
        "transformer.decoder.layers.1.multihead_attn",
        lambda query, memory_key, memory, mask: (query, memory_key, memory, None),
    ),
    "places counted over the padding": ("position_encoding", lambda mask: (torch.zeros_like(mask),)),
}


class Pair:
    """Our model, the official one with the same weights, and what both say about the same padded batch."""

    def __init__(self, official, config: ModelConfig) -> None:
        generator = torch.Generator().manual_seed(1)
        self.batch = official.pad([torch.randn(3, *size, generator=generator) for size in PICTURE_SIZES])
        self.theirs = official.build_model(config, NUM_CLASSES)
        official.spread_answers(self.theirs, self.batch)
        self.ours = build_model(config, LossConfig(), NUM_CLASSES).eval()
        official.copy_weights(self.theirs, self.ours)
        with torch.no_grad():
            self.reference = official.from_dict(self.theirs(self.batch))

    @torch.no_grad()
    def answer(self) -> DetrOutput:
        return self.ours(self.batch.tensors, self.batch.mask)


@pytest.fixture(scope="module", params=CONFIGS)
def pair(official, request) -> Pair:
    return Pair(official, CONFIGS[request.param])


@pytest.fixture(scope="module")
def tiny_pair(official) -> Pair:
    return Pair(official, TINY)


def test_every_layer_agrees(pair):
    answer = pair.answer()
    torch.testing.assert_close(answer.logits, pair.reference.logits, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(answer.boxes_cxcywh, pair.reference.boxes_cxcywh, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("part", DetrOutput._fields)
def test_the_reference_tells_queries_and_pictures_apart(pair, part):
    values: Tensor = getattr(pair.reference, part)  # [L, B, Q, ...]
    between_queries = torch.cdist(values, values, p=float("inf")).median(-1).values  # from each to the others
    between_pictures = (values[:, 0] - values[:, 1]).abs().amax(-1).median(-1).values
    assert between_queries.min() > 1000 * TOLERANCE
    assert between_pictures.min() > 1000 * TOLERANCE


@pytest.mark.parametrize("rule", BROKEN_RULES)
def test_a_broken_rule_is_noticed(tiny_pair, rule):
    assert worst_difference(tiny_pair, *BROKEN_RULES[rule]) > 100 * TOLERANCE


def test_a_query_position_left_out_of_cross_attention_is_noticed(tiny_pair):
    query_position = tiny_pair.ours.query_embed.weight

    def without_position(query, memory_key, memory, mask):
        return query - query_position, memory_key, memory, mask

    assert (
        worst_difference(tiny_pair, "transformer.decoder.layers.1.multihead_attn", without_position) > 100 * TOLERANCE
    )


def worst_difference(pair: Pair, module: str, change_arguments: Callable[..., tuple]) -> float:
    """How far our last layer is from the official one while `module` is called with changed arguments."""
    with pair.ours.get_submodule(module).register_forward_pre_hook(lambda _, arguments: change_arguments(*arguments)):
        answer = pair.answer()
    differences = [(ours - theirs)[-1].abs().max().item() for ours, theirs in zip(answer, pair.reference)]
    return max(differences)
