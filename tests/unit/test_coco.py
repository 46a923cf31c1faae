import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from opendetr.data.formats.coco_json import split_of
from opendetr.errors import UserError
from opendetr.evaluation.coco import (
    SUMMARY_NAMES,
    FoundArrays,
    TruthArrays,
    evaluate_arrays,
    evaluate_detections,
    read_results,
)

EQUAL = 1e-9  # float64, and the same sums
ONE = pytest.approx(1, abs=1e-15)  # pycocotools adds 2e-16 to what it divides by

SPELLINGS = {  # of the ids 1, 2, 3, ..., each in the same order
    "beyond 2**53": lambda number: 20240512123456000 + number,
    "beyond 2**63": lambda number: 2**64 + number,
    "negative": lambda number: number - 100,
    "text": lambda number: str(2**60 + number),
    "with a decimal point": lambda number: f"{number}.0",
    "names": lambda number: f"picture_{number:03}",
}


def evaluate_files(detections, annotations):
    return evaluate_arrays(*read_results(detections, annotations))


def truth_of(images=1, categories=(1,), annotations=()):
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 200, "height": 200} for i in range(1, images + 1)],
        "categories": [{"id": number, "name": f"class {number}"} for number in categories],
        "annotations": [
            {"id": number, "area": a["bbox"][2] * a["bbox"][3], "iscrowd": 0} | a
            for number, a in enumerate(annotations, start=1)
        ],
    }


def evaluate(truth, results):
    return evaluate_detections(split_of(truth, Path("truth.json"), ()), results)


def found(truth, score=0.9):
    return [
        {key: a[key] for key in ("image_id", "category_id", "bbox")} | {"score": score} for a in truth["annotations"]
    ]


def random_case(seed, images=12, categories=(2, 3, 7, 9, 11), most=8, results=None):
    """Truth with crowds, pictures and categories without objects; jittered, missed, invented and repeated results."""
    rng = np.random.default_rng(seed)

    def box():
        side = np.exp(rng.uniform(np.log(4), np.log(150), 2))  # small, medium and large
        return [*rng.uniform(0, 200 - side), *side]

    annotations = [
        {
            "image_id": image,
            "category_id": int(rng.choice(categories[1:])),
            "bbox": box(),
            "iscrowd": int(rng.random() < 0.15),
        }
        for image in range(2, images + 1)
        for _ in range(rng.integers(0, most))
    ]
    truth = truth_of(images, categories, annotations)
    detections = []
    for annotation in truth["annotations"]:
        for _ in range(rng.integers(0, 3)):
            near = np.array(annotation["bbox"]) + rng.normal(0, 0.1, 4) * min(annotation["bbox"][2:])
            category = annotation["category_id"] if rng.random() < 0.8 else int(rng.choice(categories))
            detections.append(
                {"image_id": annotation["image_id"], "category_id": category, "bbox": near.clip(1).tolist()}
            )
    for _ in range(40 if results is None else results):
        image, category = int(rng.integers(1, images + 1)), int(rng.choice(categories))
        detections.append({"image_id": image, "category_id": category, "bbox": box()})
    for detection in detections:
        detection["score"] = float(rng.integers(1, 11) / 10)  # many are repeated
    rng.shuffle(detections)
    return truth, detections


