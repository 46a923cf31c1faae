"""Models on a hub, which is a folder here: what is uploaded names nobody, and what is downloaded says the same."""

import getpass
import platform
import shutil
import socket
import tomllib
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from tiny import TINY_FAST

from opendetr import Detector, api
from opendetr.checkpoints.loading import load_checkpoint
from opendetr.checkpoints.native import save_checkpoint
from opendetr.errors import UserError
from opendetr.explanation.folder import Folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The folder of the hub; a download gives the files that were asked for, and no others."""
    folder = tmp_path / "hub"

    class Hub:
        def create_repo(self, name, private, exist_ok):
            return f"https://hub/{name}"

        def upload_folder(self, folder_path, repo_id, commit_message):
            shutil.copytree(folder_path, folder / repo_id)

    def snapshot_download(repository, revision, allow_patterns):
        if not (folder / repository).is_dir():
            raise ConnectionError("no such repository")
        cache = tmp_path / "cache" / repository
        cache.mkdir(parents=True, exist_ok=True)
        for path in (folder / repository).iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, cache)
        return str(cache)

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return folder


SECRETS = ("secret-alice", "alices-laptop", "user-alice", str(Path.home()))


@pytest.fixture(scope="module")
def place(digits, tiny_run, tmp_path_factory):
    """A folder with a name that must not get out, on a machine with such a name: data, and a run of either recipe."""
    folder = tmp_path_factory.mktemp("secret-alice")
    shutil.copytree(digits, folder / "digits")
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((socket, "gethostname"), (platform, "node"), (getpass, "getuser")):
            patch.setattr(module, name, lambda: "alices-laptop")
        for name in ("USER", "LOGNAME", "USERNAME"):
            patch.setenv(name, "user-alice")
        fast = api.train(folder / "digits", **TINY_FAST, epochs=1, output=folder / "trained")
    for name, run in (("fast", fast), ("paper", tiny_run)):
        found = load_checkpoint(run)
        places = {"data.root": str(folder / "digits"), "train.init": str(folder / "first")}
        origin = replace(
            found.origin, data=str(folder / "digits"), backbone_weights=f"the weights of {folder}/first, all of them",
            arguments={"output_dir": str(folder / "out"), "dist": ["env://", str(folder / "other")]},
            source=str(folder / "a.pth"),
        )  # fmt: skip
        save_checkpoint(folder / name, replace(found, config=found.config.with_values(places, "test"), origin=origin))
    return folder


@pytest.mark.parametrize("recipe", ["fast", "paper"])
@pytest.mark.parametrize("form", ["huggingface", "opendetr"])
def test_what_is_uploaded_names_no_place_and_says_the_same(recipe, form, place, hub, tmp_path):
    run = place / recipe
    api.convert(run, tmp_path / "out", form, push="me/cells", licence="apache-2.0")
    uploaded = hub / "me" / "cells"
    content = {path.name: path.read_bytes() for path in uploaded.rglob("*") if path.is_file()}
    assert {"README.md", "model.safetensors"} < set(content)
    for name, data in content.items():
        for secret in SECRETS:
            assert secret.encode() not in data, (name, secret)
    card = ModelCard(content["README.md"].decode())
    assert (card.data.license, card.data.pipeline_tag) == ("apache-2.0", "object-detection")
    assert "hf://me/cells" in card.text or 'model="me/cells"' in card.text
    assert "Training data: digits, split train" in card.text

    picture = sorted((place / "digits" / "images").glob("test_*.png"))[0]
    there, here = (Detector.load(name).predict(picture, threshold=0.0) for name in ("hf://me/cells", run))
    # Not to the bit: batch norm as in transformers rounds otherwise.
    torch.testing.assert_close(there.scores, here.scores, rtol=0, atol=1e-6)
    torch.testing.assert_close(there.boxes_xyxy, here.boxes_xyxy, rtol=0, atol=1e-4)  # of 128 pixels
    assert there.names == here.names


def test_ours_is_told_by_its_files_and_keeps_all_but_places(place, hub, tmp_path):
    api.convert(place / "fast", tmp_path / "out", "opendetr", push="me/cells")
    assert {path.name for path in (hub / "me" / "cells").iterdir()} == {
        "README.md", "config.toml", "labels.json", "metrics.json", "model.safetensors", "preprocessing.json",
    }  # fmt: skip
    (hub / "me" / "cells" / "training.pt").write_bytes(b"a pickle that is never asked for")
    there, here = load_checkpoint("hf://me/cells"), load_checkpoint(place / "fast")
    assert not list(tmp_path.glob("cache/**/training.pt"))
    assert there.config.data.root == "digits"
    assert there.config.train.init == "first"
    assert there.origin.val == here.origin.val
    assert there.origin.data == "digits"
    card = ModelCard((hub / "me" / "cells" / "README.md").read_text()).text
    config = tomllib.loads(card.split("```toml\n")[1].split("```")[0])
    assert config["train"]["init"] == "first"


def test_what_is_not_uploaded_keeps_its_places(place, tmp_path):
    """So that an official file comes back with all its arguments."""
    again = load_checkpoint(api.convert(place / "fast", tmp_path / "out", "opendetr"))
    assert again.origin.data == str(place / "digits")


def test_a_pth_is_not_uploaded(place, tmp_path):
    with pytest.raises(UserError, match="needs --to huggingface or --to opendetr"):
        api.convert(place / "paper", tmp_path / "out", "official", push="me/cells")


def test_the_official_code_cannot_have_the_fast_recipe_and_who_can_is_said(place, tmp_path):
    with pytest.raises(UserError, match="--to huggingface and --to opendetr write any model"):
        api.convert(place / "fast", tmp_path / "out", "official")


def test_pages_name_no_place(place, tmp_path):
    page = Folder(tmp_path, f"What the queries of {place / 'fast'} do")
    page.heading(f"4 pictures of {place / 'digits' / 'annotations' / 'val.json'}")
    text = page.finish().read_text(encoding="utf-8")
    assert "What the queries of fast do" in text
    assert "4 pictures of val.json" in text
    assert not [secret for secret in SECRETS if secret in text]
