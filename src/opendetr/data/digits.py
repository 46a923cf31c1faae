"""Digit scenes: a small data set of real handwriting on real photographs, made from what scikit-learn ships.

No download: the 1,797 digits (8 x 8 pixels) and the two photographs are files of the scikit-learn package.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageEnhance
from PIL.PngImagePlugin import PngInfo

from opendetr.errors import UserError
from opendetr.files import read_json, replacing_folder, write_json

DESCRIPTION = "opendetr digit scenes: handwritten digits on darkened photographs"
SOURCES = [
    "digits: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, "
    "https://archive.ics.uci.edu/dataset/80 (CC BY 4.0); the copy of its test set in scikit-learn's load_digits",
    "china.jpg of scikit-learn: released under a creative commons license "
    "(https://creativecommons.org/licenses/by/2.0/), by danielbuechele, https://www.flickr.com/photos/danielbuechele/",
    "flower.jpg of scikit-learn: released under a creative commons license "
    "(https://creativecommons.org/licenses/by/2.0/), retrieved from https://www.flickr.com/photos/vultilion/6056698931/",
]
SIDE = 128  # pixels, height and width of a scene
LONGEST_SIDE = (33, 64)  # pixels, of a digit's box, which may be one shorter
MAX_TURN = 25.0  # degrees either way
MAX_OVERLAP = 0.2  # intersection of two boxes over the area of the smaller one
PLACEMENTS = 30  # tries before a digit without a free place is left out

_CELL = 8  # pixels of the enlarged digit per original pixel
# Grey value of the enlarged digit -> opacity. No value lies between 0 and 32: every pixel inside a box is visible.
# Close to proportional, so that a loop which the 8 x 8 pixels hardly resolve still shows as a dimmer spot.
_OPACITY = np.array([0 if value < 80 else 32 + 223 * (value - 80) // 175 for value in range(256)], dtype=np.uint8)


@dataclass(frozen=True)
class _Split:
    """What a split may use. No two splits share a digit or a column of a photograph."""

    name: str
    number: int
    sixths: tuple[int, ...]  # of the digits of each class, counted in their order
    columns: tuple[int, int]  # of both photographs, the last one excluded

    def digits(self, classes: np.ndarray) -> np.ndarray:
        """Indices of the split's digits, the same share of every class; `classes` [1797] are those of all digits."""
        of_class = [np.flatnonzero(classes == digit) for digit in range(10)]
        return np.concatenate([indices[sixth::6] for indices in of_class for sixth in self.sixths])


SPLITS = (
    _Split("train", 0, (0, 1, 2, 3), (0, 384)),
    _Split("val", 1, (4,), (384, 512)),
    _Split("test", 2, (5,), (512, 640)),
)


class _Material(NamedTuple):
    digits: np.ndarray  # [1797, 8, 8] uint8, 0..255
    classes: np.ndarray  # [1797] 0..9
    of_split: dict[str, np.ndarray]  # split -> indices of its digits
    photos: tuple[Image.Image, ...]  # 640 x 427 RGB


class _Scene(NamedTuple):
    background: Image.Image  # before the digits
    picture: Image.Image  # with them
    digits: list[int]  # which of the 1797, in drawing order
    boxes: list[tuple[int, int, int, int]]  # xyxy pixel edges: the bounds of what each digit changes


