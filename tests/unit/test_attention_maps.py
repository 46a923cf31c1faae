"""Attention captured from outside, and the maps that are made of it."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from opendetr.checkpoints.native import Checkpoint
from opendetr.checkpoints.origin import Origin
from opendetr.config import LossConfig, RunConfig
from opendetr.data.transforms import Preprocessing
from opendetr.errors import UserError
from opendetr.explanation import maps
from opendetr.explanation.look import look
from opendetr.explanation.maps import (
    at_cells,
    cell_at,
    concentration,
    gradient_relevance,
    on_picture,
    rollout,
    widening,
)
from opendetr.inference.detector import Detector
from opendetr.labels import LabelMap
from opendetr.model.attention import MultiheadAttention
from opendetr.model.backbone import Features
from opendetr.model.build import build_model
from opendetr.model.capture import AttentionLayer, Captured, capture_attention, output_gradients
from opendetr.model.pyramid import InputProjection
from opendetr.model.tokens import Tokens, cell_boxes
from opendetr.recipes.presets import PRESETS

TINY = PRESETS["detr-tiny"]
KINDS = {
    "paper": replace(TINY, output_stride=32, num_encoder_layers=2),
    "dc5": TINY,
    "pre-norm": replace(TINY, pre_norm=True),
    "fast": replace(
        TINY, query_source="selected", scoring="focal", output_stride=32, encoder_strides=(16,), proposal_strides=(8,),
        position_encoding="cell", dropout=0.0, precedence=True, focus=True,
    ),
}  # fmt: skip


def build(config, spread=0.2):
    torch.manual_seed(0)
    model = build_model(config, LossConfig(), 3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("backbone"):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * spread)
    return model.eval()


def detector_of(model, config, image_size, max_size):
    run = replace(RunConfig(), model=config, loss=LossConfig(proposal_repeats=int(config.query_source == "selected")))
    labels = LabelMap.from_categories([{"id": n, "name": str(n)} for n in range(3)], "here")
    preprocessing = Preprocessing(image_size, max_size, (0.0,) * 3, (1.0,) * 3)
    return Detector.of_checkpoint(Checkpoint(model, run, labels, preprocessing, Origin(), Path()), "cpu")


@pytest.fixture(params=KINDS)
def model(request):
    return build(KINDS[request.param])


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def padding_mask():
    mask = torch.zeros(2, 64, 96, dtype=torch.bool)
    mask[1, 32:], mask[1, :, 64:] = True, True
    return mask


def test_looking_changes_nothing(model, images, padding_mask):
    with torch.no_grad():
        before = model(images, padding_mask)
        with capture_attention(model) as captured:
            during = model(images, padding_mask)
        after = model(images, padding_mask)
    for output in (during, after):
        assert torch.equal(output.logits, before.logits)
        assert torch.equal(output.boxes_cxcywh, before.boxes_cxcywh)
    assert captured.layers()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_weights_are_those_that_were_used(model, images, padding_mask):
    with torch.no_grad(), capture_attention(model) as captured:
        model(images, padding_mask)
        for layer in captured.layers():
            weights = layer.weights()
            torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
            value = layer.attention.project(layer.query, layer.key, layer.value)[2]
            mixed = (weights @ value).transpose(1, 2).flatten(2)
            torch.testing.assert_close(layer.attention.out_proj(mixed), layer.output)
    assert captured.memory is not None
    assert len(captured.encoder) == len(model.transformer.encoder.layers)
    assert len(captured.decoder_cross) == len(model.transformer.decoder.layers)


def test_a_second_picture_replaces_the_first(model, images):
    with torch.no_grad(), capture_attention(model) as captured:
        model(images)
        layers = len(captured.layers())
        model(images[:1])
    assert len(captured.layers()) == layers
    assert len(captured.layers()[-1].output) == 1


def test_padding_is_neither_attended_to_nor_shown(model, images, padding_mask):
    with torch.no_grad(), capture_attention(model) as captured:
        model(images, padding_mask)
    cross = captured.decoder_cross[-1].weights()
    assert not cross[1][..., captured.memory.padding_mask[1]].any()
    whole, small = (on_picture(cross[picture].mean(0), captured.memory, picture) for picture in range(2))
    rows, columns = captured.memory.shapes[0]
    assert whole.shape[-2:] == (rows, columns)
    assert small.shape[-2:] == (rows // 2, columns * 2 // 3)
    for shown in (whole, small):
        torch.testing.assert_close(shown.sum((-2, -1)), torch.ones(len(shown)))


@pytest.mark.parametrize("size", [(48, 80), (33, 49), (64, 96), (20, 20)])
def test_a_coarse_cell_that_is_half_padding_keeps_its_weight(size):
    """A 48x80 picture in a batch of 64x96: the cells of stride 32 at its end have half their fine cells in padding."""
    config = replace(KINDS["fast"], encoder_strides=(8, 16), proposal_strides=())
    mask = torch.ones(2, 64, 96, dtype=torch.bool)
    mask[0] = False
    mask[1, : size[0], : size[1]] = False
    model = build(config)
    with torch.no_grad(), capture_attention(model) as captured:
        model(torch.randn(2, 3, 64, 96), mask)
    for layer in (captured.encoder[-1], captured.decoder_cross[-1]):
        found = on_picture(layer.weights()[1], captured.memory, 1)
        assert found.shape[-2:] == (-(-size[0] // 8), -(-size[1] // 8))
        torch.testing.assert_close(found.sum((-2, -1)), torch.ones(found.shape[:-2]))


def test_the_gradient_is_that_of_the_weights(model, images):
    """Against autograd through attention written out: the same layer with its weights as a leaf."""
    with capture_attention(model) as captured:
        score = model(images[:1]).logits[-1, 0, 0, 0]
    gradients = output_gradients(captured, score)
    some = False
    for layer, gradient in zip(captured.layers(), gradients):
        weights = layer.weights().detach().requires_grad_()
        value = layer.attention.project(layer.query, layer.key, layer.value)[2].detach()
        out = layer.attention.out_proj((weights @ value).transpose(1, 2).flatten(2))
        (expected,) = torch.autograd.grad(out, weights, gradient)
        torch.testing.assert_close(layer.gradient(gradient), expected)
        some |= bool(expected.any())
    assert some


def test_rollout_and_relevance_are_shares(model, images):
    with capture_attention(model) as captured:
        logits = model(images[:1]).logits[-1, 0]
    with torch.no_grad():
        rolled = rollout(captured, [2, 0])
    torch.testing.assert_close(rolled.sum(-1), torch.ones(2))
    relevant = gradient_relevance(captured, [logits[2, 1], logits[0, 0]], [2, 0])
    assert relevant.min() >= 0
    torch.testing.assert_close(relevant.sum(-1), torch.ones(2))
    (alone,) = gradient_relevance(captured, [logits[0, 0]], [0])
    torch.testing.assert_close(relevant[1], alone)


def whole_products(captured, score, query):
    """Rollout and relevance of a query as the papers write them: products of whole matrices, in double precision."""
    gradients = output_gradients(captured, score)
    with torch.no_grad():
        relevant = [layer.relevance(of)[0].double() for layer, of in zip(captured.layers(), gradients)]
        weights = [layer.weights()[0].mean(0).double() for layer in captured.layers()]
    first = len(captured.encoder)
    cells, rolled = (torch.eye(captured.decoder_cross[0].key.shape[1], dtype=torch.double) for _ in range(2))
    for passed, mixing in zip(relevant[:first], weights):
        cells, rolled = cells + passed @ cells, 0.5 * (rolled + mixing @ rolled)
    among = torch.eye(captured.decoder_self[0].query.shape[1], dtype=torch.double)
    found, reached = (torch.zeros(len(among), len(cells), dtype=torch.double) for _ in range(2))

    def normalised(relevance):
        identity = torch.eye(len(relevance), dtype=torch.double)
        return nn.functional.normalize(relevance - identity, p=1, dim=-1) + identity

    for layer in range(first, len(relevant), 2):
        among, found = among + relevant[layer] @ among, found + relevant[layer] @ found
        found = found + normalised(among).T @ relevant[layer + 1] @ normalised(cells)
        reached = 0.5 * (reached + weights[layer] @ reached)
        reached = 0.5 * (reached + weights[layer + 1] @ rolled)
    return [(rows[query] / rows[query].sum()).float() for rows in (reached, found)]


def test_carried_vectors_are_rows_of_the_whole_product(model, images):
    with capture_attention(model) as captured:
        logits = model(images[:1]).logits[-1, 0]
    rolled, relevant = whole_products(captured, logits[2, 1], 2)
    close = {"rtol": 1e-4, "atol": 1e-6}  # of shares of 1, in single precision
    with torch.no_grad():
        torch.testing.assert_close(rollout(captured, [2])[0], rolled, **close)
    torch.testing.assert_close(gradient_relevance(captured, [logits[2, 1]], [2])[0], relevant, **close)


def test_some_rows_are_those_of_all(model, images, padding_mask):
    with torch.no_grad(), capture_attention(model) as captured:
        model(images, padding_mask)
        for layer in captured.layers():
            torch.testing.assert_close(layer.weights([3, 1]), layer.weights()[:, :, [3, 1]])


@pytest.mark.parametrize("gradients", [True, False])
def test_maps_ask_for_the_wanted_rows_only_and_without_a_graph(monkeypatch, gradients):
    config = KINDS["paper"]
    seen = look(detector_of(build(config), config, 64, 96), Image.new("RGB", (96, 64)), gradients=gradients)
    asked, weigh = [], MultiheadAttention.weights

    def noted(self, query, *others):
        asked.append((query.shape[1], torch.is_grad_enabled()))
        return weigh(self, query, *others)

    monkeypatch.setattr(MultiheadAttention, "weights", noted)
    seen.encoder_maps([(1.0, 1.0)])
    seen.cross_maps([0, 3])
    assert set(asked) == {(1, False), (2, False)}


def test_a_model_without_an_encoder_has_no_maps_of_it():
    config = replace(KINDS["paper"], num_encoder_layers=0)
    seen = look(detector_of(build(config), config, 64, 96), Image.new("RGB", (96, 64)))
    with pytest.raises(UserError, match=r"no encoder \(model.num_encoder_layers = 0\)"):
        seen.encoder_maps([(1.0, 1.0)])


@dataclass(frozen=True)
class Given(AttentionLayer):
    """An attention layer whose weights are given, and whose gradient is 1 everywhere."""

    given: torch.Tensor

    def weights(self):
        return self.given

    def gradient(self, of_output):
        return torch.ones_like(self.given)


def given(weights):
    weights = torch.tensor(weights)[None, None]  # [B, heads, rows, columns]
    rows, columns = (torch.zeros(1, count, 4) for count in weights.shape[2:])
    return Given(MultiheadAttention(4, 1, 0.0), rows, columns, columns, None, None, rows, weights)


def by_hand(monkeypatch):
    """Three cells that one encoder layer mixes, two queries, one decoder layer."""
    monkeypatch.setattr(maps, "output_gradients", lambda captured, score: [layer.output for layer in captured.layers()])
    encoder = given([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    among, at = given([[1.0, 0.0], [0.25, 0.75]]), given([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    return Captured([encoder], [among], [at])


def test_rollout_by_hand(monkeypatch):
    # cells after the encoder: half themselves, half mixed; query 0 looks at cell 1, query 1 at cell 2
    expected = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(rollout(by_hand(monkeypatch), [0, 1]), expected)


def test_relevance_by_hand(monkeypatch):
    # cells: 1 + A normalised = rows (2,0,0), (.5, 1.5, 0), (0,0,2); queries the same: (2, 0), (.25, 1.75)
    # query 1 gets 0.25 of what query 0 looks at in Chefer's R_qq^T A R_cc, which transposes: column 1 of R_qq
    relevant = gradient_relevance(by_hand(monkeypatch), [torch.tensor(0.0)] * 2, [0, 1])
    queries, looked = torch.tensor([[2.0, 0.0], [0.25, 1.75]]), torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    cells = torch.tensor([[2.0, 0.0, 0.0], [0.5, 1.5, 0.0], [0.0, 0.0, 2.0]])
    expected = queries.T @ looked @ cells
    torch.testing.assert_close(relevant, expected / expected.sum(-1, keepdim=True))


def tokens_of(*shapes):
    cells = torch.cat([cell_boxes(torch.zeros(1, *shape, dtype=torch.bool)).flatten(1, 2) for shape in shapes], 1)
    return Tokens(torch.zeros(1, cells.shape[1], 4), None, None, cells, shapes)


def test_coarse_cells_are_spread_over_the_fine_ones():
    memory = tokens_of((4, 6), (2, 3))
    attention = torch.zeros(30)
    attention[24 + 4] = 1.0  # the cell in the second row, second column of the coarse map
    found = on_picture(attention, memory)
    assert torch.equal(found.nonzero(), torch.tensor([[2, 2], [2, 3], [3, 2], [3, 3]]))
    assert float(found.sum()) == 1
    odd = on_picture(torch.full((15 + 6,), 1 / 21), tokens_of((3, 5), (2, 3)))  # the last coarse cells are cut
    assert float(odd.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("sides", "children"),
    [
        ((9, 5, 3), [range(4), range(4, 8), [8]]),  # each map rounds up
        ((9, 3), [range(4), range(4, 8), [8]]),  # the one between is not read
        ((9, 4, 2), [range(4), range(4, 9)]),  # each rounds down: the last cells have no other parent
        ((5, 3, 2), [range(4), [4]]),
    ],
)
def test_the_cells_of_small_odd_maps_have_their_parents(sides, children):
    memory = tokens_of(*((side, side) for side in sides))
    first = sum(side * side for side in sides[:-1])
    for row, rows in enumerate(children):
        for column, columns in enumerate(children):
            attention = torch.zeros(first + sides[-1] ** 2)
            attention[first + row * sides[-1] + column] = 1.0
            expected = torch.zeros(sides[0], sides[0])
            expected[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = 1
            torch.testing.assert_close(on_picture(attention, memory), expected / expected.sum())


def test_values_of_cells_are_not_spread():
    """A coarse cell's value counts wherever the cell is, however many fine ones it has."""
    memory = tokens_of((4, 6), (2, 3))
    values = torch.cat([torch.zeros(24), torch.arange(6.0)])
    found = at_cells(values, memory)
    assert found[0, 0] == 0
    assert torch.equal(found[2:, 2:4], torch.full((2, 2), 4.0 / 2))  # the mean of its two maps
    even = at_cells(torch.full((15 + 6,), 0.3), tokens_of((3, 5), (2, 3)))  # the last coarse cells are cut
    torch.testing.assert_close(even, torch.full((3, 5), 0.3))
    alone = torch.arange(24.0)
    assert torch.equal(at_cells(alone, tokens_of((4, 6))), alone.view(4, 6))


