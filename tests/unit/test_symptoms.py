"""Each symptom of a training that does not learn is said where it is, and a healthy training says nothing."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from opendetr.data.door import load_index
from opendetr.data.findings import Severity
from opendetr.data.loader import DetectionDataset
from opendetr.data.transforms import Preprocessing
from opendetr.evaluation.box_conventions import CONVENTIONS, convention_fits
from opendetr.evaluation.coco import FoundArrays, TruthArrays
from opendetr.recipes.recipe import resolve_config
from opendetr.training.range_test import FIRST, LAST, RangeTest
from opendetr.training.run_folder import RunFolder
from opendetr.training.symptoms import (
    FAULTS,
    GENERAL,
    UNLEARNED,
    Evidence,
    Measured,
    symptoms_of_data,
    symptoms_of_learning,
)
from opendetr.training.watch import Watch

PICTURES, CLASSES = 24, 4
NAMES = ("disc", "ring", "square", "star")
FALLING = tuple(30 / (1 + number) + 5 for number in range(12))


def truth_of(seed=0):
    """Three objects in every picture, far from each other."""
    rng = np.random.default_rng(seed)
    boxes = [(x + rng.uniform(0, 20), 30.0, 24.0, 36.0) for _ in range(PICTURES) for x in (10, 110, 210)]
    labels = rng.integers(0, CLASSES, len(boxes))
    return TruthArrays(
        range(PICTURES), range(1, CLASSES + 1), NAMES, np.repeat(np.arange(PICTURES), 3), labels, np.array(boxes),
        np.full(len(boxes), 24.0 * 36), np.zeros(len(boxes), dtype=bool),
    )  # fmt: skip


def found_as(truth, label=lambda labels: labels, box=lambda boxes: boxes, score=0.9, kept=slice(None)):
    """What a model finds: every object, changed."""
    labels, boxes = label(truth.labels)[kept], box(truth.boxes_xywh)[kept]
    return FoundArrays(truth.pictures[kept], labels, boxes, np.full(len(labels), score))


def evidence(train=None, val=None, losses=FALLING, objects=(18,) * CLASSES, iou=(0.2, 0.8), progress=1.0):
    """A run's evidence; by default all is well. `train` and `val` are truth and what is found."""
    truth = truth_of()
    history = [
        {"kind": "step", "step": 20 * number, "loss": loss, "matched_iou": iou[0] if number < 3 else iou[1]}
        for number, loss in enumerate(losses, start=1)
    ]
    config = resolve_config("fast")
    train = Measured(*(train or (truth, found_as(truth))))
    return Evidence(
        config, progress, history, np.array(objects), 300, train, Measured(*(val or (truth, found_as(truth))))
    )


TRUTH = truth_of()
NOTHING = FoundArrays(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 4)), np.zeros(0))
WRONG = found_as(TRUTH, box=lambda boxes: boxes + np.array([0, 300, 0, 0]), score=0.05)
SHUFFLED = found_as(TRUTH, label=lambda labels: np.random.default_rng(1).permutation(labels))
NEXT = found_as(TRUTH, label=lambda labels: (labels + 1) % CLASSES)
RARE = found_as(TRUTH, kept=np.arange(len(TRUTH.labels)) % 5 == 0)
NO_STAR = found_as(TRUTH, kept=TRUTH.labels != 3)
HALF_LABELLED = replace(
    TRUTH, **{name: getattr(TRUTH, name)[::2] for name in ("pictures", "labels", "boxes_xywh", "areas", "crowds")}
)

CASES = {
    "rate-too-high": {"train": (TRUTH, WRONG), "losses": (40, 900, 60, 4e4, 70, 50, 3e3, 60)},
    "rate-too-low": {"train": (TRUTH, WRONG), "losses": (40.8, 40.7, 40.6, 40.6, 40.5, 40.5)},
    "loss-rises": {"losses": (9, 8, 5, 5, 5, 5, 8, 8)},
    "classes-exchanged": {"val": (TRUTH, NEXT)},
    "classes-not-learned": {"train": (TRUTH, SHUFFLED), "val": (TRUTH, SHUFFLED)},
    "labels-missing": {"train": (HALF_LABELLED, found_as(TRUTH))},
    "class-never-found": {"val": (TRUTH, NO_STAR)},
    "overfitting": {"val": (TRUTH, RARE)},
    "nothing-found": {"train": (TRUTH, WRONG), "val": (TRUTH, WRONG)},
}


