"""`predict --engine ray`: two workers of a local Ray say what one process says, and go on where they were stopped."""

import hashlib
import json
import os
import pickle
import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from opendetr import api
from opendetr.errors import UserError
from opendetr.inference import distributed
from opendetr.inference.parquet import Parts, Stored, digest, list_pictures
from opendetr.inference.results import write_entries
from opendetr.inference.sources import SourcePicture

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def ray():
    """One local Ray for all tests: to start it takes longer than they do."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("in")
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 255, (40 + 8 * (number % 2), 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def plain(tiny_run, pictures, tmp_path_factory) -> Path:
    """What one process finds, without Ray."""
    output = tmp_path_factory.mktemp("plain")
    return api.predict(tiny_run, [str(pictures)], output, threshold=0, drawn=False, engine="torch")


def by_ray(model, sources, output, workers=2) -> Path:
    return api.predict(model, [str(s) for s in sources], output, threshold=0, engine="ray", workers=workers)


def found(path: Path, keys=("image_id", "file_name", "name", "category_id")) -> list[tuple]:
    """Entries by picture and score: an order that rounding between batches of other company does not change."""
    entries = [
        (*(e[k] for k in keys), *(round(v, 2) for v in [*e["bbox"], e["score"]])) for e in json.loads(path.read_text())
    ]
    return sorted(entries)


def parts(output: Path) -> dict[str, list[int]]:
    return {path.name: pq.read_table(path)["position"].to_pylist() for path in (output / "parts").glob("*.parquet")}


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_two_workers_say_what_one_process_says_and_one_goes_on_where_they_stopped(
    tiny_run, pictures, plain, tmp_path, capsys
):
    folder, output = tmp_path / "in", tmp_path / "out"
    shutil.copytree(pictures, folder)
    whole = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(whole[:100])
    with pytest.raises(UserError, match=r"3\.png cannot be read as a picture"):
        by_ray(tiny_run, [folder], output)
    assert found(output / "detections.json") == [entry for entry in found(plain) if entry[1] != "3.png"]
    for name in list(parts(output))[:3]:  # as if it had been stopped before these were written
        (output / "parts" / name).unlink()
    left = parts(output)
    done = sum(map(len, left.values()))
    assert 0 < done < 7
    (folder / "3.png").write_bytes(whole)
    (output / "detections.json").unlink()
    capsys.readouterr()
    result = by_ray(tiny_run, [folder], output, workers=1)  # each takes seconds to begin
    assert f"{done} pictures are done" in capsys.readouterr().out
    assert found(result) == found(plain)
    order = [entry["image_id"] for entry in json.loads(result.read_text())]
    assert order == sorted(order)
    assert left.items() <= parts(output).items()  # nothing was done twice
    assert sorted(chain(*parts(output).values())) == list(range(8))
    with pytest.raises(UserError, match="other pictures or settings"):
        by_ray(tiny_run, [folder / "1.png"], output)


def table_of(pictures: Path, column: str, path: Path) -> Path:
    """A table of the pictures, in three row groups, with ids of its own."""
    files = sorted(pictures.iterdir())
    values = [str(file) if column == "path" else file.read_bytes() for file in files]
    pq.write_table(pa.table({column: values, "image_id": [10 * n for n in range(8)]}), path, row_group_size=3)
    return path


def as_in_table(path: Path) -> list[tuple]:
    """The entries of one process, with the ids of that table."""
    return sorted((10 * (image_id - 1), *rest) for image_id, *rest in found(path, ("image_id", "name", "category_id")))


@pytest.mark.slow  # a third of a minute
@pytest.mark.usefixtures("ray")
def test_row_groups_are_shared_by_workers(tiny_run, pictures, plain, tmp_path):
    source = table_of(pictures, "bytes", tmp_path / "in.parquet")
    result = by_ray(tiny_run, [source], f"file://{tmp_path}/out")
    assert result == tmp_path / "out/detections.json"
    assert found(result, ("image_id", "name", "category_id")) == as_in_table(plain)
    assert len(parts(tmp_path / "out")) == 3


@pytest.mark.parametrize("column", ["path", "bytes"])
def test_a_worker_detects_in_a_table_and_writes_to_an_address(tiny_run, pictures, plain, tmp_path, column):
    """The same work without Ray."""
    source, output = table_of(pictures, column, tmp_path / "in.parquet"), f"file://{tmp_path}/out"
    job = distributed.Job(str(tiny_run), "torch", "fp32", "cpu", output, 0.0, 4, None)
    sink = Parts(output)
    assert sink.done({}) == set()
    for piece in list_pictures([str(source)], output):
        for done, run in ((frozenset({0, 1, 5}), "first"), (frozenset({2, 3, 4, 6, 7}), "second")):
            worker = distributed.Worker(job, torch.get_num_threads(), done, run)
            worker({"piece": [pickle.dumps(piece)]})
    assert sink.done({}) == set(range(8))
    write_entries(tmp_path / "found.json", sink.entries())
    assert found(tmp_path / "found.json", ("image_id", "name", "category_id")) == as_in_table(plain)
    assert not list((tmp_path / "out/parts").glob("*.tmp"))


def test_what_cannot_be_is_said_before_ray_starts(tiny_run, pictures, tmp_path, monkeypatch):
    def predict(*sources, **options):
        api.predict(tiny_run, [str(s) for s in sources], tmp_path / "out", **{"engine": "ray", **options})

    with pytest.raises(UserError, match="leave out videos and --shards"):
        predict(pictures, shards="1/2")
    with pytest.raises(UserError, match="--workers must be at least 1, got 0"):
        predict(pictures, workers=0)
    with pytest.raises(UserError, match="--workers belongs to --engine ray"):
        predict(pictures, workers=2, engine="torch")
    with pytest.raises(UserError, match="nosuch://x cannot be read"):
        predict("nosuch://x")
    monkeypatch.setattr(distributed.importlib.util, "find_spec", lambda name: None if name == "ray" else object())
    with pytest.raises(UserError, match=r"needs the package ray: pip install 'opendetr\[ray\]'"):
        predict(pictures)


def test_work_that_an_earlier_version_began_is_known():
    picture = b"Row(position=0, image_id=1, file_name='a.jpg', path='/a.jpg', content=None)"
    group = b"Stored(path='/a.parquet', group=2, first=6, count=3, has_ids=True)"
    pieces = [[SourcePicture(0, 1, "a.jpg", "/a.jpg")], Stored("/a.parquet", 2, 6, 3, has_ids=True)]
    assert digest(pieces[:1]) == hashlib.blake2b(picture, digest_size=16).hexdigest()
    assert digest(pieces) == hashlib.blake2b(picture + group, digest_size=16).hexdigest()


def test_tables_are_checked(tmp_path):
    def listed(*columns):
        for number, column in enumerate(columns):
            pq.write_table(pa.table(column), tmp_path / f"{number}.parquet")
        return list_pictures([str(tmp_path)], "out")

    with pytest.raises(UserError, match="has the columns image; expected path or bytes"):
        listed({"image": [b""]})
    with pytest.raises(UserError, match="image_id must hold whole numbers"):
        listed({"path": ["a.jpg"], "image_id": ["a"]})
    with pytest.raises(UserError, match="in all or in none"):
        listed({"path": ["a.jpg"], "image_id": [1]}, {"path": ["b.jpg"]})
    with pytest.raises(UserError, match="give tables without pictures"):
        list_pictures([str(tmp_path), "photo.jpg"], "out")
    first, second = listed({"path": ["a.jpg", "sub/b.jpg"]}, {"path": ["s3://far/c.jpg"]})
    rows = [*first, *second]
    assert [(row.position, row.image_id, row.file_name) for row in rows] == [
        (0, 1, "a.jpg"), (1, 2, "b.jpg"), (2, 3, "c.jpg"),
    ]  # fmt: skip
    assert rows[1].path == f"file://{tmp_path.as_posix()}/sub/b.jpg"
    assert rows[2].path == "s3://far/c.jpg"
    (tmp_path / "0.parquet").write_bytes(b"no table")
    with pytest.raises(UserError, match=r"0\.parquet cannot be read as Parquet"):
        list_pictures([str(tmp_path)], "out")


def test_a_damaged_part_is_said(tmp_path):
    sink = Parts(str(tmp_path))
    assert sink.done({"threshold": 0.5}) == set()
    (tmp_path / "parts/part-000000000-ab.parquet").write_bytes(b"half")
    with pytest.raises(UserError, match="remove it, and its pictures are done again"):
        sink.done({"threshold": 0.5})