def reference(truth, detections):
    """The 12 numbers of pycocotools, and AP and AP50 per category."""
    coco = COCO()
    coco.dataset = json.loads(json.dumps(truth))
    coco.createIndex()
    evaluator = COCOeval(coco, coco.loadRes(json.loads(json.dumps(detections))), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    precision = evaluator.eval["precision"][:, :, :, 0, -1]
    per_category = {}
    for position, number in enumerate(evaluator.params.catIds):
        both = [values[values > -1] for values in (precision[:, :, position], precision[0, :, position])]
        per_category[number] = [float(values.mean()) if values.size else -1.0 for values in both]
    return evaluator.stats[:12].tolist(), per_category


def spelled(entries, *keys, spelling):
    """Copies of entries with other ids under the keys."""
    return [entry | {key: SPELLINGS[spelling](entry[key]) for key in keys} for entry in entries]


@st.composite
def cases(draw):
    """Few pictures and classes with boxes on a coarse grid: ties, doubles, crowds, sizes at the limits, empty ones."""
    sides, corners = st.sampled_from([3, 8, 31, 32, 33, 64, 96, 97]), st.integers(0, 12).map(lambda step: step * 8)
    entry = {
        "image_id": st.integers(1, 3), "category_id": st.integers(1, 3),
        "bbox": st.tuples(corners, corners, sides, sides).map(list),
    }  # fmt: skip
    areas = st.sampled_from([1.0, 1024.0, 1024.5, 9216.0, 9217.0])
    annotations = st.fixed_dictionaries(entry | {"iscrowd": st.integers(0, 1)}, optional={"area": areas})
    truth = truth_of(3, (1, 2, 3), draw(st.lists(annotations, max_size=12)))
    scores = st.sampled_from([0.0, 0.25, 0.5, 1.0])
    near = [  # true boxes again, moved by little
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": [a["bbox"][0] + by, *a["bbox"][1:]]}
        for a in truth["annotations"]
        for by in draw(st.lists(st.sampled_from([0, 1, 4]), max_size=2))
    ]
    others = draw(st.lists(st.fixed_dictionaries(entry), max_size=8))
    found = [one | {"score": draw(scores)} for one in draw(st.permutations([*near, *others]))]
    return truth, found


@settings(max_examples=60, deadline=None)
@given(case=cases(), pictures=st.sampled_from(sorted(SPELLINGS)), classes=st.sampled_from(sorted(SPELLINGS)))
def test_equal_to_pycocotools_whatever_the_ids(case, pictures, classes):
    truth, detections = case
    expected = reference(truth, detections)[0] if detections else None
    entries = {
        "images": spelled(truth["images"], "id", spelling=pictures)[::-1],  # their order in the file does not matter
        "categories": spelled(truth["categories"], "id", spelling=classes),
        "annotations": spelled(
            spelled(truth["annotations"], "image_id", spelling=pictures), "category_id", spelling=classes
        ),
    }
    found = spelled(spelled(detections, "image_id", spelling=pictures), "category_id", spelling=classes)
    metrics = evaluate(entries, found)
    assert metrics.summary == evaluate(truth, detections).summary
    if expected is not None:  # pycocotools cannot load an empty list
        assert list(metrics.summary.values()) == pytest.approx(expected, abs=EQUAL)


@pytest.mark.parametrize("seed", range(6))
def test_equal_to_pycocotools_on_random_data(seed):
    truth, detections = random_case(seed)
    assert any(annotation["iscrowd"] for annotation in truth["annotations"])
    metrics = evaluate(truth, detections)
    summary, per_category = reference(truth, detections)
    assert list(metrics.summary) == list(SUMMARY_NAMES)
    assert list(metrics.summary.values()) == pytest.approx(summary, abs=EQUAL)
    assert 0 < metrics.summary["AP"] < 1
    assert {v["id"]: [v["AP"], v["AP50"]] for v in metrics.per_class.values()} == {
        number: pytest.approx(values, abs=EQUAL) for number, values in per_category.items()
    }
    assert metrics.per_class["class 2"]["AP"] == -1  # no object of it


def test_equal_to_pycocotools_with_more_than_100_detections_in_a_picture():
    truth, detections = random_case(0, images=2, categories=(1, 2), most=30, results=600)
    metrics = evaluate(truth, detections)
    assert list(metrics.summary.values()) == pytest.approx(reference(truth, detections)[0], abs=EQUAL)


def test_perfect_detections_score_one_and_undefined_is_minus_one():
    truth = truth_of(2, (1, 2), [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 50]}])
    metrics = evaluate(truth, found(truth))
    assert {name: metrics.summary[name] for name in ("AP", "AP50", "AR1", "APm")} == dict.fromkeys(
        ("AP", "AP50", "AR1", "APm"), ONE
    )
    assert {name: metrics.summary[name] for name in ("APs", "APl", "ARs")} == dict.fromkeys(("APs", "APl", "ARs"), -1.0)
    assert metrics.per_class == {
        "class 1": {"id": 1, "AP": ONE, "AP50": ONE}, "class 2": {"id": 2, "AP": -1.0, "AP50": -1.0},
    }  # fmt: skip
    assert metrics.to_json() == {**metrics.summary, "per_class": metrics.per_class}


def test_an_object_whose_annotation_has_the_id_0_is_found():
    truth = truth_of(1, (1,), [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 50]}])
    truth["annotations"][0]["id"] = 0
    assert evaluate(truth, found(truth)).summary["AP"] == ONE
    assert reference(truth, found(truth))[0][0] == 0  # pycocotools takes it for missed


