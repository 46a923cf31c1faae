from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from opendetr.boxes import box_iou, cxcywh_to_xyxy
from opendetr.config import LossConfig, RunConfig
from opendetr.errors import UserError
from opendetr.loss.criterion import Criterion
from opendetr.model.build import build_model
from opendetr.model.denoising import blocked_attention, make_denoising, with_denoising
from opendetr.model.pyramid import PyramidEncoder
from opendetr.model.selection import Precedence
from opendetr.model.tokens import flatten
from opendetr.recipes.presets import PRESETS
from opendetr.structures import Denoising, Targets

CLASSES, QUERIES = 3, 12
LOSS = LossConfig(proposal_repeats=4, denoising_queries=40)
FAST = replace(
    PRESETS["detr-tiny"], query_source="selected", scoring="focal", output_stride=32, encoder_strides=(16,),
    proposal_strides=(8,), position_encoding="cell", num_queries=QUERIES, dropout=0.0, precedence=True, focus=True,
)  # fmt: skip
EXACT = 1e-5  # float32; what is compared differs by a hundred times as much where it should differ


@pytest.fixture(scope="module")
def model():
    """A model of the fast recipe's kind, its weights far from their initial values."""
    torch.manual_seed(0)
    model = build_model(FAST, LOSS, CLASSES)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("backbone"):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def targets(random_targets) -> Targets:
    return random_targets(5, 0, 2, classes=CLASSES)


def test_denoising_queries_change_nothing_in_what_the_others_say(model, images, targets):
    model.train()
    torch.manual_seed(3)
    with torch.no_grad():
        alone = model(images)
        accompanied = model(images, None, make_denoising(targets, CLASSES, 40))
    model.eval()
    assert alone.denoising is None
    assert accompanied.denoising.logits.shape[2] == 40
    assert accompanied.logits.shape == alone.logits.shape
    torch.testing.assert_close(accompanied.logits, alone.logits, rtol=0, atol=EXACT)
    torch.testing.assert_close(accompanied.boxes_cxcywh, alone.boxes_cxcywh, rtol=0, atol=EXACT)


def test_denoising_queries_see_their_own_group_only(model, images, targets):
    denoising = make_denoising(targets, CLASSES, 40)
    first = (denoising.groups == 0)[..., None]
    moved = denoising._replace(boxes_cxcywh=torch.where(first, 1 - denoising.boxes_cxcywh, denoising.boxes_cxcywh))
    with torch.no_grad():
        before, after = (model(images, None, d).denoising.boxes_cxcywh for d in (denoising, moved))
    change = (before - after).abs().amax((0, 3))
    used = denoising.groups >= 0
    assert change[used & ~first[..., 0]].max() < EXACT
    assert change[first[..., 0]].min() > 100 * EXACT


def test_who_is_blocked():
    groups = torch.tensor([[0, 0, 1, -1]])
    blocked = blocked_attention(2, groups)[0]
    seen = [[int(b) for b in row] for row in ~blocked]
    assert seen == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 0],
    ]


