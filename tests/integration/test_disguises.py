"""One picture, stored in many ways without loss, gives one answer in every command."""

import json

import numpy as np
import pytest
from PIL import Image

from opendetr import api

TOLERANCE = 1e-3  # of scores, boxes in pixels and AP; the pixels are equal, the pictures are in other batches
TURNED = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


@pytest.fixture(scope="module")
def scene(digits):
    """A grey scene of digits that uses all of 0 to 255, and its truth."""
    truth = json.loads((digits / "annotations" / "val.json").read_text())
    image = truth["images"][0]
    grey = np.asarray(Image.open(digits / "images" / image["file_name"]).convert("L")).astype(np.float64)
    stretched = (grey - grey.min()) * 255 / (grey.max() - grey.min())
    found = [entry for entry in truth["annotations"] if entry["image_id"] == image["id"]]
    return Image.fromarray(stretched.round().astype(np.uint8)), {**truth, "images": [image], "annotations": found}


def disguised(folder, grey):
    """The picture in many files without loss; the first is the plain one."""
    folder.mkdir(parents=True)
    values = np.asarray(grey)
    assert (values.min(), values.max()) == (0, 255)
    saved = {
        "0.png": grey, "rgb.bmp": grey.convert("RGB"), "lzw.tif": grey, "alpha.png": grey.convert("RGBA"),
        "palette.gif": grey.convert("P"), "16.png": Image.fromarray(values.astype(np.uint16) * 257),
        "12.tif": Image.fromarray((values * (4095 / 255)).round().astype(np.uint16)),
        "float.tif": Image.fromarray(values.astype(np.float32) / 255),
        "32.tif": Image.fromarray(values.astype(np.int32)),
        "a.pgm": grey, "a.webp": grey.convert("RGB"), "a.jp2": grey,
    }  # fmt: skip
    options = {"a.webp": {"lossless": True}, "a.jp2": {"irreversible": False}, "lzw.tif": {"compression": "tiff_lzw"}}
    for name, image in saved.items():
        image.save(folder / name, **options.get(name, {}))
    for orientation, turn in TURNED.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        grey.transpose(turn).save(folder / f"turned-{orientation}.png", exif=exif)
    grey.save(folder / "wrong.jpg", format="PNG")
    return sorted(folder.iterdir())


def test_predict_val_and_explain_do_not_see_the_disguise(tiny_run, scene, tmp_path):
    grey, truth = scene
    paths = disguised(tmp_path / "pictures", grey)
    found = json.loads(api.predict(tiny_run, [str(tmp_path / "pictures")], tmp_path / "found", threshold=0).read_text())
    of_file = {
        path.name: [(one["score"], *one["bbox"]) for one in found if one["file_name"] == path.name] for path in paths
    }
    assert len(of_file["0.png"]) == 10
    for name, detections in of_file.items():
        assert detections == pytest.approx(np.array(of_file["0.png"]), abs=TOLERANCE), name

    summaries = []
    for names in ([paths[0].name] * len(paths), [path.name for path in paths]):
        data = tmp_path / f"data-{len(summaries)}"
        (data / "images").mkdir(parents=True)
        images, annotations = [], []
        for number, name in enumerate(names):
            stored = f"{number}-{name}"
            (data / "images" / stored).write_bytes((tmp_path / "pictures" / name).read_bytes())
            images.append({**truth["images"][0], "id": number, "file_name": stored})
            annotations += [{**entry, "image_id": number} for entry in truth["annotations"]]
        annotations = [{**entry, "id": number} for number, entry in enumerate(annotations, start=1)]
        (data / "annotations").mkdir()
        (data / "annotations" / "val.json").write_text(
            json.dumps({**truth, "images": images, "annotations": annotations})
        )
        summaries.append(api.val(tiny_run, data, "val").summary)
    assert summaries[1] == pytest.approx(summaries[0], abs=TOLERANCE)

    plain, other = (tmp_path / "pictures" / name for name in ("0.png", "16.png"))
    api.explain(tiny_run, [str(plain), str(other)], tmp_path / "explained", at_most=1)
    arrays = [dict(np.load(tmp_path / "explained" / f"{path.stem}.npz")) for path in (plain, other)]
    assert arrays[0].keys() == arrays[1].keys()
    for name, values in arrays[0].items():
        np.testing.assert_allclose(arrays[1][name], values, atol=TOLERANCE)
