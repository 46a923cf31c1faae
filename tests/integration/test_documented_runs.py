"""The commands and the code that the pages show, run as they stand on tiny data: only times and sizes are made small.

What a command reads (DATA, runs/mine, photos/, ...) lies in the folder where it runs; see `stock`.
"""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny import TINY

from documented import PAGES, Command, blocks_of, documented_commands
from opendetr import api
from opendetr.cli import main
from opendetr.data.digits import write_digits
from opendetr.exporting import fastest_engine
from opendetr.inference.video import VideoDrawing

# What is done with a command: the first kind whose pattern is found in its page and line. A command of no kind fails.
KINDS = {
    "measured": r"^(docs/results|benchmarks|CHANGELOG)",  # hours, on the data that the page names
    "network": r"pip install|--backbone resnet50|detr-r50|detr-r101|facebook/|https?://|s3://|hf://|rtsp://|--push|ORG/",
    "GPU": r"--device cuda|--devices|torchrun|--gpus",
    "cluster": r"\bsrun\b|RAY_ADDRESS|/shared/",
    "docker": r" docker ",
    "camera": r" webcam",
    "until Ctrl-C": r"opendetr serve",  # tests/integration/test_serve.py asks such servers
    "of a failure": r"opendetr replay|--resume",  # tests/integration/test_diverging.py and test_kills.py make one
    "paper's architecture": r"--to official",  # test_examples.py converts such a model
    "a trained model": r"export .*(\.pt2|int8)",  # test_export.py and contracts/test_old_run.py make such files
    "demo": r"opendetr demo",  # tests/integration/test_fast.py runs it with few steps
    "slow": r"opendetr (train|ablate|benchmark|prepare|doctor|export)|--engine|int8|--slots",
    "quick": r"opendetr (--version|data|info|val|predict|track|explain|convert|runs)",
}
SHORT = {"--minutes": "0.1", "--epochs": "1", "--seeds": "1", "--seconds": "1", "--scenes": "8", "--image-size": "64"}
TINY_MODEL = "--recipe paper --preset detr-tiny --image-size 64 --batch-size 8 --workers 0 --device cpu"
ADDED = {  # options that come last win
    "ablate": "--seeds 1 --recipe tiny.toml --device cpu",
    "doctor": "--seconds 1 --image-size 64 --recipe tiny.toml --device cpu",
    "benchmark": "--seconds 0.1 --size 64x64",
}
# Categories that the pages name, instead of the digits'.
NAMES = ("cat", "dog", "car", "3", "RBC", "WBC", "platelet", "7", "person", "truck")
FOUND_PROBLEMS = {"doctor", "data"}  # may end with exit code 1
# Code with these runs beside other programs.
NEEDED = {"fiftyone", "ray", "transformers", "httpx", "cvat_sdk", "label_studio_sdk"}
LONG = re.compile(r"\b(train|doctor|export)\(")  # code with these takes minutes; test_documented_code.py compiles it


def kind_of(command: Command) -> str:
    text = f"{command.place} {command.line} opendetr {shlex.join(command.words)}"
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, text)), "none")


def same(words: tuple[str, ...]) -> tuple[str, ...]:
    """What two commands have in common that differ in the names of runs, pictures and outputs only."""
    named = []
    for before, word in zip(["", *words], words):
        if before == "--output":
            named.append(f"OUTPUT{Path(word).suffix}")
        elif re.fullmatch(r"runs/[\w-]+(/run-1)?|MODEL|RUN", word):
            named.append("MODEL")
        else:
            named.append("PICTURE" if Path(word).suffix in (".jpg", ".png") else word)
    return tuple(named)


def distinct(kind: str):
    """A parameter for each command of a kind, called by the first place that shows it."""
    found = {}
    for command in documented_commands():
        if kind_of(command) == kind:
            found.setdefault(same(command.words), command)
    return [pytest.param(list(one.words), id=f"{one.place} {shlex.join(one.words)}") for one in found.values()]


def shortened(words: list[str]) -> list[str]:
    """The same command with small numbers and a tiny model."""
    words = [SHORT.get(before, word) for before, word in zip(["", *words], words)]
    words += shlex.split(ADDED.get(words[0], ""))
    if words[0] == "ablate" and "--data" not in words:
        words += ["--data", "DATA"]
    if words[0] == "train":
        is_tiny = "--init" in words or any(word.endswith(".toml") for word in words)
        words += ["--device", "cpu"] if is_tiny else shlex.split(TINY_MODEL)
    if words[0] in ("train", "ablate") and not {"--epochs", "--minutes"} & set(words):
        words += ["--epochs", "1"]
    return words