@pytest.mark.parametrize("name", CASES)
def test_a_symptom_is_said_where_it_is(name):
    assert list(symptoms_of_learning(evidence(**CASES[name]))) == [name]


@pytest.mark.parametrize("name", [name for name in CONVENTIONS if name != "as they are labelled"])
def test_boxes_of_another_convention_are_named(name):
    """The model learned boxes as `name` says, and val has them right."""
    said = symptoms_of_learning(evidence(val=(TRUTH, found_as(TRUTH, box=CONVENTIONS[name]))))
    assert list(said) == ["other-boxes"]
    assert f"things are found {name} compared with the labelled boxes (median IoU 1.00" in said["other-boxes"]


def test_a_healthy_training_says_nothing():
    jitter = np.random.default_rng(2).normal(0, 1.5, TRUTH.boxes_xywh.shape)
    nearly = found_as(TRUTH, box=lambda boxes: boxes + jitter, kept=np.arange(len(TRUTH.labels)) % 6 != 0)
    assert symptoms_of_learning(evidence()) == {}
    assert symptoms_of_learning(evidence(val=(TRUTH, nearly))) == {}


def test_a_class_that_is_mistaken_for_one_that_is_right_is_not_exchanged():
    """As a 6 for a 9, by a model that has seen few of them."""
    discs_as_rings = found_as(TRUTH, label=lambda labels: np.where(labels == 0, 1, labels))
    assert "classes-exchanged" not in symptoms_of_learning(evidence(val=(TRUTH, discs_as_rings)))


def test_little_evidence_accuses_no_data():
    """A val of a few objects, and a rare class that is found as the frequent one."""
    few = replace(
        TRUTH, **{name: getattr(TRUTH, name)[:3] for name in ("pictures", "labels", "boxes_xywh", "areas", "crowds")}
    )
    for name in ("other-boxes", "classes-exchanged", "labels-missing"):
        changed = {"box": CONVENTIONS["twice as wide and high"]} if name == "other-boxes" else {}
        next_class = {"label": lambda labels: (labels + 1) % CLASSES} if name == "classes-exchanged" else {}
        train = CASES.get(name, {}).get("train")
        seen = evidence(train=train, val=(few, found_as(few, **changed, **next_class)))
        assert name not in symptoms_of_learning(seen)
    one_rare = replace(TRUTH, labels=np.where(np.arange(len(TRUTH.labels)) == 5, 1, 0))
    as_frequent = found_as(one_rare, label=np.zeros_like)
    assert "classes-not-learned" not in symptoms_of_learning(
        evidence(train=(one_rare, as_frequent), val=(one_rare, as_frequent))
    )


def test_a_short_training_says_nothing_of_what_it_has_not_learned():
    assert symptoms_of_learning(evidence(train=(TRUTH, NOTHING), val=(TRUTH, NOTHING), losses=(40.0, 39, 38, 37))) == {}


@pytest.mark.parametrize(
    ("progress", "names"), [(0.4, set()), (0.6, set(FAULTS)), (0.8, {*FAULTS, *UNLEARNED, *GENERAL})]
)
def test_what_is_learned_late_is_judged_late(progress, names):
    said = [name for name in CASES if symptoms_of_learning(evidence(**CASES[name], progress=progress))]
    assert set(said) == names - {"other-boxes"}


def test_without_val_the_training_pictures_tell():
    seen = replace(evidence(**CASES["classes-not-learned"]), val=None)
    assert list(symptoms_of_learning(seen)) == ["classes-not-learned"]
    assert symptoms_of_learning(replace(evidence(), val=None)) == {}
    assert list(symptoms_of_learning(replace(evidence(**CASES["labels-missing"]), val=None))) == ["labels-missing"]


def test_what_is_missing_in_both_splits_is_no_difference_between_them():
    """Where val lacks labels as often, the sentence would be wrong about val."""
    same = (HALF_LABELLED, found_as(TRUTH))
    assert "labels-missing" not in symptoms_of_learning(evidence(train=same, val=same))


def test_sentences_have_the_figures():
    assert (
        "(train.lr = 0.0008); try --set train.lr=8e-05"
        in symptoms_of_learning(evidence(**CASES["rate-too-high"]))["rate-too-high"]
    )
    assert "50% of what is found" in symptoms_of_learning(evidence(**CASES["labels-missing"]))["labels-missing"]
    exchanged = symptoms_of_learning(evidence(**CASES["classes-exchanged"]))["classes-exchanged"]
    assert "'disc' is found as 'ring', 'ring' is found as 'square', 'square' is found as 'star'" in exchanged
    assert "'star' is never found" in symptoms_of_learning(evidence(**CASES["class-never-found"]))["class-never-found"]


