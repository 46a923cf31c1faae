"""Boxes after each augmentation are where their objects are: every object has its own colour and is looked for."""

import json
import pickle
import random
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from opendetr.config import DataConfig
from opendetr.data.augmentation import STRENGTHS, OwnTransform
from opendetr.data.cache import build_cache
from opendetr.data.door import load_index
from opendetr.data.index import DatasetIndex
from opendetr.data.loader import DetectionDataset
from opendetr.data.source import DataSource
from opendetr.data.transforms import Preprocessing, training_transform
from opendetr.errors import UserError
from opendetr.recipes.recipe import resolve_config

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
BOXES = ((20, 30, 80, 70), (100, 20, 130, 90), (60, 100, 140, 120))  # x1, y1, x2, y2
EXACT = 1.5  # pixels by which the edges of a resized rectangle may differ: half of one, blurred over its neighbours
OWN = '''
import random
import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

turn = v2.RandomAffine(0, translate=(0.2, 0.2), scale=(0.7, 1.2))
mirror = v2.RandomHorizontalFlip(1.0)
number = 7

def made():
    return v2.RandomRotation((90, 90), expand=True)

def fails():
    return lambda image, objects: 1 / 0

def loses_labels():
    return lambda image, objects: (image, {"boxes": objects["boxes"][:1], "labels": objects["labels"]})

def grey():
    return lambda image, objects: (image.float(), objects)

def renumbers():
    return lambda image, objects: (image, {**objects, "labels": objects["labels"] + 50})

def floats():
    return lambda image, objects: (image, {**objects, "labels": objects["labels"].float()})

def nothing_left():
    return lambda image, objects: (image[:, :0], objects)

def picture_only():
    return lambda image, objects: image

def not_finite():
    return lambda image, objects: (image, lost(objects))

def lost(objects):
    return {**objects, "boxes": tv_tensors.wrap(objects["boxes"] * float("nan"), like=objects["boxes"])}

def plain(image, objects):
    return mirror(image, objects)

class Plain:
    def __call__(self, image, objects):
        return mirror(image, objects)

called = Plain()
warp = v2.RandomPerspective(0.4, p=1.0)
rotate = v2.RandomRotation(25)

def writes():
    def write(image, objects):
        image[:, :20, :20] = 255
        objects["boxes"][:, 0] += 3
        objects["labels"].zero_()
        return image, objects
    return write

class Drawing(torch.nn.Module):
    """Paints one pixel with numbers of all three generators."""
    def forward(self, image, objects):
        drawn = (int(torch.randint(256, ())), random.randrange(256), int(np.random.randint(256)))
        image = image.clone()
        image[:, 0, 0] = torch.tensor(drawn, dtype=torch.uint8)
        return image, objects
'''


@pytest.fixture
def index(tmp_path):
    """One picture of 160 x 130 pixels, black with three rectangles."""
    pixels = np.zeros((130, 160, 3), np.uint8)
    for (x1, y1, x2, y2), colour in zip(BOXES, COLOURS, strict=True):
        pixels[y1:y2, x1:x2] = colour
    return one_picture(tmp_path, pixels, BOXES)


def one_picture(folder, pixels, boxes):
    (folder / "data" / "annotations").mkdir(parents=True)
    (folder / "data" / "images").mkdir()
    Image.fromarray(pixels).save(folder / "data" / "images" / "one.png")
    objects = [
        {"id": n, "image_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": n, "iscrowd": 0, "area": 1}
        for n, (x1, y1, x2, y2) in enumerate(boxes, 1)
    ]
    content = {
        "images": [{"id": 1, "file_name": "one.png", "width": pixels.shape[1], "height": pixels.shape[0]}],
        "annotations": objects,
        "categories": [{"id": n, "name": f"c{n}"} for n in range(1, len(boxes) + 1)],
    }
    (folder / "data" / "annotations" / "train.json").write_text(json.dumps(content))
    return load_index(DataSource.of(folder / "data"), "train")


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A function that makes a transform of the user's from a module in the current folder."""
    (tmp_path / "my_augmentation.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_augmentation", raising=False)
    return lambda name: OwnTransform(f"my_augmentation:{name}")


def augmented(index: DatasetIndex, data: DataConfig, count: int, transform=None):
    """Samples of the picture: pixels 0..1 [3, H, W], and the box [x1, y1, x2, y2] of every label that is left."""
    plain = Preprocessing(data.image_size, data.max_size, (0.0,) * 3, (1.0,) * 3)
    dataset = DetectionDataset(index, training_transform(data, plain), own_transform=transform)
    for key in range(count):
        image, target, _ = dataset[key]
        height, width = image.shape[1:]
        centre, size = target.boxes_cxcywh.split(2, 1)
        corners = torch.cat([centre - size / 2, centre + size / 2], 1) * torch.tensor([width, height] * 2)
        yield image, dict(zip(target.labels.tolist(), corners, strict=True))


def seen(image, label):
    """The box of the pixels in the colour of an object, from their mass, as far as colours may have changed."""
    others = torch.cat([image[:label], image[label + 1 :]]).amax(0)
    own_colour = (image[label] - others).clamp(min=0)
    rows, columns = (torch.where(own_colour.amax(side) > 0.3)[0] for side in (1, 0))
    if not len(rows) or not len(columns):
        return None
    return torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=torch.float32)


