"""What docs/tasks/labelling.md offers to other tools."""

import re
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image

from opendetr import Detector

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("threshold", [None, 0.05])
def test_the_function_for_cvat(tiny_run, digits, threshold):
    pytest.importorskip("cvat_sdk", reason="pip install cvat-sdk runs the test of the function for CVAT")
    from cvat_sdk.auto_annotation import DetectionFunctionSpec

    function = runpy.run_path(str(ROOT / "examples" / "cvat_function.py"))["create"](model=str(tiny_run))
    assert isinstance(function.spec, DetectionFunctionSpec)
    assert [label.name for label in function.spec.labels] == [str(digit) for digit in range(10)]
    with Image.open(sorted((digits / "images").glob("val_*.png"))[0]) as image:
        shapes = function.detect(SimpleNamespace(conf_threshold=threshold, frame_name="a.png"), image)
        expected = Detector.load(tiny_run).predict(image, threshold).visible()
    assert [shape.label_id for shape in shapes] == expected.labels.tolist()
    assert [shape.points for shape in shapes] == [list(one.box_xyxy) for one in expected]
    assert all(shape.type.value == "rectangle" for shape in shapes)


def test_the_code_for_fiftyone(tiny_run, digits, tmp_path, monkeypatch):
    """With fiftyone, or with something that has the three names which the page uses."""
    code = re.search(
        r"```python\n(import fiftyone\n.*?)```", (ROOT / "docs" / "tasks" / "labelling.md").read_text(), re.DOTALL
    )[1]
    pictures = sorted((digits / "images").glob("val_*.png"))[:2]
    kept = []

    class Sample(dict):
        def __init__(self, path):
            super().__init__()
            self.filepath = str(path)

    class Dataset:
        @classmethod
        def from_images_dir(cls, folder):
            assert folder == "photos"
            return cls()

        def iter_samples(self, *, autosave):
            assert autosave
            for path in pictures:
                kept.append(Sample(path))
                yield kept[-1]

    stand_in = ModuleType("fiftyone")
    stand_in.Dataset, stand_in.Detections, stand_in.Detection = Dataset, SimpleNamespace, SimpleNamespace
    monkeypatch.setitem(sys.modules, "fiftyone", stand_in)
    exec(code.replace("runs/mine", str(tiny_run)), {})
    detector = Detector.load(tiny_run)
    for sample, path in zip(kept, pictures, strict=True):
        expected = detector.predict(path).visible()
        assert [one.label for one in sample["opendetr"].detections] == expected.names
        for one, wanted in zip(sample["opendetr"].detections, expected, strict=True):
            x, y, width, height = one.bounding_box
            rows, columns = expected.image_size
            box = (x * columns, y * rows, (x + width) * columns, (y + height) * rows)
            assert box == pytest.approx(wanted.box_xyxy, abs=1e-4)
            assert one.confidence == wanted.score


def test_the_code_for_supervision(tiny_run, digits, tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "tasks" / "labelling.md").read_text()
    code = re.search(r"```python\n(import numpy.*?)```", page, re.DOTALL)[1]
    path = sorted((digits / "images").glob("val_*.png"))[0]
    (tmp_path / "photo.jpg").write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code.replace("runs/mine", str(tiny_run)).replace(".predict(picture)", ".predict(picture, 0.0)"), names)
    expected = Detector.load(tiny_run).predict(path, 0.0).visible()
    found = names["found"]
    assert len(found) > 0
    assert found.data["class_name"].tolist() == expected.names
    assert found.xyxy == pytest.approx(expected.boxes_xyxy.numpy())
    assert f" of {len(expected)} objects" in capsys.readouterr().out
    with Image.open("drawn.jpg") as drawn:
        assert drawn.size == names["picture"].size
        assert drawn.tobytes() != names["picture"].tobytes()
