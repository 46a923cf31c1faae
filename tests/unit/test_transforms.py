import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import tv_tensors

from opendetr.boxes import cxcywh_to_xyxy
from opendetr.config import DataConfig
from opendetr.data.sizes import resized_shape, snapped_shape
from opendetr.data.transforms import Preprocessing, RandomSizeCrop, RandomZoom, to_target, training_transform

PLAIN = Preprocessing(120, 160, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
AS_IT_IS = replace(  # no flip, no crop, one size
    DataConfig(), image_size=120, max_size=160, train_sizes=(120,), crop_probability=0.0, horizontal_flip=0.0
)
EVERYTHING = replace(
    AS_IT_IS, train_sizes=(96, 112, 128), max_size=200, crop_probability=0.5, crop_resize=(100, 120), crop_min=60,
    crop_max=120, horizontal_flip=0.5,
)  # fmt: skip


def picture_of(height, width, boxes=(), labels=None):
    """A black picture [3, height, width] in which the box of label i is filled with channel i."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    labels = list(range(len(boxes))) if labels is None else labels
    for label, (x1, y1, x2, y2) in zip(labels, boxes):
        image[label, y1:y2, x1:x2] = 255
    xyxy = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    objects = {
        "boxes": tv_tensors.BoundingBoxes(xyxy, format="XYXY", canvas_size=(height, width)),
        "labels": torch.tensor(labels, dtype=torch.long),
    }
    return tv_tensors.Image(image), objects


def transformed(config, *sample, preprocessing=PLAIN):
    """Image and target after training's transform."""
    image, objects = training_transform(config, preprocessing)(*sample)
    return image.as_subclass(torch.Tensor), to_target(image, objects)


def pixels(target, image):
    height, width = image.shape[1:]
    return cxcywh_to_xyxy(target.boxes_cxcywh) * torch.tensor([width, height, width, height])


@pytest.mark.parametrize(
    ("shape", "size", "max_size", "expected"),
    [  # worked out by hand: height, width
        ((480, 640), 800, 1333, (800, 1066)),  # 1066.67 is cut off, not rounded
        ((640, 480), 800, 1333, (1066, 800)),
        ((426, 640), 800, 1333, (800, 1201)),
        ((500, 500), 800, 1333, (800, 800)),
        ((800, 1000), 800, 1333, (800, 1000)),
        ((333, 1000), 800, 1333, (444, 1333)),  # 443.9 is rounded
        ((1000, 333), 800, 1333, (1333, 444)),
        ((260, 1000), 800, 1333, (347, 1334)),  # and so the official longer side may be one too long
        ((100, 300), 400, None, (400, 1200)),
        ((480, 640), 480, 1333, (480, 640)),
        ((1, 5000), 800, 1333, (1, 5000)),  # never below one pixel
    ],
)
def test_sizes_are_rounded_as_in_the_official_code(shape, size, max_size, expected):
    assert resized_shape(*shape, size, max_size) == expected


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 1000), st.integers(0, 1000))
def test_a_resize_keeps_the_aspect_and_the_limits(height, width, size, room):
    aspect = max(height, width) / min(height, width)
    new_height, new_width = resized_shape(height, width, size, size + room)
    shorter, longer = sorted((new_height, new_width))
    assert (new_height <= new_width) if height <= width else (new_width <= new_height)
    assert shorter * aspect - 1 < longer <= shorter * aspect + 1e-6
    assert shorter <= size
    if size * aspect <= size + room:
        assert shorter == size
    elif shorter > 1:
        assert longer <= size + room + aspect / 2 + 1e-6  # the shorter side is rounded by half a pixel at most


