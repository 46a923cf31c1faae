from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opendetr.data.check import require_size
from opendetr.data.index import Record, index_of_records
from opendetr.errors import UserError
from opendetr.images import check_image
from opendetr.labels import LabelMap


@pytest.fixture
def index(tmp_path):
    """Makes a data set of pictures 160x120 upright, stored as 120x160, whose annotations say the stored size."""

    def make(*boxes_xyxy, orientation=6):
        records = []
        for number, box in enumerate(boxes_xyxy):
            path = tmp_path / f"{number}.jpg"
            exif = Image.Exif()
            exif[0x0112] = orientation
            Image.new("RGB", (120, 160)).save(path, exif=exif)
            kept = np.array(box, np.float32).reshape(-1, 4).clip(0, (120, 160, 120, 160))
            records.append(Record(number, path, 120, 160, np.zeros(len(kept), np.int64), kept))
        labels = LabelMap.from_categories([{"id": 1, "name": "cell"}], "train.json")
        return replace(index_of_records(records, labels, Path("data.json")), source=tmp_path / "train.json")

    return make


UPRIGHT = "the boxes fit the upright pictures: only width and height need correcting"


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        ([[5, 5, 20, 20], [100, 5, 150, 60]], UPRIGHT),
        ([[5, 5, 20, 20], [5, 100, 60, 150]], "the boxes fit the pictures before they are turned: turn the boxes too"),
        ([[5, 5, 20, 20]], "the boxes fit either way"),
        ([[]], "the boxes fit either way"),
    ],
)
def test_sizes_exchanged_by_exif_are_named_with_the_boxes_convention(index, boxes, said):
    data = index(*boxes)
    record = data.records[0]
    with pytest.raises(UserError, match=said) as caught:
        require_size(record, check_image(record.path), data)
    assert "0.jpg is 160x120 pixels upright, as its EXIF orientation 6 turns it, but" in str(caught.value)
    assert "train.json says 120x160, the size before it is turned; " in str(caught.value)


def test_without_exif_the_size_is_simply_wrong(index):
    data = index([5, 5, 20, 20], orientation=1)
    with pytest.raises(
        UserError, match=r"is 160x120 pixels, but .* its boxes would be wrong, so correct the annotation"
    ):
        require_size(data.records[0], (160, 120), data)
    require_size(data.records[0], (120, 160), data)
