"""What is said of detections beyond the COCO numbers, each against numbers computed another way."""

import json

import numpy as np
import pytest
from hotcoco import COCOeval

from opendetr.evaluation.analysis import Analysis, analyse, hardest_pictures
from opendetr.evaluation.calibration import LOWEST, calibrate, expected_error, reliability, tempered
from opendetr.evaluation.coco import FoundArrays, TruthArrays, evaluate_arrays, evaluator_of
from opendetr.evaluation.confusion import confusion_matrix
from opendetr.evaluation.judged import IOU_THRESHOLDS, bootstrap_intervals, judge, weighted_precision
from opendetr.evaluation.thresholds import GRID, best_threshold, f1_curve

EQUAL = 1e-12  # float64, and sums in another order


def random_case(seed, pictures=12, classes=3, crowds=0.1, invented=60, digits=None):
    """Objects and jittered, missed, invented, doubled detections; scores are right more often the higher they are."""
    rng = np.random.default_rng(seed)
    count = 6 * pictures
    of_object = rng.integers(1, pictures, count)  # the first picture is empty
    labels = rng.integers(0, classes, count)
    sides = np.exp(rng.uniform(np.log(8), np.log(150), (count, 2)))
    boxes = np.concatenate([rng.uniform(0, 200, (count, 2)), sides], axis=1)
    truth = TruthArrays(
        list(range(100, 100 + pictures))[::-1], list(range(1, classes + 1)), [f"class {n}" for n in range(classes)],
        of_object, labels, boxes, sides.prod(1), rng.random(count) < crowds,
    )  # fmt: skip
    chosen = rng.integers(0, count, int(1.3 * count))
    near = boxes[chosen] + rng.normal(0, 0.08, (len(chosen), 4)) * boxes[chosen][:, 2:].min(1, keepdims=True)
    wrong_class = rng.random(len(chosen)) < 0.2
    more = np.concatenate([rng.uniform(0, 200, (invented, 2)), rng.uniform(8, 150, (invented, 2))], axis=1)
    scores = np.concatenate([rng.beta(3, 2, len(chosen)), rng.beta(1, 4, invented)])
    found = FoundArrays(
        np.concatenate([of_object[chosen], rng.integers(0, pictures, invented)]),
        np.concatenate(
            [np.where(wrong_class, rng.integers(0, classes, len(chosen)), labels[chosen]),
             rng.integers(0, classes, invented)]
        ),
        np.concatenate([near, more]).clip(0.5), scores if digits is None else scores.round(digits),
    )  # fmt: skip
    return truth, found


def judged_of(truth, found):
    return judge(evaluator_of(truth, found), truth, found)


def drawn(truth, found, pictures):
    """A split of these pictures, which may be there several times, as copies with ids of their own."""
    objects = [
        (copy, one) for copy, picture in enumerate(pictures) for one in np.flatnonzero(truth.pictures == picture)
    ]
    answers = [
        (copy, one) for copy, picture in enumerate(pictures) for one in np.flatnonzero(found.pictures == picture)
    ]
    copies, kept = np.array(objects, dtype=int).reshape(-1, 2).T
    of_found, detections = np.array(answers, dtype=int).reshape(-1, 2).T
    return (
        TruthArrays(
            list(range(len(pictures))), truth.category_ids, truth.names, copies, truth.labels[kept],
            truth.boxes_xywh[kept], truth.areas[kept], truth.crowds[kept],
        ),
        FoundArrays(of_found, found.labels[detections], found.boxes_xywh[detections], found.scores[detections]),
    )  # fmt: skip


@pytest.mark.parametrize(
    "case",
    [{}, {"digits": 1}, {"pictures": 3, "classes": 2, "invented": 900}, {"crowds": 0.0}],
    ids=["plain", "equal scores", "more than 100 in a picture and class", "no crowds"],
)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_judged_gives_the_ap_of_the_evaluator(seed, case):
    truth, found = random_case(seed, **case)
    metrics, judged = evaluate_arrays(truth, found), judged_of(truth, found)
    precision = weighted_precision(judged, np.ones((1, len(truth.image_ids)), dtype=int))[0]
    assert np.nanmean(precision) == pytest.approx(metrics.summary["AP"], abs=EQUAL)
    assert np.nanmean(precision[IOU_THRESHOLDS.index(0.75)]) == pytest.approx(metrics.summary["AP75"], abs=EQUAL)
    of_classes = [values["AP50"] for values in metrics.per_class.values()]
    assert precision[0].tolist() == pytest.approx(of_classes, abs=EQUAL)
    assert judged.objects.sum() == (~truth.crowds).sum()
    assert (~judged.counts).any() == (case != {"crowds": 0.0})


def test_weights_are_copies_of_pictures():
    truth, found = random_case(4, pictures=6)
    judged, rng = judged_of(truth, found), np.random.default_rng(0)
    for _ in range(10):
        pictures = np.sort(rng.integers(0, 6, 6))
        weights = np.bincount(pictures, minlength=6)[None]
        expected = evaluate_arrays(*drawn(truth, found, pictures)).summary
        precision = weighted_precision(judged, weights)
        assert np.nanmean(precision) == pytest.approx(expected["AP"], abs=EQUAL)
        assert np.nanmean(precision[0, 0]) == pytest.approx(expected["AP50"], abs=EQUAL)