@pytest.mark.parametrize("shape", [(90, 120), (120, 90), (50, 200), (120, 160)])
def test_evaluation_resizes_and_normalises(shape):
    preprocessing = Preprocessing(60, 100, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
    grey = tv_tensors.Image(torch.full((3, *shape), 51, dtype=torch.uint8))  # 0.2
    image = preprocessing.transform()(grey)
    assert image.shape == (3, *resized_shape(*shape, 60, 100))
    assert image.dtype == torch.float32
    torch.testing.assert_close(image[:, 0, 0].as_subclass(torch.Tensor), torch.tensor([-0.6, -0.2, 0.1]))
    torch.testing.assert_close(image.as_subclass(torch.Tensor).std((1, 2)), torch.zeros(3))


def test_normalising_leaves_a_picture_of_numbers_as_it_was():
    given = tv_tensors.Image(torch.rand(3, 60, 60))
    before = given.clone()
    image = Preprocessing(60, 100, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0)).transform()(given)
    assert torch.equal(given, before)
    torch.testing.assert_close(image[2].as_subclass(torch.Tensor), before[2].as_subclass(torch.Tensor) / 2)


def test_training_normalises_as_evaluation_does():
    preprocessing = Preprocessing(120, 160, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
    sample = picture_of(120, 160, [(20, 30, 60, 80), (90, 20, 150, 100)])
    image, _ = transformed(AS_IT_IS, *sample, preprocessing=preprocessing)
    assert torch.equal(image, preprocessing.transform()(sample[0]).as_subclass(torch.Tensor))


def test_preprocessing_json_round_trip():
    preprocessing = Preprocessing(800, 1333, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert Preprocessing.from_json(json.loads(json.dumps(preprocessing.to_json()))) == preprocessing


def test_boxes_are_fractions_of_the_transformed_picture():
    image, target = transformed(AS_IT_IS, *picture_of(60, 80, [(20, 30, 40, 60)]))
    assert image.shape == (3, 120, 160)
    torch.testing.assert_close(target.boxes_cxcywh, torch.tensor([[30 / 80, 45 / 60, 20 / 80, 30 / 60]]))


def test_a_flip_mirrors_picture_and_boxes_and_two_flips_are_none():
    sample = picture_of(120, 160, [(20, 30, 60, 80), (90, 20, 150, 100)])
    image, target = transformed(AS_IT_IS, *sample)
    flipped, mirrored = transformed(replace(AS_IT_IS, horizontal_flip=1.0), *sample)
    assert torch.equal(flipped, image.flip(2))
    mirror = torch.tensor([-1.0, 1.0, 1.0, 1.0])
    torch.testing.assert_close(mirrored.boxes_cxcywh, target.boxes_cxcywh * mirror + torch.tensor([1.0, 0.0, 0.0, 0.0]))

    corners = [tuple(map(round, box)) for box in pixels(mirrored, flipped).tolist()]
    back, twice = transformed(replace(AS_IT_IS, horizontal_flip=1.0), *picture_of(120, 160, corners))
    assert torch.equal(back, image)
    torch.testing.assert_close(twice.boxes_cxcywh, target.boxes_cxcywh)


def bounds(bright):
    rows, columns = bright.any(1).nonzero(), bright.any(0).nonzero()
    if len(rows) == 0:
        return torch.zeros(4)
    return torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()


@pytest.mark.parametrize("shape", [(120, 160), (150, 110)])
def test_boxes_and_labels_follow_what_they_are_around(shape):
    sample = picture_of(*shape, [(5, 60, 45, 95), (60, 20, 100, 58)])
    shapes, numbers = set(), set()
    for seed in range(100):
        torch.manual_seed(seed)
        image, target = transformed(EVERYTHING, *sample)
        seen = {
            label: bounds(image[label] > 0.5) for label in (0, 1)
        }  # fmt: skip
        # Two resizes blur an edge by a pixel each, the second enlarging the first.
        for label, box in zip(target.labels.tolist(), pixels(target, image)):
            torch.testing.assert_close(seen.pop(label), box, rtol=0, atol=3.0)
        for x1, y1, x2, y2 in seen.values():  # cropped away, but for a sliver that blurred
            assert min(x2 - x1, y2 - y1) <= 3
        shapes.add(tuple(image.shape[1:]))
        numbers.add(len(target.labels))
        assert min(image.shape[1:]) in EVERYTHING.train_sizes or max(image.shape[1:]) >= EVERYTHING.max_size - 1
    assert len(shapes) > 20
    assert numbers >= {1, 2}


def test_boxes_stay_inside_the_picture_and_keep_their_labels():
    boxes = [(0, 0, 160, 120), (150, 110, 160, 120), (0, 50, 2, 60), (70, 0, 90, 120)]
    for seed in range(60):
        torch.manual_seed(seed)
        image, target = transformed(EVERYTHING, *picture_of(120, 160, boxes, [2, 0, 1, 1]))
        xyxy = pixels(target, image)
        assert len(xyxy) == len(target.labels)
        assert (xyxy >= -1e-4).all()
        assert (xyxy <= torch.tensor(image.shape[:0:-1]).repeat(2) + 1e-4).all()  # rounding
        assert (target.boxes_cxcywh[:, 2:] > 0).all()


@given(st.integers(20, 150), st.integers(20, 150), st.integers(16, 64))
def test_a_box_at_the_border_is_not_lost(height, width, size):
    """Resized in float32, its far side may come to lie a hair outside the picture."""
    config = replace(AS_IT_IS, train_sizes=(size,), max_size=160)
    _, target = transformed(config, *picture_of(height, width, [(0, 0, width, height), (width - 15, 0, width, height)]))
    assert target.labels.tolist() == [0, 1]
    torch.testing.assert_close(target.boxes_cxcywh[0], torch.tensor([0.5, 0.5, 1.0, 1.0]))


def test_what_a_crop_cuts_away_leaves_no_box():
    gone = 0
    for seed in range(40):
        torch.manual_seed(seed)
        config = replace(EVERYTHING, crop_probability=1.0, crop_min=40, crop_max=50)
        _, target = transformed(config, *picture_of(120, 160, [(0, 0, 12, 12)]))
        gone += len(target.labels) == 0
        assert target.boxes_cxcywh.shape == (len(target.labels), 4)
    assert 20 < gone < 40


@pytest.mark.parametrize(
    ("shape", "smallest", "largest"), [((120, 160), 40, 80), ((30, 160), 40, 80), ((10, 10), 40, 80)]
)
def test_a_crop_has_the_sides_that_were_asked_for_as_far_as_the_picture_allows(shape, smallest, largest):
    crop, sides = RandomSizeCrop(smallest, largest), ([], [])
    for seed in range(200):
        torch.manual_seed(seed)
        image, objects = crop(*picture_of(*shape, [(0, 0, 10, 10)]))
        assert objects["boxes"].canvas_size == tuple(image.shape[1:])
        for drawn, side in zip(sides, image.shape[1:]):
            drawn.append(side)
    for drawn, available in zip(sides, shape):
        assert min(drawn) >= min(smallest, available)
        assert max(drawn) <= min(largest, available)
        assert max(drawn) - min(drawn) >= 0.8 * (min(largest, available) - min(smallest, available))


def test_all_sizes_can_be_scaled_down_for_small_pictures():
    for seed in range(30):
        torch.manual_seed(seed)
        image, _ = transformed(DataConfig().resized(64), *picture_of(50, 60, [(10, 10, 30, 30)]))
        assert 38 <= min(image.shape[1:]) <= 64  # 480 to 800, scaled
        assert max(image.shape[1:]) <= 107 + 1


def test_the_seed_decides():
    sample = picture_of(120, 160, [(20, 30, 60, 80)])

    def draw(seed):
        torch.manual_seed(seed)
        return transformed(EVERYTHING, *sample)[0]

    assert torch.equal(draw(3), draw(3))
    assert len({tuple(draw(seed).shape) for seed in range(10)}) > 3


# --- sides that repeat, and zoom ---


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((288, 384), (288, 384)),
        ((384, 288), (384, 288)),
        ((288, 512), (288, 512)),
        ((288, 432), (320, 480)),  # 3 to 2 exactly, rather than 288x416 or 288x448
        ((300, 300), (288, 288)),
        ((20, 20), (32, 32)),
    ],
)
def test_sides_are_snapped_to_multiples(shape, expected):
    assert snapped_shape(*shape, 32) == expected
    assert snapped_shape(*shape, 1) == shape


