from dataclasses import replace
from itertools import product

import pytest
import torch

from opendetr.config import LossConfig
from opendetr.errors import UserError
from opendetr.model.attention import MultiheadAttention
from opendetr.model.build import build_model
from opendetr.model.complexity import count_gflops, count_parameters
from opendetr.model.decoder import DecoderLayer
from opendetr.model.detr import DETR
from opendetr.model.encoder import EncoderLayer
from opendetr.recipes.presets import PRESETS

TINY = PRESETS["detr-tiny"]  # 1 + 2 layers, 32 wide, 10 queries, stride 16
CLASSES = 3
# What the answers to different queries and pictures differ by is at least a hundred times as much (`tiny` checks it).
EXACT = 1e-5


def lively(model: DETR) -> DETR:
    """Weights moved far from their initial values, at which a DETR answers almost the same to everything."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("backbone"):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def build(**changes) -> DETR:
    torch.manual_seed(0)
    return build_model(replace(TINY, **changes), LossConfig(), CLASSES)


@pytest.fixture(scope="module")
def tiny(images) -> DETR:
    model = lively(build())
    with torch.no_grad():
        logits, boxes = model(images)
    for difference in (logits.diff(dim=1), logits.diff(dim=2), boxes.diff(dim=1), boxes.diff(dim=2)):
        assert difference.abs().mean() > 100 * EXACT
    return model


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def padding_mask():
    """The first picture is whole, the second is 32x96 pixels, the third 48x64."""
    mask = torch.zeros(3, 64, 96, dtype=torch.bool)
    mask[1, 32:] = True
    mask[2, 48:], mask[2, :, 64:] = True, True
    return mask


def variant(tiny: DETR, **changes) -> DETR:
    """A model of another config with the weights of `tiny`, as far as it has them."""
    model = lively(build(**changes))
    model.load_state_dict(tiny.state_dict(), strict=False)
    return model


@torch.no_grad()
def answers(model, *inputs):
    logits, boxes = model(*inputs)
    return torch.cat([logits, boxes], -1)


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=EXACT)


def assert_different(one, other):
    assert (one - other).abs().max() > 100 * EXACT


def test_shapes_and_ranges(tiny, images):
    logits, boxes = tiny(images)
    assert logits.shape == (2, 3, 10, CLASSES + 1)
    assert boxes.shape == (2, 3, 10, 4)
    assert ((boxes > 0) & (boxes < 1)).all()


def test_the_order_of_the_batch_does_not_matter(tiny, images, padding_mask):
    order = [2, 0, 1]
    assert_same(answers(tiny, images[order], padding_mask[order]), answers(tiny, images, padding_mask)[:, order])


def test_a_picture_does_not_see_its_company(tiny, images):
    together = answers(tiny, images)
    for position in range(3):
        assert_same(answers(tiny, images[position : position + 1]), together[:, position : position + 1])


@pytest.mark.parametrize("kind", ["sine", "learned", "none"])
def test_no_mask_is_a_mask_of_nothing(tiny, images, padding_mask, kind):
    model = variant(tiny, position_encoding=kind)
    assert_same(answers(model, images, torch.zeros_like(padding_mask)), answers(model, images))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pre_norm": True},
        {"position_encoding": "learned"},
        {"num_encoder_layers": 0},
        {"position_placement": "input"},
    ],
)
def test_what_is_under_the_padding_is_never_seen(tiny, images, padding_mask, changes):
    model = variant(tiny, **changes)
    before = answers(model, images, padding_mask)
    for padded in (True, False):

        def scramble(module, inputs, features, padded=padded):
            (last,) = features
            hidden = last.padding_mask if padded else ~last.padding_mask
            return [last._replace(map=torch.where(hidden[:, None], torch.randn_like(last.map) * 100, last.map))]

        handle = model.backbone.register_forward_hook(scramble)
        after = answers(model, images, padding_mask)
        handle.remove()
        if padded:
            assert_same(after, before)
        else:
            assert_different(after, before)


def test_ignoring_the_mask_would_be_noticed(tiny, images, padding_mask):
    assert_different(answers(tiny, images, padding_mask)[:, 1:], answers(tiny, images)[:, 1:])
    assert_same(answers(tiny, images, padding_mask)[:, :1], answers(tiny, images)[:, :1])


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("query_placement", ["attention", "input"])
def test_permuting_the_object_queries_permutes_the_answers(tiny, images, pre_norm, query_placement):
    model = variant(tiny, pre_norm=pre_norm, query_placement=query_placement)
    before = answers(model, images)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    model.query_embed.weight.data = model.query_embed.weight[order]
    assert_same(answers(model, images), before[:, :, order])


@pytest.mark.parametrize("pre_norm", [False, True])
def test_every_decoder_layer_answers_as_a_shallower_model_would(tiny, images, pre_norm):
    deep, shallow = (variant(tiny, pre_norm=pre_norm, num_decoder_layers=layers) for layers in (2, 1))
    assert_same(answers(deep, images)[:1], answers(shallow, images))
    assert_different(*answers(deep, images))


def test_the_heads_are_shared_by_all_layers(tiny, images):
    before, model = answers(tiny, images), variant(tiny)
    model.class_embed.bias.data[0] += 1
    model.bbox_embed.layers[-1].bias.data[0] += 1
    after = answers(model, images)
    assert_same(after[..., 0], before[..., 0] + 1)
    assert_same(after[..., CLASSES + 1].logit(), before[..., CLASSES + 1].logit() + 1)


SWITCHES = {
    "no encoder": {"num_encoder_layers": 0},
    "two encoder layers": {"num_encoder_layers": 2},
    "one decoder layer": {"num_decoder_layers": 1},
    "no feed-forward layers": {"feedforward_dim": 0},
    "no positions": {"position_encoding": "none"},
    "learned positions": {"position_encoding": "learned"},
    "positions at the input": {"position_placement": "input"},
    "no positions in the encoder": {"encoder_position": False},
    "queries at the input": {"query_placement": "input"},
    "pre-norm": {"pre_norm": True},
    "pre-norm without encoder": {"pre_norm": True, "num_encoder_layers": 0},
    "one head": {"num_heads": 1},
}


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_changes_what_the_same_weights_say(tiny, images, padding_mask, name):
    model = variant(tiny, **SWITCHES[name])
    changed = answers(model, images, padding_mask)
    assert changed.isfinite().all()
    assert_different(changed[-1], answers(tiny, images, padding_mask)[-1])


@pytest.mark.parametrize("name", SWITCHES)
def test_every_weight_learns_from_the_last_layer_alone(images, padding_mask, name):
    """A parameter without a gradient would stop training on several processes."""
    model = lively(build(dropout=0.0, **SWITCHES[name])).train()
    logits, boxes = model(images, padding_mask)
    (logits[-1].square().sum() + boxes[-1].square().sum()).backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_spatial_encodings_times_placement_times_encoder_side(tiny, images):
    said = {
        (kind, placement, in_encoder): answers(
            variant(tiny, position_encoding=kind, position_placement=placement, encoder_position=in_encoder), images
        )
        for kind, placement, in_encoder in product(("none", "sine", "learned"), ("attention", "input"), (True, False))
    }
    for one, other in product(said, said):
        if one == other or one[0] == other[0] == "none":  # there is nothing to place
            assert_same(said[one], said[other])
        else:
            assert_different(said[one], said[other])


def test_without_an_encoder_only_the_placement_matters(tiny, images):
    for placement in ("attention", "input"):
        on, off = (
            answers(variant(tiny, num_encoder_layers=0, position_placement=placement, encoder_position=side), images)
            for side in (True, False)
        )
        assert_same(on, off)


@pytest.mark.parametrize("kind", ["none", "sine", "learned"])
def test_only_positions_tell_where_a_cell_is(tiny, images, kind):
    model = variant(tiny, position_encoding=kind)
    before = answers(model, images)
    order = torch.randperm(4 * 6, generator=torch.Generator().manual_seed(0))

    def shuffle(module, inputs, features):
        (last,) = features
        return [last._replace(map=last.map.flatten(2)[..., order].unflatten(2, (4, 6)))]

    model.backbone.register_forward_hook(shuffle)
    (assert_same if kind == "none" else assert_different)(answers(model, images), before)


def random_parts(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("pre_norm", [False, True])
def test_positions_are_never_added_to_values(pre_norm):
    """Where all tokens hold the same, attention returns the same, wherever it looks."""
    torch.manual_seed(0)
    content, query_position, memory, position = random_parts((1, 1, 16), (1, 5, 16), (1, 1, 16), (1, 7, 16))
    content, memory = content.expand(1, 5, 16), memory.expand(1, 7, 16)
    encoder = EncoderLayer(16, 4, 32, 0.0, pre_norm)
    decoder = DecoderLayer(16, 4, 32, 0.0, pre_norm)
    torch.testing.assert_close(encoder(memory, position, None), encoder(memory, None, None))
    said = decoder(content, query_position, memory, memory + position, None)
    torch.testing.assert_close(said, decoder(content, None, memory, memory, None))
    mixed = memory + torch.arange(7)[:, None] * position  # and where they do not, positions matter
    assert_different(encoder(mixed, position, None), encoder(mixed, None, None))
    assert_different(
        decoder(content, query_position, mixed, mixed + position, None),
        decoder(content, query_position, mixed, mixed, None),
    )
    assert_different(decoder(content, query_position, mixed, mixed, None), decoder(content, None, mixed, mixed, None))


@pytest.mark.parametrize("training", [True, False])  # written out, and fused
def test_attention_is_that_of_torch(training):
    torch.manual_seed(0)
    ours, theirs = MultiheadAttention(16, 4, 0.0), torch.nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(ours.train(training).state_dict())
    query, key, value = random_parts((2, 5, 16), (2, 7, 16), (2, 7, 16))
    mask = torch.arange(7).expand(2, 7) > torch.tensor([[4], [6]])
    for padding_mask in (mask, None):
        expected, _ = theirs(query, key, value, key_padding_mask=padding_mask)
        torch.testing.assert_close(ours(query, key, value, padding_mask), expected)


def test_dropout_works_in_training_only(images):
    model = build(dropout=0.5)
    assert_different(answers(model.train(), images), answers(model, images))
    assert_same(answers(model.eval(), images), answers(model, images))


def test_boxes_are_float32_under_autocast(tiny, images):
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        logits, boxes = tiny(images)
    assert logits.dtype == torch.bfloat16
    assert boxes.dtype == torch.float32
    assert (boxes * 256 != (boxes * 256).round()).float().mean() > 0.9  # not bf16 numbers in disguise


def test_too_few_learned_positions_name_the_way_out(images):
    model = build(position_encoding="learned")
    with pytest.raises(UserError, match=r"50 cells per side and the feature map has 1x51.*smaller data\.max_size"):
        model(torch.zeros(1, 3, 16, 51 * 16))
    assert model(torch.zeros(1, 3, 16, 50 * 16)).logits.shape == (2, 1, 10, CLASSES + 1)


def test_the_same_seed_builds_the_same_model():
    states = build().state_dict(), build().state_dict()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_cost_counts_parameters_and_multiply_adds():
    layer = torch.nn.Conv2d(3, 8, 1, bias=False).requires_grad_(False)
    assert count_parameters(layer) == 24
    assert count_gflops(layer, 10, 20) == pytest.approx(10 * 20 * 24 / 1e9)


def test_cost_includes_attention(tiny):
    """Its products are hidden in a fused kernel."""
    without = count_gflops(tiny, 64, 96)
    more_queries = count_gflops(build(num_queries=20), 64, 96)
    tokens, layers, width = 4 * 6, 2, 32
    in_attention = layers * 2 * width * (20**2 - 10**2 + (20 - 10) * tokens)
    in_decoder = layers * (20 - 10) * (4 + 2 + 2 * 2) * width**2  # self-attention, cross-attention's ends, feed-forward
    in_heads = layers * (20 - 10) * (width * (CLASSES + 1) + 2 * width**2 + 4 * width)
    assert (more_queries - without) * 1e9 == pytest.approx(in_attention + in_decoder + in_heads)
