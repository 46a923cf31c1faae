"""The page judges as Python does: answers, assignments, reasons and false alarms, sentence by sentence."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from node import Node, require_node
from scipy.optimize import linear_sum_assignment

from opendetr.boxes import box_iou, cxcywh_to_xyxy, generalized_box_iou, xyxy_to_cxcywh
from opendetr.detections import reaches
from opendetr.explanation.false_alarms import explain_detections
from opendetr.explanation.matching import explain_matching
from opendetr.labels import LabelMap
from opendetr.loss.matcher import CostWeights
from opendetr.model.postprocess import postprocess
from opendetr.scoring import FocalScoring, SoftmaxScoring
from opendetr.structures import Batch, DetrOutput, Target
from opendetr.wording import one_line

SCORINGS = {"focal": FocalScoring(), "softmax": SoftmaxScoring()}
LABELS = LabelMap((3, 7, None, "x"), ("cat", "do\ng <b>", "N/A", "tortoise \u202e"))
COSTS = CostWeights(2.0, 5.0, 2.0)
CLOSE = 2e-6  # of costs and scores: exponentials differ by a last digit of single precision


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    require_node()
    return Node(tmp_path_factory.mktemp("page") / "modules")


def model_json(scoring, thresholds):
    classes = [
        {"label": label, "name": name, "category_id": category_id}
        for label, (name, category_id) in enumerate(zip(LABELS.names, LABELS.category_ids))
    ]
    costs = {"class": COSTS.class_, "l1": COSTS.l1, "giou": COSTS.giou}
    return {"classes": classes, "scoring": scoring, "costs": costs, "thresholds": thresholds}


def scene(seed, scoring, objects, queries=12, layers=3):
    """Made-up answers, many of them about the objects: rights, doubles, wrong classes, low scores, and equal ones."""
    generator = torch.Generator().manual_seed(seed)
    width, height = 333, 250
    corners = torch.rand(objects, 2, generator=generator) * 0.6
    truth = torch.cat([corners, corners + 0.1 + torch.rand(objects, 2, generator=generator) * 0.3], 1)
    truth = truth * torch.tensor([width, height, width, height])
    labels = torch.randint(4, (objects,), generator=generator)
    if objects > 3:
        truth[1], labels[1] = truth[0], labels[0]  # the same object twice
    as_fractions = xyxy_to_cxcywh(truth / torch.tensor([width, height, width, height], dtype=torch.float32))
    boxes = torch.rand(layers, queries, 4, generator=generator) * 0.4 + 0.2
    logits = torch.randn(layers, queries, 4 + (scoring == "softmax"), generator=generator) * 1.5 - 1
    for query in range(queries if objects else 0):
        about = int(torch.randint(objects, (), generator=generator))
        if query % 4 != 3:
            noise = torch.randn(layers, 4, generator=generator) * 0.02
            boxes[:, query] = as_fractions[about] + noise
            logits[:, query, labels[about]] += torch.rand(layers, generator=generator) * 5
        if query % 4 == 2:
            logits[-1, query, :4] -= 5  # it is silent at last
    if scoring == "softmax" and seed % 2:  # which of equal pairs of query and class are the best Q is not defined
        logits = (logits * 4).round() / 4  # equal scores
    if objects or scoring == "softmax":
        boxes[:, 1], logits[:, 1] = boxes[:, 0], logits[:, 0]  # the same answer twice
    return DetrOutput(logits[:, None], boxes[:, None]), truth, labels, (width, height)


def python_says(output, truth, labels, size, scoring, threshold):
    whole = torch.tensor([*size, *size], dtype=torch.float32)
    target = Target(labels, xyxy_to_cxcywh(truth / whole))
    names = tuple(map(one_line, LABELS.names))
    matches = explain_matching(output, target, SCORINGS[scoring], COSTS, names, threshold)
    return matches, explain_detections(output, target, matches, SCORINGS[scoring], LABELS, threshold)


def as_given(output, truth, labels, size, scoring, threshold):
    look = {
        "width": size[0], "height": size[1],
        "tensors": {
            "logits": {"shape": list(output.logits[:, 0].shape), "data": output.logits.flatten().tolist()},
            "boxes_cxcywh": {
                "shape": list(output.boxes_cxcywh[:, 0].shape), "data": output.boxes_cxcywh.flatten().tolist()
            },
        },
    }  # fmt: skip
    objects = [{"label": label, "box_xyxy": box} for label, box in zip(labels.tolist(), truth.tolist())]
    return {"look": look, "truth": objects, "model": model_json(scoring, threshold), "threshold": threshold}


MATCH = """
import { wordsOf } from "./language.js";
import { explainMatching } from "./model/matching.js";
---
const word = wordsOf("en");
answer = given.map(({ look, truth, model, threshold }) => {
  for (const tensor of Object.values(look.tensors)) tensor.data = Float32Array.from(tensor.data);
  const { objects, false_alarms } = explainMatching(look, truth, model, threshold);
  const inWords = (one) => ({ ...one, sentence: word(`verdict.${one.verdict.case}`, one.verdict.facts) });
  return { objects: objects.map(inWords), false_alarms: false_alarms.map(inWords) };
});
"""


def require_equal(found, matches, detections, truth):
    for one, match, box in zip(found["objects"], matches, truth.tolist(), strict=True):
        assert one["verdict"] == asdict(match.verdict)
        assert one["sentence"] == match.sentence
        assert one["reason"] == (None if match.reason is None else match.reason.value)
        assert (one["name"], one["found_by"], one["box_xyxy"]) == (match.name, match.found_by, box)
        candidates = [(one["taken_by"], match.taken_by), *zip(one["runners_up"], match.runners_up, strict=True)]
        for said, expected in candidates:
            if said is None or expected is None:
                assert said is expected
                continue
            assert (said["query"], said["answer"]) == (expected.query, expected.answer)
            for name in ("class_cost", "l1_cost", "giou_cost", "cost", "iou", "score"):
                assert said[name] == pytest.approx(getattr(expected, name), abs=10 * CLOSE), name
    # The best pairs of query and class come in no fixed order where scores are equal.
    alarms = sorted((one for one in detections if one.alarm), key=lambda one: (-one.score, one.query, one.label))
    for said, expected in zip(found["false_alarms"], alarms, strict=True):
        assert (said["query"], said["name"], said["kind"]) == (expected.query, expected.name, expected.alarm.value)
        assert said["verdict"] == asdict(expected.verdict)
        assert said["sentence"] == expected.sentence
        assert said["score"] == pytest.approx(expected.score, abs=CLOSE)


@pytest.mark.parametrize("scoring", SCORINGS)
def test_fifty_pictures_are_judged_alike(node, scoring):
    """Among them pictures without objects, with more objects than queries, with ties, and one threshold per class."""
    cases = []
    for seed in range(50):
        objects, queries = [(4, 12), (0, 12), (7, 4), (1, 9), (12, 24)][seed % 5]
        threshold = [0.3, 0.1, [0.25, 0.5, 0.3125, 0.07], 0.5][seed % 4]
        cases.append((*scene(seed, scoring, objects, queries), scoring, threshold))
    reasons, kinds = set(), set()
    for case, found in zip(cases, node(MATCH, [as_given(*case) for case in cases]), strict=True):
        matches, detections = python_says(*case)
        require_equal(found, matches, detections, case[1])
        reasons |= {match.reason for match in matches}
        kinds |= {detection.alarm for detection in detections}
    assert len(reasons) == 7, reasons  # found, and each reason
    assert len(kinds) == 6, kinds


ANSWERS = """
import { detections } from "./model/postprocess.js";
---
answer = given.map(({ logits, boxes, model, size, threshold }) =>
  detections(Float32Array.from(logits), Float32Array.from(boxes), model, size, threshold));