def write_digits(root: Path, scenes: int = 500, seed: int = 0) -> dict[str, int]:
    """Write digit scenes to `root` as a COCO data set: `annotations/SPLIT.json` and `images/SPLIT_00000.png`.

    Scene i of a split depends on the seed and i only. Earlier digit scenes in `root` are replaced; they stay whole
    until all new pictures are written, and the annotations come last.

    Args:
        root: the data set's folder, made where missing.
        scenes: number of training scenes; val and test have a fifth of it each, at least 4 and at most 100.
        seed: of everything that is random, 0 or more.

    Returns:
        Split -> number of scenes.

    Raises:
        UserError: fewer than one scene, a negative seed, other data in `root`, or scikit-learn is not installed.
    """
    root = Path(root)
    if scenes < 1 or seed < 0:
        raise UserError(f"digit scenes need at least 1 scene and a seed of 0 or more, not {scenes} and {seed}")
    for path in _in_the_way(root):
        raise UserError(
            f"{root} holds other data: {path} is not part of digit scenes; expected a new folder or one with earlier "
            f"digit scenes, so choose another folder or move the data away"
        )
    material = _load_material()
    held_out = min(100, max(4, scenes // 5))
    counts = {split.name: scenes if split.name == "train" else held_out for split in SPLITS}
    with replacing_folder(root / "images") as images:
        contents = {split.name: _write_split(images, split, counts[split.name], seed, material) for split in SPLITS}
        for name in counts:  # from here on the earlier data set is gone
            (root / "annotations" / f"{name}.json").unlink(missing_ok=True)
    for name, content in contents.items():
        write_json(root / "annotations" / f"{name}.json", content)
    return counts


def crowd_scenes(
    instances: int, side: int, seed: int = 0
) -> Iterator[tuple[int, Image.Image, list[tuple[int, int, int, int]]]]:
    """Yield for every class a scene with `instances` of its test digits: class, RGB picture, boxes (xyxy).

    Digits without a free place are left out, so there may be fewer boxes. The canvas has `side` pixels, and digits are
    as large as in ordinary scenes.
    """
    material, split = _load_material(), SPLITS[-1]
    of_split = material.of_split[split.name]
    for digit in range(10):
        rng = np.random.default_rng((seed, split.number, digit, instances))
        of_class = of_split[material.classes[of_split] == digit]
        scene = _empty_scene(material.photos, split.columns, rng, side)
        for _ in range(instances):
            _add_digit(scene, material, int(rng.choice(of_class)), rng)
        yield digit, scene.picture, scene.boxes


def _in_the_way(root: Path) -> Iterator[Path]:
    """What would be overwritten and is not of earlier digit scenes."""
    folders = {root / "annotations": _is_own_annotation, root / "images": _is_own_picture}
    yield from (path for path in (root, *folders) if path.exists() and not path.is_dir())
    for folder, is_own in folders.items():
        yield from (path for path in sorted(folder.glob("[!.]*")) if not is_own(path))


def _is_own_annotation(path: Path) -> bool:
    if path.name not in {f"{split.name}.json" for split in SPLITS}:
        return False
    try:
        return bool(read_json(path, "digit scenes")["info"]["description"] == DESCRIPTION)
    except (UserError, KeyError, TypeError):
        return False


def _is_own_picture(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.info.get("Description") == DESCRIPTION
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def photographs() -> tuple[Image.Image, ...]:
    """The two photographs, 640 x 427 RGB; UserError if scikit-learn is missing."""
    try:
        from sklearn.datasets import load_sample_image
    except ImportError:
        raise UserError(
            "the two photographs of scikit-learn are needed; pip install 'opendetr[export]', or give --data DIR"
        ) from None
    return tuple(Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg"))


def _load_material() -> _Material:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("digit scenes are made from scikit-learn's digits; pip install 'opendetr[demo]'") from None
    digits = load_digits()
    grey = (digits.images * (255 / 16)).round().astype(np.uint8)
    of_split = {split.name: split.digits(digits.target) for split in SPLITS}
    return _Material(grey, digits.target, of_split, photographs())


def _write_split(images: Path, split: _Split, count: int, seed: int, material: _Material) -> dict[str, Any]:
    """Write the split's pictures to the folder `images`; return its COCO content."""
    mark = PngInfo()
    mark.add_text("Description", DESCRIPTION)
    coco: dict[str, Any] = {
        "info": {"description": DESCRIPTION, "split": split.name, "seed": seed, "sources": SOURCES},
        "images": [], "annotations": [],
        "categories": [{"id": digit, "name": str(digit)} for digit in range(10)],
    }  # fmt: skip
    for i in range(count):
        scene = _scene(material, split, i, seed)
        file_name, image_id = f"{split.name}_{i:05d}.png", 1 + i * len(SPLITS) + split.number
        scene.picture.save(images / file_name, compress_level=1, pnginfo=mark)
        coco["images"].append({"id": image_id, "file_name": file_name, "width": SIDE, "height": SIDE})
        for digit, (x1, y1, x2, y2) in zip(scene.digits, scene.boxes):
            width, height = float(x2 - x1), float(y2 - y1)
            coco["annotations"].append({
                "id": len(coco["annotations"]) + 1, "image_id": image_id, "category_id": int(material.classes[digit]),
                "bbox": [float(x1), float(y1), width, height], "area": width * height, "iscrowd": 0,
            })  # fmt: skip
    return coco


def _scene(material: _Material, split: _Split, i: int, seed: int) -> _Scene:
    """Scene `i` of a split: one to four light digits on a dark background."""
    rng = np.random.default_rng((seed, split.number, i))
    scene = _empty_scene(material.photos, split.columns, rng, SIDE)
    for _ in range(rng.integers(1, 5)):
        _add_digit(scene, material, int(rng.choice(material.of_split[split.name])), rng)
    return scene


def _add_digit(scene: _Scene, material: _Material, digit: int, rng: np.random.Generator) -> None:
    """Draw one of the 1797 digits where it hardly overlaps the others; leave it out where there is no room."""
    turn, longest = rng.uniform(-MAX_TURN, MAX_TURN), int(rng.integers(LONGEST_SIDE[0], LONGEST_SIDE[1] + 1))
    opacity = _render_digit(material.digits[digit], turn, longest)
    box = _place(opacity.size, scene.boxes, rng, scene.picture.width)
    if box is not None:
        red, green, blue = rng.integers(190, 256, 3).tolist()
        scene.picture.paste((red, green, blue), box, opacity)
        scene.digits.append(digit)
        scene.boxes.append(box)


def _empty_scene(
    photos: tuple[Image.Image, ...], columns: tuple[int, int], rng: np.random.Generator, canvas: int
) -> _Scene:
    """A darkened square from the given columns of a photograph, mirrored half of the time, RGB of at most 115."""
    photo = photos[rng.integers(len(photos))]
    side = int(rng.integers(80, 129))
    left = int(rng.integers(columns[0], columns[1] - side + 1))
    top = int(rng.integers(0, photo.height - side + 1))
    crop = photo.crop((left, top, left + side, top + side)).resize((canvas, canvas), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    background = ImageEnhance.Brightness(crop).enhance(rng.uniform(0.2, 0.45))
    return _Scene(background, background.copy(), [], [])


def _render_digit(digit: np.ndarray, turn: float, longest: int) -> Image.Image:
    """The opacity (8-bit grey) of a digit [8, 8] turned by degrees, its longer side `longest` pixels or one fewer.

    Every row and column at its rim has pixels that are not 0.
    """
    room = Image.fromarray(np.pad(digit, 2))  # for the corners to turn in
    enlarged = room.resize((room.width * _CELL, room.height * _CELL), Image.Resampling.BICUBIC)
    turned = enlarged.rotate(turn, Image.Resampling.BILINEAR)
    tight = turned.crop(_opacity(turned).getbbox())
    scale = longest / max(tight.size)
    width, height = (max(1, round(side * scale)) for side in tight.size)
    opacity = _opacity(tight.resize((width, height), Image.Resampling.BICUBIC))
    return opacity.crop(opacity.getbbox())


def _opacity(grey: Image.Image) -> Image.Image:
    return Image.fromarray(_OPACITY[np.asarray(grey)])


def _place(
    size: tuple[int, int], taken: list[tuple[int, int, int, int]], rng: np.random.Generator, canvas: int
) -> tuple[int, int, int, int] | None:
    """A box of the size (width, height) that hardly overlaps the others; None if none was found."""
    for _ in range(PLACEMENTS):
        x, y = (int(rng.integers(0, canvas - side + 1)) for side in size)
        box = (x, y, x + size[0], y + size[1])
        if all(_overlap(box, other) <= MAX_OVERLAP for other in taken):
            return box
    return None


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Intersection over the area of the smaller box."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(0, width) * max(0, height) / smaller