def test_every_group_holds_every_object_twice(targets):
    torch.manual_seed(0)
    denoising = make_denoising(targets, CLASSES, 40)
    for image, count in enumerate(targets.counts.tolist()):
        groups = denoising.groups[image]
        assert int(groups.max()) + 1 == (40 // (2 * count) if count else 0)
        for group in range(int(groups.max()) + 1):
            of_group = groups == group
            for positive in (True, False):
                origins = denoising.origins[image, of_group & (denoising.positive[image] == positive)]
                assert sorted(origins.tolist()) == list(range(count))
    assert not denoising.positive[denoising.groups < 0].any()


def test_positive_noise_is_small_and_negative_noise_is_large(random_targets):
    torch.manual_seed(0)
    targets = random_targets(40, classes=CLASSES)
    denoising = make_denoising(targets, CLASSES, 2000)  # 5 groups of 20
    origins = denoising.origins[..., None].expand(-1, -1, 4)
    true = targets.boxes_cxcywh.gather(1, origins)
    iou = box_iou(cxcywh_to_xyxy(denoising.boxes_cxcywh), cxcywh_to_xyxy(true))
    used = denoising.groups >= 0
    assert iou[denoising.positive].min() > 0.4  # 0.2 of each side and of each size at most
    assert iou[denoising.positive].mean() > iou[used & ~denoising.positive].mean() + 0.2
    right = (denoising.labels == targets.labels.gather(1, denoising.origins))[used].float().mean()
    assert 0.8 < right < 0.93  # a fifth of the labels is drawn anew, a third of those comes out right


def test_a_crowded_picture_gets_one_group_at_least(random_targets):
    denoising = make_denoising(random_targets(30, 1, classes=CLASSES), CLASSES, 20)
    assert denoising.labels.shape == (2, 60)
    assert denoising.groups[0].max() == 0
    assert denoising.groups[1].max() == 29


def test_pictures_without_objects_have_no_denoising_queries(random_targets):
    denoising = make_denoising(random_targets(0, 0), CLASSES, 20)
    assert (denoising.groups == -1).all()


# --- selection ---


def test_the_queries_are_the_most_promising_cells(model, images):
    with torch.no_grad():
        memory = model.transformer.encode(tokens_of(model, images, None))
        queries = model.query_embed(memory)
    scores = queries.proposals.logits[0].amax(-1)
    assert queries.content.shape == (3, QUERIES, 32)
    best = scores.topk(QUERIES).indices
    boxes = queries.proposals.boxes_cxcywh[0].gather(1, best[..., None].expand(-1, -1, 4))
    assert torch.equal(queries.reference_boxes, boxes)
    assert scores.shape[1] == 8 * 12 + 4 * 6 + 2 * 3  # strides 8, 16 and 32


def test_a_picture_with_few_cells_has_queries_that_say_nothing():
    torch.manual_seed(0)
    model = build_model(replace(FAST, num_queries=100), LOSS, CLASSES).eval()
    with torch.no_grad():
        output = model(torch.randn(1, 3, 32, 64))
    cells = 4 * 8 + 2 * 4 + 1 * 2
    assert output.logits.shape[2] == 100
    scores = model.scoring.probabilities(output.logits).amax(-1)
    assert (scores[:, :, :cells] > 1e-6).all()
    assert (scores[:, :, cells:] < 1e-30).all()
    assert not model.scoring.finds_something(output.logits)[:, :, cells:].any()


def test_the_first_boxes_are_the_anchors():
    torch.manual_seed(0)
    model = build_model(FAST, LOSS, CLASSES).eval()
    with torch.no_grad():
        proposals = model(torch.randn(1, 3, 64, 96)).proposals.boxes_cxcywh[0, 0]
    stride8 = proposals[: 8 * 12].view(8, 12, 4)
    assert stride8[0, 0].tolist() == pytest.approx([0.5 / 12, 0.5 / 8, 4 / 12, 4 / 8])
    assert stride8[7, 11].tolist() == pytest.approx([11.5 / 12, 7.5 / 8, 4 / 12, 4 / 8])


def test_padding_is_never_selected_attended_to_or_smoothed_in(model, images):
    """The picture of 64x64 pixels in a frame of 64x96: whatever the frame's cells hold, nothing changes."""
    mask = torch.zeros(3, 64, 96, dtype=torch.bool)
    mask[:, :, 64:] = True
    with torch.no_grad():
        tokens = tokens_of(model, images, mask)
        noise = torch.randn(tokens.content.shape, generator=torch.Generator().manual_seed(2)) * 30
        scrambled = tokens._replace(content=torch.where(tokens.padding_mask[..., None], noise, tokens.content))
        answers = [answer(model, t) for t in (tokens, scrambled)]
        unmasked = [answer(model, t._replace(padding_mask=None)) for t in (tokens, scrambled)]
        promise = model.query_embed(model.transformer.encode(tokens)).proposals.logits[0].amax(-1)
        selected, _ = model.query_embed.most_promising(promise, tokens.padding_mask)
    for before, after in zip(*answers):
        torch.testing.assert_close(after, before, rtol=0, atol=EXACT)
    assert any((after - before).abs().max() > 100 * EXACT for before, after in zip(*unmasked))
    assert not tokens.padding_mask.gather(1, selected).any()


def tokens_of(model, images, mask):
    return flatten(model.input_proj(model.backbone(images, mask)), model.position_encoding)


def answer(model, tokens):
    memory = model.transformer.encode(tokens)
    queries = model.query_embed(memory)
    hidden, boxes = model.transformer.decode(queries, memory, model.bbox_embed)
    return hidden, queries.reference_boxes, boxes


def test_a_padded_picture_has_the_cells_it_has_alone(model):
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, 64, 96, dtype=torch.bool)
    mask[:, :, 64:] = True
    with torch.no_grad():
        alone, padded = tokens_of(model, image, None), tokens_of(model, F.pad(image, (0, 32)), mask)
    assert torch.equal(padded.cells[:, ~padded.padding_mask[0]], alone.cells)