@pytest.fixture(scope="session")
def stock(tmp_path_factory) -> Path:
    """A folder with everything that documented commands read."""
    folder = tmp_path_factory.mktemp("documented")
    data = folder / "runs/demo/digits"
    write_digits(data, scenes=50)
    for source in (data / "annotations").iterdir():
        coco = json.loads(source.read_text())
        for category, name in zip(coco["categories"], NAMES, strict=True):
            category["name"] = name
        source.write_text(json.dumps(coco))
    run = api.train(data, **TINY, epochs=1, output=folder / "runs/demo/run-1")
    shutil.copytree(run, folder / "runs/mine")
    (folder / "runs/first").symlink_to("mine", target_is_directory=True)
    for name in ("DATA", "cells"):
        (folder / name).symlink_to("runs/demo/digits", target_is_directory=True)
    for name in ("MODEL", "RUN"):
        (folder / name).symlink_to("runs/mine", target_is_directory=True)
    shutil.make_archive(str(folder / "more-cells"), "zip", data)
    pictures = sorted((data / "images").glob("test_*.png"))[:2]
    (folder / "photos").mkdir()
    for number, picture in enumerate(pictures):
        with Image.open(picture) as image:
            image.resize((400, 300)).save(folder / f"photos/{number}.jpg")
    shutil.copy(folder / "photos/0.jpg", folder / "photo.jpg")
    with Image.open(pictures[0]) as image, VideoDrawing(folder / "street.mp4", 10) as drawing:
        image.resize((1000, 900)).save(folder / "huge.tif")
        for frame in range(3):
            drawing.write(image, frame / 10)
    api.predict(run, [str(data / "images/test_00000.png")], folder / "found", device="cpu", drawn=False)
    shutil.copy(data / "annotations/test.json", folder / "truth.json")
    shutil.copy(run / "config.toml", folder / "tiny.toml")
    for page in PAGES:  # code that begins with the name of a file is that file
        for block in blocks_of(page):
            if named := re.match(r"# (\w+\.py)\n", block.code):
                (folder / named[1]).write_text(block.code, encoding="utf-8")
    return folder


@pytest.fixture
def here(stock, tmp_path, monkeypatch) -> Path:
    """A copy of the stock that a command may write into, as the current folder."""
    folder = shutil.copytree(stock, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def provide(words: list[str]) -> None:
    """Make what a command reads under a name that is not in the stock."""
    for before, word in zip(["", *words], words):
        path = Path(word)
        if before == "--output" or path.exists():
            continue
        if before == "--train-split" and word.endswith(".corrected"):  # as a label review leaves it
            labels = Path("DATA/annotations")
            shutil.copy(labels / f"{word.removesuffix('.corrected')}.json", labels / f"{word}.json")
        if word == "--val-share":  # for data without val
            Path("DATA/annotations/val.json").unlink()
        if path.parts[:1] == ("runs",) and len(path.parts) > 1 and not Path("runs", path.parts[1]).exists():
            Path("runs", path.parts[1]).symlink_to("mine", target_is_directory=True)
        elif re.fullmatch("[A-Z]{2,}", word):
            path.symlink_to("DATA", target_is_directory=True)
        elif path.suffix in (".jpg", ".png") and "*" not in word:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy("photo.jpg", path)


def run(words: list[str], monkeypatch) -> None:
    output = words[words.index("--output") + 1] if "--output" in words else ""
    if output:
        shutil.rmtree(output, ignore_errors=True)
    words = ["val_00000.png" if word == "NAME" else word for word in words]
    if "--image" in words and "DATA" in words:  # an id that the test split here has
        words = [
            re.sub(r"^\d+$", "9", word) if before == "--image" else word for before, word in zip(["", *words], words)
        ]
    provide(words)
    monkeypatch.setattr(sys, "argv", ["opendetr", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in ({0, 1} if words[0] in FOUND_PROBLEMS else {0})
    assert not output or Path(output).exists()


@pytest.mark.parametrize("words", distinct("quick"))
def test_a_quick_command_runs_as_it_stands(words, here, monkeypatch):
    run(words, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("words", distinct("slow"))
def test_a_longer_command_runs_with_small_numbers(words, here, monkeypatch):
    monkeypatch.setattr(fastest_engine, "is_installed", lambda engine: True)  # unlike in conftest.py
    run(shortened(words), monkeypatch)


def test_every_command_is_of_a_kind():
    assert not [command for command in documented_commands() if kind_of(command) == "none"]


def runnable(page: Path) -> list[str]:
    """The Python code of a page that needs nothing but the packages of opendetr, and seconds."""
    code = [block.code for block in blocks_of(page) if block.language == "python" and not LONG.search(block.code)]
    return [one for one in code if not NEEDED & set(re.findall(r"^\s*(?:import|from) (\w+)", one, re.MULTILINE))]


# The code of docs/concepts runs in tests/contracts/test_concepts.py; Chinese pages have the code of the English ones.
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name)
        for page in PAGES
        if page.parent.name != "concepts" and ".zh" not in page.suffixes and runnable(page)
    ],
)
def test_the_code_of_a_page_runs(page, here, monkeypatch):
    monkeypatch.setattr(Image.Image, "show", lambda image: None)
    namespace = {"__name__": "documented"}
    for number, code in enumerate(runnable(page), start=1):
        exec(compile(code, f"{page.name}, block {number}", "exec"), namespace)