@pytest.mark.parametrize("kind", ["paper", "fast"])
def test_readers_of_a_point_are_its_column_and_reads_its_row(kind, monkeypatch):
    """Against the whole matrix: one map, cell by cell; several maps, by the mean of fine and coarse readers."""
    monkeypatch.setattr("opendetr.explanation.look.ROWS", 5)  # in parts that do not fit the rows
    config = KINDS[kind]
    seen = look(detector_of(build(config), config, 64, 96), Image.new("RGB", (96, 64)))
    points = [(1.0, 1.0), (90.0, 40.0)]
    cells = [cell_at(x / seen.extent[0], y / seen.extent[1], seen.memory) for x, y in points]
    readers, reads = seen.encoder_readers(points), seen.encoder_maps(points)
    whole = torch.stack([layer.weights()[0] for layer in seen.captured.encoder]).detach()  # L heads S S
    torch.testing.assert_close(reads, on_picture(whole[:, :, cells], seen.memory))
    columns = whole[..., cells].transpose(-2, -1)
    torch.testing.assert_close(readers, at_cells(columns, seen.memory))
    rows, width = seen.memory.shapes[0]
    fine = columns[..., : rows * width].reshape(*columns.shape[:-1], rows, width)
    if kind == "paper":
        torch.testing.assert_close(readers, fine)
    assert not torch.allclose(readers, reads, atol=1e-3)


