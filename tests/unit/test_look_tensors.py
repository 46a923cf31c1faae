"""The look tensors: a page computes from them the maps that `explain` shows."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from test_attention_maps import KINDS, build, detector_of

from opendetr.explanation.look import look
from opendetr.explanation.maps import at_cells, on_picture
from opendetr.serving.look_tensors import look_tensors

POINTS, QUERIES = [(3.0, 4.0), (50.0, 20.0)], [0, 7, 5]


@pytest.fixture(params=KINDS)
def seen(request):
    detector = detector_of(build(KINDS[request.param]), KINDS[request.param], 64, 128)
    noise = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    return look(detector, Image.fromarray(noise))


@pytest.fixture
def tensors(seen):
    return look_tensors(seen.output, seen.captured)


def test_they_are_plain(seen, tensors):
    layers, _, queries, _ = seen.output.logits.shape
    cells, encoder_layers = sum(h * w for h, w in seen.memory.shapes), len(seen.captured.encoder)
    assert all(t.dtype == torch.float32 and t.is_contiguous() and not t.requires_grad for t in tensors.values())
    heads, wide = tensors["cross_query"].shape[1], tensors["cross_query"].shape[-1]
    assert heads * wide == seen.captured.decoder_cross[0].query.shape[-1]
    assert tensors["cross_query"].shape == (layers, heads, queries, wide)
    assert tensors["cross_key"].shape == (layers, heads, cells, wide)
    for name in ("encoder_query", "encoder_key"):
        assert tensors[name].shape == (encoder_layers, heads, cells, wide)
    assert tensors["rollout"].shape == (queries, cells)
    has_boxes = seen.starts_cxcywh is not None
    assert ("starts_cxcywh" in tensors) == has_boxes == ("focus" in tensors)  # of these models
    torch.testing.assert_close(tensors["logits"], seen.output.logits[:, 0], rtol=0, atol=0)
    torch.testing.assert_close(tensors["boxes_cxcywh"], seen.output.boxes_cxcywh[:, 0], rtol=0, atol=0)
    if has_boxes:
        torch.testing.assert_close(tensors["starts_cxcywh"], seen.starts_cxcywh, rtol=0, atol=0)


def test_encoder_rows_and_columns_are_those_of_explain(seen, tensors):
    weights = (tensors["encoder_query"] @ tensors["encoder_key"].transpose(-1, -2)).softmax(-1)
    cells = seen.cells_at(POINTS)
    rows = on_picture(weights[:, :, cells], seen.memory)
    torch.testing.assert_close(rows, seen.encoder_maps(POINTS), rtol=1e-5, atol=1e-7)
    columns = at_cells(weights[..., cells].transpose(-1, -2), seen.memory)
    torch.testing.assert_close(columns, seen.encoder_readers(POINTS), rtol=1e-5, atol=1e-7)


def test_cross_attention_is_that_of_explain(seen, tensors):
    similarity = tensors["cross_query"] @ tensors["cross_key"].transpose(-1, -2)
    if "focus" in tensors:
        assert tensors["focus"].min() < -1  # it decides
        similarity = similarity + tensors["focus"][:, None]
    found = on_picture(similarity.softmax(-1)[:, :, QUERIES], seen.memory)
    torch.testing.assert_close(found, seen.cross_maps(QUERIES), rtol=1e-5, atol=1e-7)


def test_rollout_is_that_of_explain(seen, tensors):
    found = on_picture(tensors["rollout"][QUERIES], seen.memory)
    torch.testing.assert_close(found, seen.rollout_maps(QUERIES), rtol=1e-5, atol=1e-7)


def test_a_picture_with_fewer_cells_than_queries():
    """Its other queries are missing: nothing attends to them, and the rollout knows it."""
    config = replace(KINDS["fast"], num_queries=50)
    detector = detector_of(build(config), config, 32, 64)
    seen = look(detector, Image.new("RGB", (32, 32), "red"))
    assert seen.captured.queries.missing.any()
    found = look_tensors(seen.output, seen.captured)["rollout"]
    torch.testing.assert_close(on_picture(found, seen.memory), seen.rollout_maps(range(len(found))), rtol=1e-5, atol=0)
    assert torch.isfinite(found).all()
