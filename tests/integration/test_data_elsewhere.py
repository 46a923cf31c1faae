"""A run on several data sets, of which some are no folder of this machine."""

import zipfile

from tiny import TINY

from opendetr import api
from opendetr.config import parse_config
from opendetr.data.source import DataSource
from opendetr.locations import file_path


def test_a_run_learns_from_an_archive_and_an_address_and_remembers_them(coco_folder, tmp_path, capsys):
    one, other = coco_folder([1, 2, 1, 1], splits=("train", "val")), coco_folder([1, 3], names=("square", "triangle"))
    with zipfile.ZipFile(tmp_path / "cells.zip", "w") as file:
        for path in sorted(one.rglob("*")):
            file.write(path, f"top/{path.relative_to(one).as_posix()}")
    for path in other.rglob("*.*"):
        place = file_path(f"memory://other/{path.relative_to(other).as_posix()}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    sets = [tmp_path / "cells.zip", "memory://other"]
    asked = {"classes": "square,shape", "rename": {"circle": "shape", "triangle": "shape"}}
    tiny = {**TINY, "workers": 1, "batch_size": 3}
    run = api.train(sets, **asked, **tiny, epochs=1, output=tmp_path / "run")
    config = parse_config((run / "config.toml").read_text(), "config.toml")
    assert DataSource.of_config(config.data) == DataSource.of(sets, **asked)
    said = " ".join(capsys.readouterr().out.split())
    assert "train: 6 pictures" in said
    assert "2 classes (with id): shape (1), square (2)" in said
    options = f"--data {sets[0]} --data memory://other --classes square,shape --rename circle=shape"
    assert f"opendetr val {run} {options} --rename triangle=shape --split val" in said
    found = api.val(run, device="cpu", threads=1)
    assert set(found.per_class) == {"shape", "square"}
    here = api.val(run, one, classes="square,shape", rename={"circle": "shape"}, device="cpu", threads=1)
    assert here.summary == found.summary