def test_no_answer_depends_on_the_other_pictures(model, images):
    with torch.no_grad():
        together = model(images)
        for image in range(3):
            alone = model(images[image : image + 1])
            torch.testing.assert_close(alone.logits[:, 0], together.logits[:, image], rtol=0, atol=EXACT)
            torch.testing.assert_close(alone.boxes_cxcywh[:, 0], together.boxes_cxcywh[:, image], rtol=0, atol=EXACT)


def test_maps_that_only_propose_are_not_read_by_the_decoder(model, images):
    memory = model.transformer.encode(tokens_of(model, images, None))
    assert isinstance(model.transformer.encoder, PyramidEncoder)
    assert memory.without_finest(1).content.shape[1] == 4 * 6 + 2 * 3
    assert torch.equal(memory.without_finest(1).cells, memory.cells[:, 8 * 12 :])


def test_gradients_reach_every_trainable_weight(model, images, targets):
    denoising: Denoising = make_denoising(targets, CLASSES, 40)
    output = model(images, None, denoising)
    parts = [output, output.proposals, output.denoising]
    sum(part.logits.square().sum() + part.boxes_cxcywh.square().sum() for part in parts).backward()
    without = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    model.zero_grad()
    assert not without


@pytest.mark.parametrize("denoises", [False, True])
def test_a_padded_picture_answers_as_alone_whatever_is_beside_it(targets, denoises):
    """From equal tokens: 21 cells of its own for 100 queries, alone and among the padding of a larger picture."""
    torch.manual_seed(0)
    model = build_model(replace(FAST, num_queries=100, precedence=True), LOSS, CLASSES).eval()
    mask = torch.zeros(1, 64, 96, dtype=torch.bool)
    mask[:, 32:], mask[:, :, 32:] = True, True
    with torch.no_grad():
        memory = model.transformer.encode(tokens_of(model, torch.randn(1, 3, 64, 96), mask))
        own = ~memory.padding_mask[0]
        alone = memory._replace(
            content=memory.content[:, own], padding_mask=None, cells=memory.cells[:, own],
            position=memory.position[:, own], shapes=((4, 4), (2, 2), (1, 1)),
        )  # fmt: skip
        found = []
        for tokens in (memory, alone):
            queries = model.query_embed(tokens)
            if denoises:
                noised = make_denoising(Targets(*(part[:1] for part in targets)), CLASSES, 12)
                queries = with_denoising(queries, noised, model.query_embed.label_embed)
                queries = queries._replace(reference_boxes=queries.reference_boxes.clamp(0.1, 0.9))
            hidden, boxes = model.transformer.decode(queries, tokens, model.bbox_embed)
            assert queries.missing.sum() == 100 - 21
            found.append((hidden[:, :, :21], boxes[:, :, :21]))
    for padded, single in zip(*found):
        torch.testing.assert_close(padded, single, rtol=0, atol=EXACT)


