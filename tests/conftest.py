import json
import os
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook
from PIL import Image, ImageDraw

os.environ.setdefault("OMP_NUM_THREADS", "1")  # pytest -n 2 on two cores: more threads would wait for each other
install_import_hook("opendetr", "checked.check")  # before anything imports opendetr

from opendetr.data.digits import write_digits  # noqa: E402
from opendetr.exporting import fastest_engine  # noqa: E402

TESTS = Path(__file__).parent
# Beside the functions themselves: trainings of both recipes, evaluation, predictions and explanations.
CHECKED = (
    "unit/",
    "parity/",
    "integration/test_match_stability",
    "integration/test_measure_and_detect",
    "integration/test_explain",
)
for checked in CHECKED:
    assert any(TESTS.glob(f"{checked}*")), f"CHECKED names {checked}, where no test is"
LAYOUTS = {  # annotation file and picture folder of a split
    "plain": ("annotations/{split}.json", "images"),
    "coco2017": ("annotations/instances_{split}2017.json", "{split}2017"),
    "roboflow": ("{split}/_annotations.coco.json", "{split}"),
}


@pytest.fixture(autouse=True)
def same_numbers():
    """What a test draws does not hang on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def shapes_checked(request):
    """Annotated shapes are checked at every call in these tests; in all tests the checks took a third of the time."""
    place = request.path.relative_to(TESTS).as_posix()
    jaxtyping.config.update("jaxtyping_disable", not place.startswith(CHECKED))


@pytest.fixture(scope="session", autouse=True)
def traced_unchecked():
    """Checking symbolic shapes takes a quarter of the time of tracing a model; real ones are checked."""
    trace = torch.export.export

    def export(*args, **options):
        before = jaxtyping.config.jaxtyping_disable
        jaxtyping.config.update("jaxtyping_disable", True)
        try:
            return trace(*args, **options)
        finally:
            jaxtyping.config.update("jaxtyping_disable", before)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.export, "export", export)
        yield


@pytest.fixture(autouse=True)
def torch_alone(monkeypatch):
    """`auto` chooses PyTorch, as where nothing else is installed: preparing an engine takes longer than most tests."""
    monkeypatch.setattr(fastest_engine, "is_installed", lambda engine: engine == "torch")


@pytest.fixture
def coco_folder(tmp_path) -> Callable[..., Path]:
    """Writes a small data set: noise with a light rectangle per object; every call makes a folder of its own.

    Image, annotation and category ids count from 1; pictures are called SPLIT_0.png, SPLIT_1.png, ...
    """
    numbers = count()

    def write(
        boxes_per_picture: Sequence[int] = (1, 2, 0, 3),
        splits: Sequence[str] = ("train",),
        layout: str = "plain",
        names: Sequence[str] = ("circle", "square", "star"),
        size: tuple[int, int] = (64, 48),
    ) -> Path:
        root, (width, height) = tmp_path / f"data-{next(numbers)}", size
        image_id = 0
        for split in splits:
            source, pictures = (root / name.format(split=split) for name in LAYOUTS[layout])
            source.parent.mkdir(parents=True, exist_ok=True)
            pictures.mkdir(exist_ok=True)
            coco = {"images": [], "annotations": [], "categories": []}
            coco["categories"] = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
            for number, boxes in enumerate(boxes_per_picture):
                image_id += 1
                rng = np.random.default_rng(image_id)
                picture = Image.fromarray(rng.integers(0, 60, (height, width, 3), dtype=np.uint8))
                for _ in range(boxes):
                    w, h = int(rng.integers(8, width // 2)), int(rng.integers(8, height // 2))
                    x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
                    category = int(rng.integers(len(names)))
                    ImageDraw.Draw(picture).rectangle(
                        (x, y, x + w - 1, y + h - 1), (150 + 40 * (category % 3), 200, 200)
                    )
                    coco["annotations"].append(
                        {"id": len(coco["annotations"]) + 1, "image_id": image_id, "category_id": category + 1,
                         "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
                    )  # fmt: skip
                file_name = f"{split}_{number}.png"
                picture.save(pictures / file_name)
                coco["images"].append({"id": image_id, "file_name": file_name, "width": width, "height": height})
            source.write_text(json.dumps(coco))
        return root

    return write


@pytest.fixture
def edit_json() -> Callable[[Path, Callable[[Any], Any]], None]:
    """Changes what a JSON file holds."""

    def edit(path: Path, change: Callable[[Any], Any]) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edit


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """A folder of digit scenes, 24 for training and 4 each for val and test; to look at, never to change."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    write_digits(folder, scenes=24)
    return folder


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data sets."""
    folder = os.environ.get("OPENDETR_TEST_DATA")
    if not folder:
        pytest.skip(
            "set OPENDETR_TEST_DATA to the folder of real data sets (bccd, cards, cocoeval_ref) to run this test"
        )
    return Path(folder)
