"""Files that are in an archive or at an address: found, opened and told apart like others."""

import os
import shutil
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from torchvision.transforms import v2

from opendetr.config import DataConfig
from opendetr.data.cache import DiskCache, build_cache
from opendetr.data.check import check_pictures, shared_pictures
from opendetr.data.door import has_split, load_index
from opendetr.data.loader import DetectionDataset, training_loader
from opendetr.data.transforms import Preprocessing
from opendetr.errors import UserError
from opendetr.images import image_size, read_image
from opendetr.locations import file_path, file_state, folder_path


def zipped(folder: Path, *above: str) -> Path:
    """An archive of a folder, inside of the folders `above`."""
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, "/".join([*above, path.relative_to(folder).as_posix()]))
        file.writestr("__MACOSX/._x", b"")
    return archive


def in_memory(folder: Path) -> str:
    """The address of a copy of a folder in fsspec's memory."""
    address = f"memory://{folder.parent.name}-{folder.name}"
    for path in folder.rglob("*"):
        if path.is_file():
            place = file_path(f"{address}/{path.relative_to(folder).as_posix()}")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    return address


PLACES = {
    "zip": zipped,
    "zip with a folder": lambda folder: zipped(folder, "cells-1.2"),
    "memory": in_memory,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("layout", ["plain", "roboflow"])
def test_a_data_set_is_the_same_wherever_it_is(coco_folder, place, layout):
    folder = coco_folder(splits=("train", "val"), layout=layout)
    here = load_index(folder, "train")
    root = PLACES[place](folder)
    assert has_split(root, "val")
    there = load_index(root, "train")
    assert there.label_map == here.label_map
    for one, other in zip(there.records, here.records, strict=True):
        assert (one.image_id, one.width, one.height) == (other.image_id, other.width, other.height)
        assert one.boxes_xyxy.tolist() == other.boxes_xyxy.tolist()
        assert read_image(one.path).tobytes() == read_image(str(one.path)).tobytes() == read_image(other.path).tobytes()
        assert image_size(one.path) == (64, 48)
    assert check_pictures(there, 60) == len(here)
    assert len(shared_pictures(there, here)) == len(here)
    assert shared_pictures(load_index(root, "val"), there) == []


def test_loader_processes_read_one_archive_at_the_same_time(coco_folder):
    folder = coco_folder([1] * 24)
    index = load_index(zipped(folder), "train")
    read_image(index.records[0].path)  # so that the archive is open before processes are forked
    transform = Preprocessing(48, 64, (0.5,) * 3, (0.5,) * 3).transform()
    expected = [DetectionDataset(load_index(folder, "train"), transform)[key][0] for key in range(24)]
    batches = training_loader(DetectionDataset(index, transform), [[key] for key in range(24)], workers=2)
    for (batch, _), picture in zip(batches, expected, strict=True):
        assert batch.images[0].equal(picture)


def test_an_archive_is_opened_once_by_a_process(coco_folder, monkeypatch):
    opened, init = [], zipfile.ZipFile.__init__
    archive = zipped(coco_folder([1] * 8))
    monkeypatch.setattr(zipfile.ZipFile, "__init__", lambda *a, **o: (opened.append(a), init(*a, **o))[1])
    for record in load_index(archive, "train").records:
        read_image(record.path)
    assert len(opened) == 1


def test_an_archive_that_is_replaced_is_opened_anew(coco_folder):
    folder = coco_folder([1])
    archive = zipped(folder)
    record = load_index(archive, "train").records[0]
    before = read_image(record.path).tobytes()
    Image.new("RGB", (64, 48), "red").save(folder / "images" / "train_0.png")
    zipped(folder)
    assert read_image(load_index(archive, "train").records[0].path).tobytes() != before


@pytest.mark.parametrize("place", PLACES)
def test_pictures_are_cached_until_they_change(coco_folder, place, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENDETR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**40, 0, 2**40))
    folder = coco_folder([1])
    record = load_index(PLACES[place](folder), "train").records[0]
    cache = build_cache(DataConfig(cache="disk"))
    assert isinstance(cache, DiskCache)
    assert cache.get(record) is None
    picture = DetectionDataset(load_index(PLACES[place](folder), "train"), v2.Identity(), cache=cache).picture(0)
    again = load_index(PLACES[place](folder), "train").records[0]
    if place != "memory":  # where a file that is written again has another time
        assert cache.get(again).equal(picture)
    Image.new("RGB", (64, 48), "red").save(folder / "images" / "train_0.png")
    assert cache.get(load_index(PLACES[place](folder), "train").records[0]) is None


def test_the_state_of_a_file_of_this_machine_is_its_time_and_size(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    os.utime(path, (5, 7))
    assert file_state(path) == (7.0, 3)


def test_what_cannot_be_opened_is_one_sentence(coco_folder, tmp_path):
    archive = zipped(coco_folder())
    with pytest.raises(UserError, match=r"zip://images/no\.png::.* does not exist; expected a picture"):
        read_image(folder_path(archive) / "images" / "no.png")
    with pytest.raises(UserError, match=r"memory://no\.png does not exist"):
        read_image("memory://no.png")
    with pytest.raises(UserError, match=r"nothing://x cannot be opened"):
        file_path("nothing://x")
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(UserError, match=r"text\.zip is not a zip archive"):
        load_index(tmp_path / "text.zip", "train")
    content = archive.read_bytes()
    start = content.index(b"\x89PNG")
    archive.write_bytes(content[: start + 60] + b"\0" * 40 + content[start + 100 :])
    with pytest.raises(UserError, match="cannot be read as a picture"):
        read_image(load_index(archive, "train").records[0].path)