def test_fits_of_conventions_without_objects_or_detections():
    none = replace(
        TRUTH, **{name: getattr(TRUTH, name)[:0] for name in ("pictures", "labels", "boxes_xywh", "areas", "crowds")}
    )
    assert set(convention_fits(none, found_as(TRUTH)).values()) == {0.0}
    assert set(convention_fits(TRUTH, NOTHING).values()) == {0.0}


@pytest.fixture
def splits(coco_folder):
    root = coco_folder((3,) * 6, splits=("train", "val"), names=NAMES)
    return load_index(root, "train"), load_index(root, "val")


def upright(index):
    return DetectionDataset(index, Preprocessing(48, 96, (0.5,) * 3, (0.5,) * 3).transform())


def test_pictures_of_one_colour_are_said_before_the_first_step(splits):
    train, val = splits
    assert symptoms_of_data(train, val, upright(train), 480) == {}
    for path in list(train.paths)[:4]:
        with Image.open(path) as picture:
            size = picture.size
        Image.new("RGB", size, (7, 7, 7)).save(path)
    said = symptoms_of_data(train, val, upright(train), 480)
    assert list(said) == ["uniform-pictures"]
    assert said["uniform-pictures"].startswith(
        f"4 of the 6 training pictures that were looked at are of one colour, first {train.records[0].path.name}"
    )


def test_objects_too_small_for_the_size_are_said_with_the_size_they_need(splits):
    train, val = splits
    shorter = int(train.sizes.min())
    side = float(np.sqrt((train.objects.boxes_xywh[:, 2:]).prod(1)).min())
    said = symptoms_of_data(train, val, upright(train), int(4 * shorter / side))["objects-too-small"]
    assert "too small to be found; train with --image-size" in said


def test_a_class_that_only_val_shows_is_said(splits):
    train, val = splits
    train, star = train.under(val.label_map), int(val.labels[0])
    others = [position for position in range(len(train)) if star not in train.records[position].labels]
    said = symptoms_of_data(train.subset(others), val, upright(train), 480)["class-not-labelled"]
    assert f"'{val.label_map.names[star]}' ({(val.labels == star).sum()})" in said


def test_a_symptom_is_said_once_also_by_a_run_that_is_continued(splits, tmp_path, capsys):
    train, val = splits
    folder = RunFolder(tmp_path / "run")
    for _ in range(2):
        Watch(folder, train, val).begin(upright(train), 12)
    assert capsys.readouterr().out.count("too small to be found") == 2  # nothing was logged between
    watch = Watch(folder, train, val)
    watch.begin(upright(train), 12)
    assert list(watch.new) == ["objects-too-small"]
    folder.history.append({"kind": "val", "symptoms": dict(watch.new)})
    capsys.readouterr()
    later = Watch(folder, train, val)
    later.begin(upright(train), 12)
    assert (list(later.said), later.new, capsys.readouterr().out) == (["objects-too-small"], {}, "")


FACTORS = np.geomspace(FIRST, LAST, 70).tolist()


def curve(best):
    """Losses that fall from a hundredth of the best rate on, and rise after it."""
    return [10 - 4 * max(0, 1 - abs(np.log10(factor / best)) / 2) for factor in FACTORS]


@pytest.mark.parametrize(
    ("best", "words", "severity"),
    [
        (3.0, "train.lr = 0.001 fits: the loss falls from 5e-05 on, and rises after 0.003", Severity.NOTE),
        (1e-3, "train.lr = 0.001 is too high", Severity.WARNING),
        (900.0, "train.lr = 0.001 is too low", Severity.WARNING),
    ],
)
def test_the_range_test_names_rates_far_off(best, words, severity):
    found = RangeTest(FACTORS, curve(best)).verdict(1e-3)
    assert words in found.sentence
    assert found.severity == severity


def test_a_range_test_of_noise_says_nothing_of_rates():
    noise = 10 + np.random.default_rng(0).normal(0, 0.1, len(FACTORS))
    assert "the loss falls at none" in RangeTest(FACTORS, noise.tolist()).verdict(1e-3).sentence


def test_a_range_test_of_few_steps_says_nothing_of_rates():
    assert "too few to judge" in RangeTest(FACTORS[:20], [1.0] * 20).verdict(1e-3).sentence