def test_the_interval_is_that_of_splits_drawn_one_by_one():
    truth, found = random_case(5, pictures=5)
    direct = {"AP": [], "AP50": []}
    for draw in np.random.default_rng(7).multinomial(5, [0.2] * 5, size=40):
        summary = evaluate_arrays(*drawn(truth, found, np.repeat(np.arange(5), draw))).summary
        for name in direct:
            direct[name].append(summary[name])
    intervals = bootstrap_intervals(judged_of(truth, found), resamples=40, seed=7)
    for name, values in direct.items():
        assert intervals[name] == pytest.approx(np.percentile(values, [2.5, 97.5]).tolist(), abs=EQUAL)
    assert intervals["AP"][0] < intervals["AP"][1]


def test_an_interval_holds_the_value_and_shrinks_with_more_pictures():
    widths = []
    for pictures in (10, 160):
        metrics = analyse(*random_case(1, pictures=pictures))
        low, high = metrics.analysis.intervals["AP"]
        assert low < metrics.summary["AP"] < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2  # a sixteenth of the variance


@pytest.mark.parametrize("digits", [None, 1])
def test_the_best_threshold_is_that_of_brute_force(digits):
    truth, found = random_case(2, digits=digits)
    judged = judged_of(truth, found)
    for label in (None, 0, 1, 2):
        scores, right = judged.at_iou_50(label)
        objects = int((judged.objects if label is None else judged.objects[:, label]).sum())

        def f1_at(threshold, scores=scores, right=right, objects=objects):
            kept = scores >= threshold
            precision, recall = right[kept].mean() if kept.any() else 0, right[kept].sum() / objects
            return 0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)

        best = best_threshold(scores, right, objects)
        assert best.f1 == pytest.approx(max(map(f1_at, scores)), abs=EQUAL)
        assert f1_at(best.threshold) == pytest.approx(best.f1, abs=EQUAL)
        assert 2 / (1 / best.precision + 1 / best.recall) == pytest.approx(best.f1, abs=EQUAL)
        assert f1_curve(scores, right, objects).tolist() == pytest.approx(list(map(f1_at, GRID)), abs=EQUAL)
        assert all(f1_at(best.threshold + step) == pytest.approx(best.f1) for step in (-1e-6, 1e-6))  # not on an edge


def test_without_a_right_detection_there_is_no_best_threshold():
    assert best_threshold(np.array([0.9, 0.5]), np.array([False, False]), 3) is None
    assert best_threshold(np.array([]), np.array([], dtype=bool), 0) is None
    assert best_threshold(np.array([0.8]), np.array([True]), 1).f1 == 1


def test_sums_of_the_confusion_matrix():
    truth, found = random_case(3)
    for threshold in (0.0, 0.4, 1.1):
        matrix = confusion_matrix(truth, found, threshold)
        objects = np.bincount(truth.labels[~truth.crowds], minlength=3)
        assert matrix[:-1].sum(1).tolist() == objects.tolist()  # every object is found as something, or missed
        kept = np.bincount(found.labels[found.scores >= threshold], minlength=3)
        assert (matrix[:, :-1].sum(0) <= kept).all()  # those on crowds are left out
        assert matrix[-1, -1] == 0
    assert matrix[:, :-1].sum() == 0


@pytest.mark.parametrize("seed", range(4))
def test_the_confusion_matrix_is_that_of_hotcoco_without_crowds(seed):
    truth, found = random_case(seed, crowds=0.0)
    evaluator: COCOeval = evaluator_of(truth, found)
    for threshold in (0.0, 0.3, 0.6):
        expected = evaluator.confusion_matrix(iou_thr=0.5, max_det=1000, min_score=threshold)["matrix"]
        matrix = confusion_matrix(truth, found, threshold)
        assert matrix.tolist() == expected.tolist()
        assert (
            matrix[:, :-1].sum(0).tolist() == np.bincount(found.labels[found.scores >= threshold], minlength=3).tolist()
        )