@given(st.integers(256, 800), st.floats(0.5, 2.0))
def test_snapping_keeps_size_and_aspect_nearly(height, aspect):
    width = round(height * aspect)
    snapped = snapped_shape(height, width, 32)
    assert all(side % 32 == 0 for side in snapped)
    assert snapped[1] / snapped[0] == pytest.approx(width / height, rel=0.08)
    assert snapped[0] * snapped[1] == pytest.approx(height * width, rel=0.35)


def test_preprocessing_of_an_older_model_is_not_snapped():
    values = PLAIN.to_json()
    del values["multiple_of"]
    assert Preprocessing.from_json(values) == PLAIN


@pytest.mark.parametrize(("zoom_in", "zoom_out"), [(0.5, 1.0), (1.0, 1.5), (0.4, 1.6)])
def test_zoom_moves_boxes_with_what_they_are_around(zoom_in, zoom_out):
    zoom = RandomZoom(zoom_in, zoom_out, 1.0)
    for seed in range(30):
        torch.manual_seed(seed)
        image, objects = picture_of(120, 160, [(20, 30, 60, 90), (100, 20, 140, 60)])
        view, left = zoom(image, objects)
        assert view.shape[2] / view.shape[1] == pytest.approx(160 / 120, rel=0.03)
        assert round(120 * zoom_in) <= view.shape[1] <= round(120 * zoom_out)
        assert len(left["labels"]) == len(left["boxes"]) >= 1
        for label, box in zip(left["labels"].tolist(), left["boxes"].tolist()):
            assert bounds(view[label] > 128) == pytest.approx(box, abs=1.01)