def test_annotation_ids_do_not_matter():
    truth, detections = random_case(3)
    expected = evaluate(truth, detections)
    for annotation in truth["annotations"]:
        annotation["id"] = 5  # all the same
    assert evaluate(truth, detections) == expected


def test_area_and_crowd_may_be_left_out_and_ids_may_be_in_quotes():
    truth, detections = random_case(4)
    for annotation in truth["annotations"]:
        annotation.update(iscrowd=0, area=annotation["bbox"][2] * annotation["bbox"][3])
    expected = evaluate(truth, detections)
    for annotation in truth["annotations"]:
        del annotation["iscrowd"], annotation["area"]
        annotation["category_id"] = str(annotation["category_id"])
    for category in truth["categories"]:
        category["id"] = str(category["id"])
    assert evaluate(truth, detections) == expected


def test_results_of_another_picture_are_wrong_though_the_ids_are_equal_as_floats():
    truth = truth_of(2, (1,), [{"image_id": number, "category_id": 1, "bbox": [10, 10, 50, 50]} for number in (1, 2)])
    truth["annotations"][1]["bbox"] = [120, 120, 50, 50]
    for entry in (*truth["images"], *truth["annotations"]):
        key = "image_id" if "image_id" in entry else "id"
        entry[key] = 2**60 + entry[key]
    right = found(truth)
    exchanged = [{**one, "bbox": other["bbox"]} for one, other in zip(right, right[::-1])]
    assert evaluate(truth, right).summary["AP"] == ONE
    assert evaluate(truth, exchanged).summary["AP"] == 0


def test_per_class_has_the_ids_of_the_data_set():
    truth = truth_of(1, (2**60 + 1, 2**60), [{"image_id": 1, "category_id": 2**60 + 1, "bbox": [10, 10, 50, 50]}])
    truth["categories"].append({"id": "rust", "name": "rust"})
    metrics = evaluate(truth, found(truth))
    assert [(v["id"], v["AP"]) for v in metrics.per_class.values()] == [(2**60, -1), (2**60 + 1, ONE), ("rust", -1)]


@pytest.mark.parametrize("area", [None, "1600.0", "", "large", [1600], {}, 0, -5, True, float("nan"), 10**400])
def test_an_area_that_is_no_positive_number_is_that_of_the_box(area):
    truth = truth_of(1, (1,), [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "area": area}])
    summary = evaluate(truth, found(truth)).summary
    assert [summary[name] for name in ("APs", "APm", "APl")] == [-1, ONE, -1]


def test_an_area_that_is_given_counts_also_as_text():
    for area in (900, "900", " 900.0 "):
        truth = truth_of(1, (1,), [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "area": area}])
        summary = evaluate(truth, found(truth)).summary
        assert [summary[name] for name in ("APs", "APm", "APl")] == [ONE, -1, -1]


@pytest.mark.parametrize(
    ("crowd", "expected"), [("0", ONE), ("false", ONE), (None, ONE), (0.0, ONE), ("1", -1), ("true", -1), (True, -1)]
)
def test_a_crowd_may_be_written_as_text(crowd, expected):
    truth = truth_of(1, (1,), [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "iscrowd": crowd}])
    assert evaluate(truth, found(truth)).summary["AP"] == expected  # a crowd is no object to find


def test_equal_scores_are_ranked_by_the_ids_of_their_pictures():
    truth = truth_of(2, (1,), [{"image_id": number, "category_id": 1, "bbox": [10, 10, 50, 50]} for number in (1, 2)])
    detections = found(truth)
    detections[0]["bbox"] = [100, 100, 9, 9]  # wrong, in the picture of the lower id: it comes first
    expected = reference(truth, detections)[0]
    assert list(evaluate(truth, detections).summary.values()) == pytest.approx(expected, abs=EQUAL)
    truth["images"].reverse()
    assert list(evaluate(truth, detections).summary.values()) == pytest.approx(expected, abs=EQUAL)
    truth["images"][0]["id"], truth["images"][1]["id"] = 1, 2
    for entry in (*truth["annotations"], *detections):
        entry["image_id"] = 3 - entry["image_id"]
    assert evaluate(truth, detections).summary["AP"] > expected[0]  # the right one comes first


