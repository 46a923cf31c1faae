import gc
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from opendetr.errors import UserError
from opendetr.evaluation.coco import SUMMARY_NAMES, evaluate_detections, evaluate_files

EQUAL = 1e-9  # float64, and the same sums


def truth_of(images=1, categories=(1,), annotations=()):
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 200, "height": 200} for i in range(1, images + 1)],
        "categories": [{"id": number, "name": f"class {number}"} for number in categories],
        "annotations": [
            {"id": number, "area": a["bbox"][2] * a["bbox"][3], "iscrowd": 0} | a
            for number, a in enumerate(annotations, start=1)
        ],
    }


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


@pytest.mark.parametrize("seed", range(6))
def test_equal_to_pycocotools_on_random_data(seed):
    truth, detections = random_case(seed)
    assert any(annotation["iscrowd"] for annotation in truth["annotations"])
    metrics = evaluate_detections(truth, detections)
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
    metrics = evaluate_detections(truth, detections)
    assert list(metrics.summary.values()) == pytest.approx(reference(truth, detections)[0], abs=EQUAL)


def test_perfect_detections_score_one_and_undefined_is_minus_one():
    truth = truth_of(2, (1, 2), [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 50]}])
    metrics = evaluate_detections(truth, found(truth))
    assert {name: metrics.summary[name] for name in ("AP", "AP50", "AR1", "APm")} == dict.fromkeys(
        ("AP", "AP50", "AR1", "APm"), 1.0
    )
    assert {name: metrics.summary[name] for name in ("APs", "APl", "ARs")} == dict.fromkeys(("APs", "APl", "ARs"), -1.0)
    assert metrics.per_class == {
        "class 1": {"id": 1, "AP": 1.0, "AP50": 1.0}, "class 2": {"id": 2, "AP": -1.0, "AP50": -1.0},
    }  # fmt: skip
    assert metrics.to_json() == {**metrics.summary, "per_class": metrics.per_class}


def test_an_object_whose_annotation_has_the_id_0_is_found():
    truth = truth_of(1, (1,), [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 50]}])
    truth["annotations"][0]["id"] = 0
    assert evaluate_detections(truth, found(truth)).summary["AP"] == 1
    assert reference(truth, found(truth))[0][0] == 0  # pycocotools takes it for missed


def test_annotation_ids_do_not_matter():
    truth, detections = random_case(3)
    expected = evaluate_detections(truth, detections)
    for annotation in truth["annotations"]:
        annotation["id"] = 5  # all the same
    assert evaluate_detections(truth, detections) == expected


def test_area_and_crowd_may_be_left_out_and_ids_may_be_in_quotes():
    truth, detections = random_case(4)
    for annotation in truth["annotations"]:
        annotation.update(iscrowd=0, area=annotation["bbox"][2] * annotation["bbox"][3])
    expected = evaluate_detections(truth, detections)
    for annotation in truth["annotations"]:
        del annotation["iscrowd"], annotation["area"]
        annotation["category_id"] = str(annotation["category_id"])
    for category in truth["categories"]:
        category["id"] = str(category["id"])
    assert evaluate_detections(truth, detections) == expected


def test_the_given_truth_and_results_are_not_changed():
    truth, detections = random_case(5)
    before = json.dumps([truth, detections])
    evaluate_detections(truth, detections)
    assert json.dumps([truth, detections]) == before


@pytest.mark.parametrize("objects", [0, 3])
def test_no_detections_at_all(objects):
    truth = truth_of(2, (1, 2), [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 50]}] * objects)
    metrics = evaluate_detections(truth, [])
    assert metrics.summary["AP"] == (0 if objects else -1)
    assert metrics.summary["AR100"] == (0 if objects else -1)
    assert [values["AP"] for values in metrics.per_class.values()] == [0 if objects else -1, -1]


def test_a_detection_of_a_category_the_truth_does_not_have_counts_for_nothing():
    truth, detections = random_case(1)
    stray = {"image_id": 1, "category_id": 99, "bbox": [1, 1, 20, 20], "score": 1.0}
    assert evaluate_detections(truth, [stray, *detections]) == evaluate_detections(truth, detections)


def test_classes_of_one_name_are_told_apart_by_their_ids():
    truth = truth_of(1, (4, 6), [{"image_id": 1, "category_id": 6, "bbox": [10, 10, 50, 50]}])
    for category in truth["categories"]:
        category["name"] = "crack"
    metrics = evaluate_detections(truth, found(truth))
    assert {name: values["AP"] for name, values in metrics.per_class.items()} == {"crack (4)": -1, "crack (6)": 1}


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
    assert evaluate_files(*files).summary["AP"] == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "does not exist; expected a list of COCO results"),
        ("{", "cannot be read as JSON"),
        ('{"a": 1}', "is not a list of COCO results"),
        ("[3]", "every result needs image_id, category_id, bbox and score, got 3"),
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


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_collected_afterwards_as_before(enabled):
    truth = {"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    try:
        if not enabled:
            gc.disable()
        evaluate_detections(truth, [])
        with pytest.raises(KeyError):
            evaluate_detections(truth, [{"image_id": 1}])
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
