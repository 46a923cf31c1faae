import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from opendetr.config import DataConfig
from opendetr.data import cache, loader
from opendetr.data.cache import DiskCache, RamCache, build_cache
from opendetr.data.door import load_index
from opendetr.data.loader import DetectionDataset
from opendetr.data.transforms import Preprocessing, largest_look, training_transform
from opendetr.errors import UserError

PREPROCESSING = Preprocessing(40, 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CONFIG = replace(
    DataConfig(), image_size=40, max_size=64, train_sizes=(24, 32, 47), crop_resize=(40,), crop_min=16, crop_max=40
)
TRANSFORM = training_transform(CONFIG, PREPROCESSING)
KINDS = {"ram": RamCache, "disk": DiskCache}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where the disk cache is, on a disk that always has room."""
    monkeypatch.setenv("OPENDETR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "FREE_BYTES", 0)
    return tmp_path / "cache" / "pictures"


@pytest.fixture
def index(coco_folder):
    return load_index(coco_folder((1, 2, 0, 3, 1)), "train")  # pictures of 64x48


@pytest.fixture
def reads(monkeypatch):
    """The files that were decoded."""
    read, paths = loader.read_image, []
    monkeypatch.setattr(loader, "read_image", lambda path, **options: paths.append(path) or read(path, **options))
    return paths


def same(one, other) -> bool:
    return torch.equal(one[0], other[0]) and all(map(torch.equal, one[1], other[1])) and one[2].path == other[2].path


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_that_are_kept_are_the_same_and_read_once(index, reads, kind):
    kept = DetectionDataset(index, TRANSFORM, seed=7, cache=KINDS[kind](100))
    found = [kept[key] for key in range(15)]
    assert len(reads) == 5
    plain = DetectionDataset(index, TRANSFORM, seed=7)
    assert all(same(one, plain[key]) for key, one in enumerate(found))
    assert kept.picture(0).stride() == plain.picture(0).stride()  # the layout decides how fast it is resized


@pytest.mark.parametrize("kind", KINDS)
def test_shrunk_pictures_have_their_boxes_where_they_were(index, kind):
    evaluated = Preprocessing(24, 64, (0.0,) * 3, (1.0,) * 3).transform()
    whole, shrunk = DetectionDataset(index, evaluated), DetectionDataset(index, evaluated, cache=KINDS[kind](24))
    for position in (0, 1, 0, 1):
        assert shrunk.picture(position).shape == (3, 24, 32)
        one, other = whole[position], shrunk[position]
        torch.testing.assert_close(one[1].boxes_cxcywh, other[1].boxes_cxcywh)
        assert float((one[0] - other[0]).abs().mean()) < 0.02  # of 0..1: resized once or twice


def test_without_room_pictures_are_read_again_and_look_the_same(index):
    kept, crowded = (DetectionDataset(index, TRANSFORM, seed=7, cache=RamCache(24)) for _ in range(2))
    expected = [kept[key] for key in range(10)]
    crowded.cache.room = 3 * 24 * 32  # of one picture
    assert all(same(one, crowded[key]) for key, one in enumerate(expected))
    assert (len(kept.cache.pictures), len(crowded.cache.pictures)) == (5, 1)


def test_the_disk_serves_the_next_run_as_long_as_files_stay_as_they_are(index, reads, folder):
    for _ in range(2):
        dataset = DetectionDataset(index, TRANSFORM, cache=DiskCache(100))
        pictures = [dataset.picture(position) for position in range(5)]
    assert len(reads) == 5
    changed = index.records[1].path
    time = os.stat(changed).st_mtime_ns
    Image.new("RGB", (64, 48), "red").save(changed)
    os.utime(changed, ns=(time + 10**9, time + 10**9))
    dataset = DetectionDataset(index, TRANSFORM, cache=DiskCache(100))
    assert dataset.picture(1)[:, 0, 0].tolist() == [255, 0, 0]
    for number, file in enumerate(folder.rglob("*.npy")):  # damaged
        file.write_bytes(file.read_bytes()[: 200 * (number % 2)])
    again = [dataset.picture(position) for position in range(5)]
    assert all(torch.equal(again[position], pictures[position]) for position in (0, 2, 3, 4))
    DetectionDataset(index, TRANSFORM, cache=DiskCache(24)).picture(0)  # another size is another picture
    assert index.records[0].path in reads[6:]
    assert not list(folder.rglob("*.tmp"))


def test_a_stated_size_is_checked_though_the_picture_is_kept(index):
    DetectionDataset(index, TRANSFORM, cache=DiskCache(100)).picture(0)
    wrong = replace(index, sizes=np.array([[99, 48]] * len(index)))
    with pytest.raises(UserError, match="says 99x48"):
        DetectionDataset(wrong, TRANSFORM, cache=DiskCache(100)).picture(0)


@pytest.mark.parametrize("reason", ["its disk is almost full", "No space left on device"])
def test_a_full_disk_is_said_once_and_pictures_are_decoded(index, reads, folder, monkeypatch, capsys, reason):
    def no_space(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "FREE_BYTES", 2**62 if "almost" in reason else 0)
    monkeypatch.setattr(cache, "write_bytes", no_space)
    dataset = DetectionDataset(index, TRANSFORM, cache=DiskCache(100))
    for key in range(10):
        dataset[key]
    assert len(reads) == 10
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("cannot store more pictures") == 1
    assert reason in said
    assert not list(folder.rglob("*.npy"))


def test_what_is_kept_is_as_large_as_training_looks():
    config = replace(DataConfig(), image_size=320, train_sizes=(), crop_probability=0.0)
    assert largest_look(config) == 320
    assert largest_look(replace(config, zoom_probability=0.5, zoom_in=0.5, zoom_out=1.5)) == 640
    assert largest_look(replace(config, crop_probability=0.5)) == 600
    assert build_cache(config) is None
    for kind, cls in KINDS.items():
        built = build_cache(replace(config, cache=kind))
        assert isinstance(built, cls)
        assert built.side == 320


@pytest.mark.parametrize(
    ("free", "together", "room"), [(2**40, 1, 2**31), (2**30, 1, 2**28), (2**30, 4, 2**26), (0, 1, 0)]
)
def test_pictures_take_a_quarter_of_the_free_memory_and_never_more_than_2_gib(monkeypatch, free, together, room):
    monkeypatch.setattr(cache, "free_bytes", lambda: free)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(together))
    assert RamCache(24).room == room


@pytest.mark.parametrize(("workers", "said"), [(0, 0), (2, 1)])
def test_that_not_all_pictures_fit_is_said_once_before_they_are_read(index, monkeypatch, capsys, workers, said):
    config = replace(CONFIG, cache="ram", image_size=24, train_sizes=(), crop_probability=0.0, zoom_probability=0.0)
    needed = 5 * 3 * 24 * 32  # kept smaller than they are, by each loader process
    monkeypatch.setattr(cache, "free_bytes", lambda: 4 * needed)
    built = build_cache(config, index.sizes, workers)
    assert capsys.readouterr().out.count("not all pictures can be kept in memory: they need 0.0 GB") == said
    dataset = DetectionDataset(index, PREPROCESSING.transform(), cache=built)
    for key in range(5):
        dataset[key]
    assert len(built.pictures) == 5
    assert built.bytes == needed  # as was foretold
    assert not capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_16_bit_pictures_have_the_white_level_of_the_data_set_in_the_cache_too(index, kind):
    record = index.records[0]
    Image.fromarray(np.full((record.height, record.width), 200, np.uint16)).save(record.path)
    for level, shown in ((None, 200), (4095, 12), (None, 200)):  # kept under different names on disk
        kept = build_cache(replace(CONFIG, cache=kind), white_level=level)
        dataset = DetectionDataset(index, TRANSFORM, cache=kept, white_level=level)
        assert dataset.picture(0).unique().tolist() == dataset.picture(0).unique().tolist() == [shown]
