"""The page computes attention from queries and keys, and shows it over the picture, as Python does."""

import json

import pytest
import torch
from node import Node, require_node
from safetensors.torch import save

from opendetr.explanation.maps import at_cells, cell_at, on_picture
from opendetr.model.tokens import Tokens, cell_boxes

SHAPES = {"one map": ((7, 9),), "halves": ((8, 12), (4, 6)), "odd sides": ((9, 13), (5, 6), (2, 3))}
LAYERS, HEADS, QUERIES, WIDTH = 2, 3, 4, 8
SIZE, EXTENT = (100, 80), (104.0, 84.5)


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    require_node()
    return Node(tmp_path_factory.mktemp("page") / "modules")


def made_up_look(shapes):
    generator = torch.Generator().manual_seed(0)
    cells = sum(height * width for height, width in shapes)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    return {
        "encoder_query": draw(LAYERS, HEADS, cells, WIDTH), "encoder_key": draw(LAYERS, HEADS, cells, WIDTH),
        "cross_query": draw(LAYERS, HEADS, QUERIES, WIDTH), "cross_key": draw(LAYERS, HEADS, cells, WIDTH),
        "focus": -draw(LAYERS, QUERIES, cells).abs() * 5, "rollout": draw(QUERIES, cells).softmax(-1),
    }  # fmt: skip


def memory_of(shapes):
    boxes = [cell_boxes(torch.zeros(1, *shape, dtype=torch.bool)).flatten(1, 2) for shape in shapes]
    cells = torch.cat(boxes, 1)
    return Tokens(torch.zeros(1, cells.shape[1], 1), None, None, cells, shapes)


SHOW = """
import * as attention from "./model/attention.js";
import { readLook } from "./model/tensors.js";
---
const look = readLook(Uint8Array.from(given.file).buffer);
const plain = (map) => ({ ...map, data: [...map.data] });
answer = {
  look: { width: look.width, height: look.height, extent: look.extent, names: Object.keys(look.tensors).sort() },
  cells: given.points.map(([x, y]) => attention.cellAt(look, x, y)),
  rows: attention.encoderRow(look, 1, 5).map((row) => plain(attention.onPicture(row, look.memory_shapes))),
  columns: attention.encoderColumn(look, 1, 5).map((row) => plain(attention.atCells(row, look.memory_shapes))),
  cross: attention.crossRow(look, 1, 2).map((row) => [...row]),
  content: attention.crossRow(look, 1, 2, { focus: false }).map((row) => [...row]),
  mean: [...attention.meanOf(attention.crossRow(look, 1, 2))],
  rollout: plain(attention.rolloutMap(look, 3)),
};
"""


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_what_is_shown_is_what_python_shows(node, shapes):
    tensors, memory = made_up_look(shapes), memory_of(shapes)
    told = {"width": SIZE[0], "height": SIZE[1], "extent": EXTENT, "memory_shapes": shapes}
    metadata = {name: json.dumps(value) for name, value in told.items()}
    points = [(0.0, 0.0), (99.9, 79.9), (50.2, 31.4), (103.9, 84.4), (13.7, 66.0)]
    found = node(SHOW, {"file": list(save(tensors, metadata)), "points": points})
    assert found["look"] == {"width": 100, "height": 80, "extent": list(EXTENT), "names": sorted(tensors)}
    assert found["cells"] == [cell_at(x / EXTENT[0], y / EXTENT[1], memory) for x, y in points]

    def same(maps, expected):
        sides = {(one["height"], one["width"]) for one in maps}
        assert sides == {tuple(expected.shape[1:])}
        data = torch.tensor([one["data"] for one in maps]).view(expected.shape)
        torch.testing.assert_close(data, expected, rtol=1e-4, atol=1e-7)

    weights = (tensors["encoder_query"] @ tensors["encoder_key"].transpose(-1, -2)).softmax(-1)[1]
    same(found["rows"], on_picture(weights[:, 5], memory))
    same(found["columns"], at_cells(weights[:, :, 5], memory))
    similarity = (tensors["cross_query"] @ tensors["cross_key"].transpose(-1, -2))[1, :, 2]
    for name, expected in (
        ("content", similarity.softmax(-1)), ("cross", (similarity + tensors["focus"][1, 2]).softmax(-1)),
    ):  # fmt: skip
        torch.testing.assert_close(torch.tensor(found[name]), expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(torch.tensor(found["mean"]), torch.tensor(found["cross"]).mean(0))
    same([found["rollout"]], on_picture(tensors["rollout"][3:4], memory))


@pytest.mark.parametrize("damage", ["short", "header", "tensor", "type"])
def test_a_damaged_answer_is_one_sentence(node, damage):
    whole = save({"logits": torch.zeros(3, dtype=torch.float64 if damage == "type" else torch.float32)}, {})
    cut = {"short": whole[:5], "header": whole[:20], "tensor": whole[:-4], "type": whole}[damage]
    script = """
import { readSafetensors } from "./model/tensors.js";
---
try { readSafetensors(Uint8Array.from(given).buffer); } catch (error) { answer = error.message; }
"""
    assert node(script, list(cut)).startswith("The answer is no safetensors file of float32 tensors: ")