def test_confusions_by_hand():
    boxes = np.array([[0.0, 0, 10, 10], [50, 0, 10, 10], [100, 0, 40, 40]])
    truth = TruthArrays([1], [1, 2], ["a", "b"], np.zeros(3, int), np.array([0, 1, 1]), boxes, boxes[:, 2:].prod(1),
                        np.array([False, False, True]))  # fmt: skip
    found = FoundArrays(
        np.zeros(5, int), np.array([0, 1, 0, 1, 1]),
        np.array([[0.0, 0, 10, 10], [1, 0, 10, 10], [50, 1, 10, 10], [105, 5, 9, 9], [200, 0, 9, 9]]),
        np.array([0.9, 0.8, 0.7, 0.6, 0.5]),
    )  # fmt: skip
    # a found as a, b found as a; the second b on the first object and the last one find nothing; one lies in a crowd
    assert confusion_matrix(truth, found, 0.0).tolist() == [[1, 0, 0], [1, 0, 0], [0, 2, 0]]
    assert confusion_matrix(truth, found, 0.85).tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_calibration_by_hand():
    scores = np.array([0.95, 0.9, 0.85, 0.34, 0.32, 0.3, 0.01])
    right = np.array([True, True, False, True, False, False, False])
    found = calibrate(scores, right)
    # bins: 0.9 to 1 with 2, 0.8 to 0.9 with 1, 0.3 to 0.4 with 3; the last score is below LOWEST
    assert [(one.lower, one.detections) for one in found.bins] == [(0.3, 3), (0.8, 1), (0.9, 2)]
    assert found.detections == 6
    assert found.error == pytest.approx((3 * abs(0.32 - 1 / 3) + 1 * 0.85 + 2 * abs(0.925 - 1)) / 6, abs=EQUAL)
    assert found.bias == pytest.approx(scores[:6].mean() - 0.5, abs=EQUAL)
    empty = calibrate(scores[-1:], right[-1:])
    assert (empty.detections, empty.error, empty.temperature) == (0, None, None)
    assert calibrate(scores[:2], right[:2]).temperature is None  # all are right: the surer the better, without end


def test_the_error_is_that_of_hotcoco_over_all_scores():
    truth, found = random_case(6)
    scores, right = judged_of(truth, found).at_iou_50()
    expected = evaluator_of(truth, found).calibration(n_bins=10, iou_threshold=0.5)
    assert expected_error(reliability(scores, right)) == pytest.approx(expected["ece"], abs=EQUAL)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_temperature_mends_scores_that_one_has_spoilt(temperature):
    assert tempered(np.array([0.9]), 2.0) == pytest.approx(0.75, abs=EQUAL)  # the root of odds of 9 is 3
    rng = np.random.default_rng(0)
    honest = rng.uniform(0.2, 0.95, 20_000)
    right = rng.random(len(honest)) < honest
    found = calibrate(tempered(honest, 1 / temperature), right)
    assert found.temperature == pytest.approx(temperature, rel=0.06)  # 20,000 coins
    assert found.error_after < 0.02 < found.error
    assert (found.bias > 0) == (honest.mean() < tempered(honest, 1 / temperature).mean())
    assert tempered(honest, 1 / temperature).min() >= LOWEST


def test_the_hardest_pictures_are_those_with_the_most_mistakes():
    truth, found = random_case(8)
    judged, threshold = judged_of(truth, found), 0.5
    values = []
    for picture in range(len(truth.image_ids)):
        kept = (judged.pictures == picture) & (judged.scores >= threshold) & judged.counts[0]
        right, objects = int(judged.right[0, kept].sum()), int(judged.objects[picture].sum())
        mistakes = objects - right + int(kept.sum()) - right
        if mistakes:
            values.append((2 * right / (objects + int(kept.sum())), -mistakes, picture))
    assert hardest_pictures(judged, threshold) == [picture for *_, picture in sorted(values)]


def test_an_analysis_survives_its_json():
    for case in (random_case(0), random_case(1, digits=1)):
        metrics = analyse(*case)
        analysis = metrics.analysis
        written = json.loads(json.dumps(analysis.to_json(), allow_nan=False))
        assert Analysis.from_json(written).to_json() == written
        assert metrics.to_json()["analysis"] == written
        assert np.mean(analysis.overall.precision) == pytest.approx(metrics.summary["AP50"], abs=EQUAL)
        for curves, values in zip(analysis.classes, metrics.per_class.values()):
            assert np.mean(curves.precision) == pytest.approx(values["AP50"], abs=EQUAL)
        assert analysis.threshold == analysis.overall.best.threshold


def test_nothing_found_and_nothing_to_find():
    truth, _ = random_case(0, pictures=4)
    nothing = FoundArrays(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 4)), np.zeros(0))
    analysis = analyse(truth, nothing).analysis
    assert analysis.intervals == {"AP": [0, 0], "AP50": [0, 0]}
    assert analysis.overall.best is None
    assert analysis.threshold == 0.5
    assert len(analysis.hardest) == len(np.unique(truth.pictures[~truth.crowds]))
    empty = TruthArrays([1, 2], [1], ["a"], np.zeros(0, int), np.zeros(0, int), np.zeros((0, 4)), np.zeros(0),
                        np.zeros(0, bool))  # fmt: skip
    some = FoundArrays(np.array([1]), np.array([0]), np.array([[1.0, 1, 5, 5]]), np.array([0.9]))
    for answers in (nothing, some):
        analysis = analyse(empty, answers).analysis
        assert analysis.intervals == {}
        assert analysis.overall.precision == analysis.classes[0].precision == []
        assert np.array(analysis.confusion).sum() == len(answers.scores)
        assert Analysis.from_json(json.loads(json.dumps(analysis.to_json()))) == analysis