def test_arrays():
    boxes = np.array([[10.0, 10, 50, 50], [90, 90, 20, 20], [5, 5, 30, 30]])
    truth = TruthArrays(
        image_ids=["b", "a"], category_ids=[7, 9], names=["seven", "nine"], pictures=np.array([0, 1, 1]),
        labels=np.array([0, 0, 1]), boxes_xywh=boxes, areas=boxes[:, 2:].prod(1), crowds=np.array([False, False, True]),
    )  # fmt: skip
    detected = FoundArrays(truth.pictures[:1], truth.labels[:1], boxes[:1], np.array([0.5], dtype=np.float32))
    metrics = evaluate_arrays(truth, detected)
    assert metrics.summary["AR100"] == 0.5
    assert metrics.summary["ARm"] == 1
    assert metrics.summary["ARs"] == 0
    assert metrics.per_class["nine"] == {"id": 9, "AP": -1, "AP50": -1}


def test_the_given_truth_and_results_are_not_changed():
    truth, detections = random_case(5)
    before = json.dumps([truth, detections])
    evaluate(truth, detections)
    assert json.dumps([truth, detections]) == before


@pytest.mark.parametrize("objects", [0, 3])
def test_no_detections_at_all(objects):
    truth = truth_of(2, (1, 2), [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 50]}] * objects)
    metrics = evaluate(truth, [])
    assert metrics.summary["AP"] == (0 if objects else -1)
    assert metrics.summary["AR100"] == (0 if objects else -1)
    assert [values["AP"] for values in metrics.per_class.values()] == [0 if objects else -1, -1]


def test_a_detection_of_a_category_the_truth_does_not_have_counts_for_nothing():
    truth, detections = random_case(1)
    stray = {"image_id": 1, "category_id": 99, "bbox": [1, 1, 20, 20], "score": 1.0}
    assert evaluate(truth, [stray, *detections]) == evaluate(truth, detections)


def test_classes_of_one_name_are_told_apart_by_their_ids():
    truth = truth_of(1, (4, 6), [{"image_id": 1, "category_id": 6, "bbox": [10, 10, 50, 50]}])
    for category in truth["categories"]:
        category["name"] = "crack"
    metrics = evaluate(truth, found(truth))
    assert {name: values["AP"] for name, values in metrics.per_class.items()} == {"crack (4)": -1, "crack (6)": ONE}


def test_the_official_example(test_data):
    folder = test_data / "cocoeval_ref"
    metrics = evaluate_files(
        folder / "instances_val2014_fakebbox100_results.json", folder / "instances_val2014_100.json"
    )
    expected = json.loads((folder / "expected.json").read_text())["bbox"]
    assert metrics.summary == pytest.approx(expected, abs=EQUAL)
    assert metrics.summary["AP"] == pytest.approx(0.5045806987249628, abs=EQUAL)


@pytest.fixture
def files(tmp_path):
    truth = truth_of(1, (1,), [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 50]}])
    paths = tmp_path / "results.json", tmp_path / "truth.json"
    for path, content in zip(paths, (found(truth), truth)):
        path.write_text(json.dumps(content))
    return paths


def test_files(files):
    assert evaluate_files(*files).summary["AP"] == ONE


def test_ids_of_results_may_be_in_quotes(files):
    results = json.loads(files[0].read_text())
    files[0].write_text(json.dumps(spelled(results, "image_id", "category_id", spelling="with a decimal point")))
    assert evaluate_files(*files).summary["AP"] == ONE


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "does not exist; expected a list of COCO results"),
        ("{", "cannot be read as JSON"),
        ('{"a": 1}', "is not a list of COCO results"),
        ("[3]", "every result needs image_id, category_id, bbox and score, got 3"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 1e999], "score": 1}]', "every result needs"),
        (f'[{{"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, {10**320}], "score": 1}}]', "every result needs"),
        ('[{"image_id": null, "category_id": 1, "bbox": [1, 1, 2, 2], "score": 1}]', "every result needs"),
        ('[{"image_id": 1}]', "every result needs image_id, category_id, bbox and score"),
        (
            '[{"image_id": 9, "category_id": 1, "bbox": [1, 1, 2, 2], "score": 1}]',
            "a result names image 9, which .*truth.json",
        ),
    ],
)
def test_results_that_are_none(files, content, expected):
    results, truth = files
    results.unlink()
    if content is not None:
        results.write_text(content)
    with pytest.raises(UserError, match=expected) as caught:
        evaluate_files(results, truth)
    assert str(results) in str(caught.value)