def test_a_point_lies_in_its_cell():
    memory = tokens_of((4, 6), (2, 3))
    for row in range(4):
        for column in range(6):
            assert cell_at((column + 0.1) / 6, (row + 0.9) / 4, memory) == row * 6 + column


def test_concentration_compares_with_chance():
    even = torch.full((10, 10), 0.01)
    box = torch.tensor([0.5, 0.5, 0.2, 0.2])  # 4 cells, 16 with one more on every side
    assert concentration(even, box) == pytest.approx(1.0)
    inside = torch.zeros(10, 10)
    inside[4:6, 4:6] = 0.25
    assert concentration(inside, box) == pytest.approx(100 / 16)
    assert concentration(inside.roll(4, 0), box) == 0
    corner = torch.tensor([0.05, 0.05, 0.1, 0.1])  # what lies beyond the map is not counted
    assert concentration(even, corner) == pytest.approx(1.0)


def test_even_attention_by_the_boxs_own_share():
    assert widening((10, 10), torch.tensor([0.5, 0.5, 0.2, 0.2])) == pytest.approx(16 / 4)
    assert widening((10, 10), torch.tensor([0.05, 0.05, 0.1, 0.1])) == pytest.approx(4)  # of its 9 cells 4 are there
    assert widening((10, 10), torch.tensor([0.0, 0.5, 0.2, 0.2])) == pytest.approx(8 / 2)  # and half of the box
    assert widening((10, 10), torch.tensor([0.5, 0.5, 1.0, 1.0])) == pytest.approx(1)