@pytest.mark.parametrize("recipe", ["fast", "paper"])
@pytest.mark.parametrize("augment", STRENGTHS)
def test_boxes_follow_their_objects(index, recipe, augment):
    size = {"data.image_size": 96, "data.max_size": 160, "data.zoom_in": 0.6, "data.zoom_out": 1.4}
    size |= {"data.crop_resize": (120,), "data.crop_min": 80, "data.crop_max": 120}
    size |= {"data.train_sizes": (80, 96), "data.horizontal_flip": 0.5, "data.vertical_flip": 0.5}
    data = resolve_config(recipe, options={**size, **STRENGTHS[augment]}).data
    shapes, places = set(), set()
    for image, boxes in augmented(index, data, 40):
        assert boxes, "no object is left"
        shapes.add(tuple(image.shape))
        for label, box in boxes.items():
            torch.testing.assert_close(box, seen(image, label), atol=EXACT, rtol=0)
            places.add((label, *box.round().int().tolist()))
    if augment == "none":
        assert len(shapes) == 1
        assert len(places) == 3
    else:
        assert len(places) > 10


@pytest.mark.parametrize("name", ["mirror", "plain", "called", "Plain"])
def test_what_may_be_a_transform(index, own, name):
    """A module, a function of picture and objects, an object that is called so, or its class."""
    data = resolve_config("fast", options={"data.image_size": 128, "data.max_size": 160, **STRENGTHS["none"]}).data
    ((_, boxes),) = augmented(index, data, 1, own(name))
    assert boxes[0][0] == pytest.approx((160 - 80) * 158 / 160, abs=EXACT)


@pytest.mark.parametrize("name", ["turn", "made", "warp", "rotate"])
def test_boxes_follow_a_transform_of_ones_own(index, own, name):
    """A part may be outside the picture then; what is left has its box."""
    data = resolve_config("fast", options={"data.image_size": 96, "data.max_size": 160, **STRENGTHS["none"]}).data
    places = set()
    for image, boxes in augmented(index, data, 20, own(name)):
        if name == "made":
            assert image.shape[1:] == (128, 96)
        for label, box in boxes.items():
            if (found := seen(image, label)) is not None:  # a sliver of less than a pixel is blurred away
                torch.testing.assert_close(box, found, atol=EXACT, rtol=0)
                places.add((label, *box.round().int().tolist()))
    assert len(places) == 3 if name == "made" else len(places) > 10


def test_a_sample_does_not_depend_on_those_before_it(index, own):
    """Nor on the process: all three generators are seeded, and are as before afterwards."""
    drawing = own("Drawing")
    data = resolve_config("fast", options={"data.image_size": 128, "data.max_size": 160, **STRENGTHS["none"]}).data
    transform = training_transform(data, Preprocessing(128, 160, (0.0,) * 3, (1.0,) * 3))
    dataset = DetectionDataset(index, transform, own_transform=drawing)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state()
    random.seed(1)
    expected = [random.random() for _ in range(1000)]
    random.seed(1)
    first, second, again = dataset[0][0], dataset[1][0], dataset[0][0]
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert np.random.get_state()[1].tolist() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert random.random() in expected  # later than the first one: the checks of types in tests draw some too
    dataset.own_transform = pickle.loads(pickle.dumps(drawing))  # as a loader process has it
    assert torch.equal(dataset[1][0], second)


@pytest.mark.parametrize("cached", [False, True])
def test_what_a_transform_writes_in_place_stays_in_its_sample(index, own, cached):
    """The cache and the index keep what they had: the next time the picture is as it was."""
    config = DataConfig(cache="ram" if cached else "none")
    cache = build_cache(config, index.sizes)
    dataset = DetectionDataset(index, v2.Identity(), cache=cache, own_transform=own("writes"))
    first, second = dataset[0], dataset[0]
    assert torch.equal(first[0], second[0])
    assert all(map(torch.equal, first[1], second[1]))
    dataset.own_transform = None
    image, target, _ = dataset[0]
    assert image[:, :20, :20].eq(0).all()
    assert target.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_augmentation", "expected MODULE:NAME"),
        ("no_such_module:x", "it cannot be made .ModuleNotFoundError: No module named 'no_such_module'"),
        ("my_augmentation:nothing", "it cannot be made .AttributeError"),
        ("my_augmentation:number", "it cannot be made .TypeError"),
    ],
)
def test_what_is_no_transform(own, name, said):
    with pytest.raises(UserError, match=f"--transform {name}: {said}"):
        OwnTransform(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fails", "ZeroDivisionError: division by zero"),
        ("loses_labels", "one for each of the labels"),
        ("grey", "must be a uint8 tensor"),
        ("renumbers", "must be some of those it gets"),
        ("floats", "must be some of those it gets"),
        ("nothing_left", "has no pixels"),
        ("picture_only", "must return two things"),
        ("not_finite", "boxes it returns are not finite"),
    ],
)
def test_a_transform_that_fails_names_the_picture(index, own, name, said):
    dataset = DetectionDataset(index, v2.Identity(), own_transform=own(name))
    with pytest.raises(UserError, match=rf"--transform my_augmentation:{name} fails on .*one\.png .*{said}"):
        dataset[0]