def test_zoom_forgets_what_is_hardly_visible_and_never_everything():
    zoom = RandomZoom(0.5, 0.5, 1.0)
    counts = []
    for seed in range(60):
        torch.manual_seed(seed)
        _, left = zoom(*picture_of(100, 100, [(0, 0, 20, 20), (70, 70, 100, 100)]))
        counts.append(len(left["labels"]))
        visible = left["boxes"][:, 2:] - left["boxes"][:, :2]
        whole = torch.tensor([400.0, 900.0])[left["labels"]]
        if len(left["labels"]) < 2:
            assert (visible.prod(1) >= 0.3 * whole - 1e-3).all()
    assert {1, 2} == set(counts)


def test_zoom_works_without_objects():
    view, left = RandomZoom(0.5, 0.9, 1.0)(*picture_of(50, 60))
    assert view.shape[1] < 50
    assert len(left["boxes"]) == 0


def test_colour_changes_the_picture_and_not_the_boxes():
    config = replace(AS_IT_IS, colour=0.4)
    sample = picture_of(120, 160, [(20, 30, 60, 90)])
    images = []
    for seed in range(8):
        torch.manual_seed(seed)
        image, target = transformed(config, *sample)
        images.append(image)
        assert target.boxes_cxcywh[0].tolist() == pytest.approx([0.25, 0.5, 0.25, 0.5])
    assert len({float(image.sum()) for image in images}) > 2


def test_a_share_of_the_size_keeps_the_aspect():
    config = replace(AS_IT_IS, image_size=288, max_size=480, train_sizes=(), multiple_of=32)
    image, target = training_transform(config, PLAIN, 2 / 3)(*picture_of(240, 320, [(80, 60, 160, 120)]))
    assert image.shape[1:] == (192, 256)
    assert to_target(image, target).boxes_cxcywh[0].tolist() == pytest.approx([0.375, 0.375, 0.25, 0.25])