class Brightness(nn.Module):
    """A backbone whose only feature is how bright the pixels of a cell are."""

    def __init__(self, backbone, strides):
        super().__init__()
        self.backbone, self.strides = backbone, strides

    def forward(self, images, padding_mask):
        found = []
        for level, stride in zip(self.backbone(images, padding_mask), self.strides, strict=True):
            features = torch.zeros_like(level.map)
            features[:, :1] = nn.functional.avg_pool2d(images.mean(1, keepdim=True), stride, ceil_mode=True)
            found.append(Features(features, level.padding_mask))
        return found


SEEKING = {
    "stride 16": replace(TINY, output_stride=16),
    "stride 32": replace(TINY, output_stride=32),
    "fast": KINDS["fast"],  # queries are selected at stride 8, attention reads strides 16 and 32
    "strides 8 and 16": replace(KINDS["fast"], encoder_strides=(8,), proposal_strides=(), output_stride=16),
}


def seek_brightness(model):
    """Make every query and every cell attend to bright cells."""
    with torch.no_grad():
        if isinstance(model.input_proj, InputProjection):
            weights = [model.input_proj.weight]
            model.input_proj.bias.zero_()
        else:
            weights = [projection.weight for projection in model.input_proj.projections]
            model.input_proj.norms = nn.ModuleList(nn.Identity() for _ in weights)
        for weight in weights:
            weight.zero_()
            weight[0, 0] = 1
        encoder = model.transformer.encoder
        for attention in (encoder.layers[0].self_attn, model.transformer.decoder.layers[0].multihead_attn):
            query, key, _ = attention.in_proj_weight.chunk(3)
            query.zero_()
            key.zero_()
            attention.in_proj_bias.zero_()
            attention.in_proj_bias[: len(query)] = 10.0
            key[:, 0] = 10.0
    # The encoder leaves the cells as they came in: the decoder shall see brightness too.
    encoder.layers[0].forward = lambda x, position, mask: (encoder.layers[0].self_attn(x, x, x, mask), x)[1]