"""


@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize("threshold", [0.05, 0.35, [0.1, 0.4, 0.0, 0.3]])
def test_detections_are_those_of_python(node, scoring, threshold):
    cases = [scene(seed, scoring, 6, 20) for seed in range(0, 20, 2)]
    given = [
        {
            "logits": output.logits[-1].flatten().tolist(), "boxes": output.boxes_cxcywh[-1].flatten().tolist(),
            "model": model_json(scoring, threshold), "size": {"width": size[0], "height": size[1]},
            "threshold": threshold,
        }
        for output, _, _, size in cases
    ]  # fmt: skip
    shown = 0
    for (output, _, _, (width, height)), found in zip(cases, node(ANSWERS, given), strict=True):
        batch = Batch(torch.zeros(1, 3, 8, 8), None, torch.tensor([[height, width]]), (0,))
        expected = postprocess(output, batch, SCORINGS[scoring], LABELS)[0].above(threshold)
        expected = expected[expected.scores.argsort(descending=True, stable=True)]
        shown += len(expected)
        assert [one["label"] for one in found] == expected.labels.tolist()
        assert [(one["name"], one["category_id"]) for one in found] == list(zip(expected.names, expected.category_ids))
        boxes = torch.tensor([one["box_xyxy"] for one in found]).view(-1, 4)
        torch.testing.assert_close(boxes, expected.boxes_xyxy, rtol=0, atol=0)
        scores = torch.tensor([one["score"] for one in found])
        torch.testing.assert_close(scores, expected.scores, rtol=0, atol=CLOSE)
    assert shown > 20


def test_a_score_at_the_threshold_reaches_it_as_in_python(node):
    scores = torch.tensor([0.1, 0.3, 0.35, 0.5, 0.7]).repeat(2)
    scores = torch.cat([scores, torch.nextafter(scores, torch.tensor(0.0)), torch.nextafter(scores, torch.tensor(1.0))])
    thresholds = [0.1, 0.3, 0.35, [0.1, 0.3, 0.35, 0.7], float(scores[12])]
    script = """