def test_the_proposal_loss_reaches_neither_the_answers_nor_what_gives_them(model, images, targets):
    """It is about the cells alone: decoder and heads get the same gradients with it and without it."""

    def gradients(repeats: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        output = model(images)
        criterion = Criterion(model.scoring, QUERIES, proposal_repeats=repeats)
        criterion(output, targets, None, criterion.normalisers(targets, None)).total.backward()
        found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
        model.zero_grad()
        return output.logits.detach(), found

    (logits, without), (same, with_it) = gradients(0), gradients(4)
    assert torch.equal(logits, same)
    answering = ("transformer.decoder", "class_embed", "bbox_embed", "query_embed.content")
    for name, gradient in with_it.items():
        if name.startswith(answering):
            assert torch.equal(gradient, without[name]), name
    assert with_it["query_embed.class_embed.weight"].any()
    assert "query_embed.class_embed.weight" not in without


def test_in_bf16_everything_learns_and_padding_proposes_nothing(model, images, targets):
    """Under autocast, with padding and denoising: boxes in float32, answers near, gradients everywhere and finite."""
    mask = torch.zeros(3, 64, 96, dtype=torch.bool)
    mask[1, 48:], mask[2, :, 64:] = True, True
    torch.manual_seed(0)
    denoising = make_denoising(targets, CLASSES, 40)
    expected = model(images, mask, denoising)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(images, mask, denoising)
    assert found.boxes_cxcywh.dtype == torch.float32
    assert torch.equal(found.proposals.logits < -1000, expected.proposals.logits < -1000)  # padding proposes nothing
    assert (found.proposals.logits < -1000).any()
    for part in ("proposals", "denoising"):  # bf16 keeps 8 bits; a few layers of it are off by some hundredths
        close, exact = getattr(found, part), getattr(expected, part)
        assert (close.boxes_cxcywh - exact.boxes_cxcywh).abs().mean() < 0.02
    parts = [found, found.proposals, found.denoising]
    sum(part.logits.float().square().mean() + part.boxes_cxcywh.square().mean() for part in parts).backward()
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert [name for name, p in learning.items() if p.grad is None or not torch.isfinite(p.grad).all()] == []
    model.zero_grad()


def test_precedence_is_the_overlap_with_those_before():
    """Same input, same answer: so a query's answer is compared with that of one whose overlap is known."""
    precedence = Precedence(8)
    torch.nn.init.normal_(precedence.mlp[-1].weight)
    box, half, elsewhere = [0.5, 0.5, 0.2, 0.2], [0.5, 0.45, 0.2, 0.1], [0.1, 0.1, 0.1, 0.1]
    with torch.no_grad():
        told = precedence(torch.tensor([[box, elsewhere, half, box, half, box]]), num_queries=4)[0]
        uncovered, by_half, wholly = precedence.mlp(torch.tensor([[0.0], [0.5], [1.0]]))
    expected = [uncovered, uncovered, by_half, wholly, uncovered, uncovered]  # the last two are not ranked
    torch.testing.assert_close(told, torch.stack(expected))


def test_a_new_model_makes_nothing_of_precedence(images):
    torch.manual_seed(5)
    told = build_model(FAST, LOSS, CLASSES).eval()
    untold = build_model(replace(FAST, precedence=False), LOSS, CLASSES).eval()
    untold.load_state_dict({n: v for n, v in told.state_dict().items() if not n.startswith("transformer.decoder.prec")})
    with torch.no_grad():
        assert torch.equal(told(images).logits, untold(images).logits)


def test_precedence_needs_an_order_and_focus_a_box():
    with pytest.raises(UserError, match=r"model\.precedence must be false with learned queries"):
        replace(FAST, query_source="learned", focus=False)
    with pytest.raises(UserError, match=r"model\.focus must be false with learned queries"):
        replace(FAST, query_source="learned", precedence=False)


def test_without_auxiliary_losses_only_the_last_layer_is_supervised(model, images, targets):
    with torch.no_grad():
        everything = model(images, None, make_denoising(targets, CLASSES, 40))
    last = everything.last_layer()
    assert len(last.logits) == len(last.boxes_cxcywh) == len(last.denoising.logits) == 1
    assert last.proposals is everything.proposals
    assert torch.equal(last.logits[0], everything.logits[-1])
    assert torch.equal(last.denoising.boxes_cxcywh[0], everything.denoising.boxes_cxcywh[-1])


def test_selected_queries_that_nobody_teaches_are_refused():
    with pytest.raises(UserError, match=r"proposal_repeats = 0 would never train"):
        RunConfig(model=FAST, loss=LossConfig())