@pytest.mark.parametrize("kind", SEEKING)
@pytest.mark.parametrize(
    ("size", "centre"), [((300, 200), (50, 150)), ((200, 330), (170, 40)), ((257, 257), (200, 210))]
)
def test_maps_lie_where_the_picture_is(kind, size, centre):
    """Attention that goes to what is bright must be drawn on the bright square, within a cell."""
    config = replace(SEEKING[kind], position_encoding="none")
    model = build(config)
    strides = (*config.proposal_strides, *config.encoder_strides, config.output_stride)
    model.backbone = Brightness(model.backbone, strides)
    seek_brightness(model)
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    x, y = centre
    pixels[y - 12 : y + 12, x - 12 : x + 12] = 255
    seen = look(detector_of(model, config, 240, 400), Image.fromarray(pixels))
    cells = seen.captured.memory.shapes[0]
    corner = cell_at((size[0] - 1) / seen.extent[0], (size[1] - 1) / seen.extent[1], seen.captured.memory)
    assert corner == cells[0] * cells[1] - 1  # the last pixel lies in the last cell, which may reach beyond it
    for shown in (seen.encoder_maps([(5.0, 5.0)])[-1].mean(0)[0], seen.cross_maps([0])[0].mean(0)[0]):
        rows, columns = shown.shape
        cell = (seen.extent[0] / columns, seen.extent[1] / rows)
        found_x = float((shown.sum(0) * (torch.arange(columns) + 0.5)).sum()) * cell[0]
        found_y = float((shown.sum(1) * (torch.arange(rows) + 0.5)).sum()) * cell[1]
        assert shown.max() > 0.1  # even attention: under 0.01
        assert abs(found_x - x) <= cell[0]
        assert abs(found_y - y) <= cell[1]