import { reaches } from "./model/postprocess.js";
---
answer = given.thresholds.map((threshold) => given.scores.map((score, at) => reaches(score, at % 4, threshold)));
"""
    found = node(script, {"scores": scores.tolist(), "thresholds": thresholds})
    for threshold, row in zip(thresholds, found, strict=True):
        assert row == reaches(scores, torch.arange(len(scores)) % 4, threshold).tolist()


def test_overlaps_are_the_same_numbers(node):
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(60, 4, generator=generator)
    boxes[:4] = torch.tensor([[0.5, 0.5, 0, 0], [0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2], [float("nan"), 1e30, 1, 1]])
    script = """
import { boxIou, cxcywhToXyxy, generalizedBoxIou } from "./model/boxes.js";
---
const corners = given.map((box) => cxcywhToXyxy(box.map((value) => value ?? NaN)));
answer = corners.map((one) => corners.map((other) => [boxIou(one, other), generalizedBoxIou(one, other)]));
"""
    plain = [[None if value != value else value for value in box] for box in boxes.tolist()]
    found = torch.tensor(node(script, plain))
    corners = cxcywh_to_xyxy(boxes)
    pairs = corners[:, None], corners[None]
    expected = torch.stack([box_iou(*pairs), generalized_box_iou(*pairs)], -1)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_assignments_are_those_of_scipy(node):
    """Also of costs with many ties, of more rows than columns, and of neither."""
    rng = np.random.default_rng(0)
    shapes = [(0, 5), (1, 1), (3, 3), (4, 9), (9, 4), (12, 30), (30, 12), (20, 20)]
    costs = [make(shape) for shape in shapes for _ in range(6) for make in (
        lambda shape: rng.normal(size=shape), lambda shape: rng.integers(0, 4, shape).astype(float), np.zeros,
    )]  # fmt: skip
    script = 'import { assign } from "./model/hungarian.js";\n---\nanswer = given.map(assign);'
    for cost, found in zip(costs, node(script, [cost.tolist() for cost in costs]), strict=True):
        rows, columns = linear_sum_assignment(cost)
        pairs = [(row, column) for row, column in enumerate(found) if column >= 0]
        assert pairs == list(zip(rows.tolist(), columns.tolist()))


FORMAT = """
import { fixed, general, oneLine } from "./model/wording.js";
---
answer = {
  fixed: given.numbers.map((number) => fixed(number, 2)),
  general: given.numbers.map((number) => general(number, 3)),
  names: given.names.map(oneLine),
};
"""


def test_numbers_and_names_are_written_as_python_writes_them(node):
    halves = [0.125, 0.375, 0.625, 0.875, 0.005, 0.015, 0.3125, 0.0625, 1.5, 2.5, 12.5, 0.00012345, 9.996, 99.95, 1e-5]
    numbers = [0.0, -0.001, 1.0, 0.994999, 0.995, 100.0, 1234567.0, 999.5, 1e-9, *halves, *(-half for half in halves)]
    numbers += np.random.default_rng(0).random(300).astype(np.float32).astype(float).tolist()
    names = ["a\x00b\n\t\r\x7f\x9b", "\u2028\u202e\u2066x", "naïve 数字 \U0001f600", "<script>"]
    found = node(FORMAT, {"numbers": numbers, "names": names})
    assert found["fixed"] == [f"{number:.2f}" for number in numbers]
    assert found["general"] == [f"{number:.3g}" for number in numbers]
    assert found["names"] == [one_line(name) for name in names]
