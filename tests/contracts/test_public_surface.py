"""What users build on: names, command-line options, weights' names. A change here is a change of contract."""

import ast
import hashlib
import importlib
import json
import math
import os
import re
import subprocess
import sys
from functools import partial
from inspect import signature, unwrap
from pathlib import Path
from typing import get_args

import pytest
import typer.main

import opendetr
import opendetr.api
from opendetr.cli import application, main
from opendetr.cli.application import Answer, app, data_app
from opendetr.config import LossConfig
from opendetr.data.findings import Finding, Severity
from opendetr.errors import UserError
from opendetr.model.build import build_model
from opendetr.options import (
    Cache,
    EngineName,
    ExportFormat,
    HeadFrom,
    ModelForm,
    OneEngine,
    PeerName,
    PrecisionName,
    PredictEngine,
    TrainingPrecision,
)
from opendetr.recipes.presets import PRESETS

PUBLIC_NAMES = {
    "Batch", "DETR", "Detections", "Detector", "DetrOutput", "LabelMap", "Matches", "RunConfig", "Target", "Targets",
    "UserError", "__version__", "ablate", "benchmark", "build_model", "check_data", "convert", "convert_data",
    "data_stats",
    "demo", "doctor", "explain",
    "export", "info", "load_model", "load_recipe", "match", "predict", "prepare", "replay", "runs",
    "serve", "set_loss", "track", "train", "val", "write_digits",
}  # fmt: skip

COMMANDS = {
    "demo": {"--output", "--compare", "--threads"},
    "doctor": {
        "--data", "--classes", "--rename", "--voc-origin", "--report",
        "--train-split", "--recipe", "--image-size", "--seconds", "--device",
        "--threads",
    },
    "replay": set(),
    "train": {
        "--data", "--classes", "--rename", "--voc-origin", "--val-share", "--report",
        "--recipe", "--preset", "--train-split", "--val-split", "--output", "--resume", "--epochs",
        "--minutes",
        "--seed", "--batch-size", "--image-size", "--backbone", "--backbone-weights", "--workers", "--cache",
        "--strict",
        "--precision",
        "--device", "--set", "--init", "--num-classes-from", "--freeze", "--patience", "--threads",
        "--accept-data", "--save-every", "--keep", "--log-to", "--augment", "--no-flip", "--transform",
        "--balanced", "--deterministic", "--devices",
    },
    "convert": {"--to", "--push", "--private", "--licence", "--dc5", "--heads", "--image-size"},
    "val": {
        "--output", "--voc-origin", "--report", "--data", "--classes", "--rename", "--strict",
        "--split", "--detections", "--annotations", "--batch-size", "--engine", "--precision",
        "--image-size", "--device", "--threads",
    },
    "predict": {
        "--output", "--threshold", "--batch-size", "--tile", "--overlap", "--every", "--shards", "--draw",
        "--classes", "--save-txt", "--save-csv", "--save-coco", "--save-crops",
        "--image-size", "--engine", "--workers", "--precision", "--device", "--threads",
    },
    "track": {
        "--output", "--threshold", "--every", "--classes", "--draw", "--engine", "--precision", "--device", "--threads",
        "--image-size",
    },
    "explain": {
        "--voc-origin", "--output", "--data", "--classes", "--rename",
        "--split", "--slots", "--image", "--matching", "--point", "--layer", "--head",
        "--threshold", "--at-most", "--image-size", "--device", "--threads",
    },
    "serve": {
        "--data", "--classes", "--rename", "--voc-origin", "--image-size", "--host", "--port", "--api-key-file",
        "--threshold", "--batch-size", "--engine", "--precision", "--device", "--threads", "--max-megabytes",
        "--max-megapixels", "--max-pictures", "--max-waiting", "--deadline", "--label-studio",
        "--label-studio-token-file", "--review", "--public-name",
    },
    "ablate": {
        "--data", "--classes", "--rename",
        "--output", "--recipe", "--split", "--seeds", "--epochs", "--minutes", "--set", "--device",
        "--threads",
    },
    "export": {
        "--voc-origin", "--output", "--format", "--precision", "--with-preprocessing", "--with-attention", "--data",
        "--classes", "--rename", "--split",
        "--image-size", "--max-ap-loss", "--threads",
    },
    "prepare": {"--precision", "--device", "--threads"},
    "runs": {"--output"},
    "info": {"--size"},
    "benchmark": {
        "--against", "--size", "--batch", "--engine", "--precision", "--seconds", "--output", "--memory", "--device",
        "--threads",
    },
    "data digits": {"--scenes", "--seed"},
    "data check": {
        "--output", "--fix", "--image-size", "--num-queries", "--classes", "--rename", "--voc-origin",
    },
    "data stats": {"--output", "--image-size", "--classes", "--rename", "--voc-origin"},
    "data convert": {"--voc-origin", "--to", "--split", "--classes", "--rename", "--copy"},
}  # fmt: skip
FOR_SCRIPTS = {"--quiet", "--json"}  # of all commands


def test_public_names():
    assert set(opendetr.__all__) == PUBLIC_NAMES


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES))
def test_every_public_name_exists(name):
    assert getattr(opendetr, name) is not None


@pytest.mark.parametrize(("face", "homes"), [(opendetr, opendetr._HOME), (opendetr.api, opendetr.api._FILES)])
def test_editors_see_the_same_names(face, homes):
    tree = ast.parse(Path(face.__file__).read_text())
    mirror = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: statement.module for statement in mirror.body for alias in statement.names}
    assert seen == {name: f"{face.__name__}.{home}" for name, home in homes.items()}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'detect_everything'"):
        _ = opendetr.detect_everything


def test_rooms_do_not_hide_verbs():
    for verb in (
        "train",
        "val",
        "predict",
        "track",
        "info",
        "demo",
        "doctor",
        "explain",
        "export",
        "prepare",
        "runs",
        "ablate",
        "benchmark",
        "convert",
    ):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(f"opendetr.{verb}")


def options_of(command) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts if option.startswith("--")} - {"--help"}


def test_command_line_surface():
    group = typer.main.get_command(app)
    found = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= {f"{name} {inner}": options_of(c) for inner, c in command.commands.items()}
        else:
            found[name] = options_of(command)
    assert found == {name: options | FOR_SCRIPTS for name, options in COMMANDS.items()}


CHOICES = {
    ("val", "--engine"): EngineName, ("val", "--precision"): PrecisionName, ("predict", "--engine"): PredictEngine,
    ("export", "--format"): ExportFormat, ("convert", "--to"): ModelForm, ("benchmark", "--against"): PeerName,
    ("benchmark", "--engine"): OneEngine, ("train", "--cache"): Cache, ("train", "--num-classes-from"): HeadFrom,
    ("train", "--precision"): TrainingPrecision,
}  # fmt: skip


@pytest.mark.parametrize(("command", "option"), CHOICES)
def test_help_lists_the_choices(command, option, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["opendetr", command, "--help"])
    with pytest.raises(SystemExit, match="0"):
        main()
    lines = capsys.readouterr().out.splitlines()
    line = next(line for line in lines if line.lstrip("│* ").startswith(f"{option} "))
    assert set(get_args(CHOICES[command, option])) <= set(re.findall(r"\w+", line.replace(option, "")))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "val m --data d --engine tensorrt",
            "'--engine': 'tensorrt' is not one of 'auto', 'torch', 'openvino', 'onnxr",
        ),
        ("train --cache disc", "'--cache': 'disc' is not one of 'none', 'ram', 'disk'; see opendetr train --help"),
        ("convert m d", "missing option '--to'. Choose from: huggingface, official, opendetr; see opendetr convert"),
        ("export", "missing argument 'MODEL'; see opendetr export --help"),
        ("train --xyzzy", "opendetr train: no option --xyzzy; see opendetr train --help"),
        ("train --epoch 3", "opendetr train: no option --epoch; did you mean --epochs? See opendetr train --help"),
        ("train --epochs", "opendetr train: option '--epochs' requires an argument; see opendetr train --help"),
        ("train more", "opendetr train: got unexpected extra argument(s) (more); see opendetr train --help"),
        (
            "data digits --scene 3",
            "opendetr data digits: no option --scene; did you mean --scenes? See opendetr data",
        ),
        ("trian", "opendetr: no such command 'trian'. Did you mean 'train', 'track'? See opendetr --help"),
        ("--verson", "opendetr: no option --verson; did you mean --version? See opendetr --help"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(line, said, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["opendetr", *line.split()])
    with pytest.raises(SystemExit, match="2"):
        main()
    error = capsys.readouterr().err
    assert error.startswith("opendetr")
    assert error.count("\n") == 1
    assert said in error


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (partial(opendetr.val, "m", "d", engine="ray"), "--engine ray: expected auto, torch, openvino or onnxruntime"),
        (partial(opendetr.val, "m", "d", engine=""), "--engine : expected auto, torch, openvino or onnxruntime"),
        (partial(opendetr.val, "m", "d", precision="fp64"), "--precision fp64: expected fp32, bf16 or int8"),
        (
            partial(opendetr.predict, "m", ["a.png"], "o", engine="tensorrt"),
            "--engine tensorrt: expected auto, torch, openvino, onnxruntime or ray",
        ),
        (
            partial(opendetr.predict, "m", ["a.png"], "o", precision="fp64"),
            "--precision fp64: expected fp32, bf16 or int8",
        ),
        (partial(opendetr.benchmark, "m", batch=0), "--batch 0: expected 1 or more"),
        (partial(opendetr.benchmark, "m", seconds=0.0), "--seconds 0: expected more than 0"),
        (
            partial(opendetr.benchmark, "m", engines=["tensorrt"]),
            "--engine tensorrt: expected torch, openvino or onnxruntime",
        ),
        (partial(opendetr.benchmark, "m", precisions=["fp64"]), "--precision fp64: expected fp32, bf16 or int8"),
        (partial(opendetr.benchmark, "m", against="keras"), "--against keras: expected huggingface or official"),
    ],
)
def test_python_has_the_same_choices_and_checks_them_first(call, sentence, tmp_path, monkeypatch):
    """Before the model is read, and before threads are measured."""
    monkeypatch.chdir(tmp_path)
    measured = f"{unwrap(call.func).__module__}.settle_threads"
    monkeypatch.setattr(measured, lambda *_, **__: pytest.fail("threads were measured"))
    with pytest.raises(UserError) as error:
        unwrap(call.func)(*call.args, **call.keywords)  # without the tests' checks of types
    assert str(error.value) == sentence
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("output", "folder"), [("", Path()), ("here", Path("here")), (None, None)])
def test_an_empty_output_is_the_current_folder_and_none_the_default(output, folder, tmp_path, monkeypatch):
    """As pathlib has it, and the command line."""
    monkeypatch.chdir(tmp_path)
    table, given = tmp_path / "study.md", []
    table.write_text("a table")
    monkeypatch.setattr(
        "opendetr.ablation.run.run_study", lambda chosen, settings, folder, *_: given.append(folder) or table
    )
    opendetr.ablate("losses", "data", output, epochs=1, device="cpu", threads=1)
    assert given == [Path("runs/ablate-losses") if folder is None else folder]

    def noted(config, run, *_, **__):
        given.append(run)
        raise UserError("enough")

    monkeypatch.setattr("opendetr.training.start.prepare_training", noted)
    with pytest.raises(UserError, match="enough"):
        opendetr.train("data", output=output, epochs=1, device="cpu", threads=1)
    assert given[1] == folder  # None: the run makes a new one in `runs`


def test_weight_names_of_the_paper_model():
    """The names that checkpoints carry; backbones are timm's business."""
    model = build_model(PRESETS["detr-r50"], LossConfig(), num_classes=91)
    names = sorted(name for name in model.state_dict() if not name.startswith("backbone."))
    assert names[:5] == [
        "bbox_embed.layers.0.bias", "bbox_embed.layers.0.weight", "bbox_embed.layers.1.bias",
        "bbox_embed.layers.1.weight",
        "bbox_embed.layers.2.bias",
    ]  # fmt: skip
    assert {"class_embed.weight", "input_proj.weight", "query_embed.weight", "transformer.decoder.norm.weight"} <= set(
        names
    )
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    assert digest == "9241074b260bd03cda8cde615ac911939a27796d6ec5c21adabdbe70d3035637", (
        "weights were renamed: old checkpoints no longer load"
    )


def test_the_package_runs_as_a_module():
    ran = subprocess.run([sys.executable, "-m", "opendetr", "--version"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert opendetr.__version__ in ran.stdout


def exits(line, monkeypatch) -> int:
    monkeypatch.setattr(sys, "argv", ["opendetr", *line.split()])
    with pytest.raises(SystemExit) as exit_:
        main()
    return exit_.value.code


def test_exit_codes(monkeypatch, capsys):
    """0 after work, 2 with the help for a name without a command, 130 and a word after Ctrl-C."""
    assert exits("--version", monkeypatch) == 0
    assert exits("", monkeypatch) == exits("data", monkeypatch) == 2
    output = capsys.readouterr()
    assert "Usage: opendetr data" in output.out
    assert output.err == ""

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(opendetr, "info", stopped, raising=False)
    assert exits("info m", monkeypatch) == 130
    assert capsys.readouterr().err == "opendetr: stopped\n"
    monkeypatch.setattr(opendetr, "info", lambda *_: {}, raising=False)
    monkeypatch.setattr("opendetr.evaluation.report.print_info", lambda facts: None)
    assert exits("info m", monkeypatch) == 0
    for is_problem in (False, True):
        found = [Finding(Severity.ERROR if is_problem else Severity.NOTE, "a kind", "a sentence")]
        monkeypatch.setattr(opendetr, "doctor", lambda *_, found=found, **__: found, raising=False)
        assert exits("doctor --data d --json", monkeypatch) == is_problem
        assert json.loads(capsys.readouterr().out) == {
            "findings": [
                {
                    "severity": "error" if is_problem else "note",
                    "kind": "a kind",
                    "sentence": "a sentence",
                    "is_problem": is_problem,
                }
            ]
        }
    monkeypatch.setenv("COLUMNS", "300")
    assert exits("--help", monkeypatch) == 0
    assert "Exit codes: 0 done; 1 doctor or data check found a problem" in capsys.readouterr().out


def test_scripts_get_one_object_or_nothing(tmp_path, monkeypatch, capfd):
    assert exits(f"data digits {tmp_path} --scenes 4 --json", monkeypatch) == 0
    printed = capfd.readouterr()
    assert json.loads(printed.out) == {"folder": str(tmp_path), "scenes": {"train": 4, "val": 4, "test": 4}}
    assert printed.err == f"{tmp_path}: 4 train, 4 val, 4 test scenes\n"
    assert exits(f"data digits {tmp_path} --scenes 4 --quiet", monkeypatch) == 0
    assert capfd.readouterr() == ("", "")


def test_every_command_has_an_answer_for_scripts():
    commands = [*app.registered_commands, *data_app.registered_commands]
    assert len(commands) == len(COMMANDS)
    assert {signature(command.callback).return_annotation for command in commands} == {Answer}


def test_json_is_all_that_is_on_standard_output(capfd):
    """Whatever writes there, in other languages and processes too; a number that JSON has not is null."""

    def command() -> Answer:
        print("from Python")
        os.write(1, b"from a library in C++\n")
        subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
        return Answer({"AP": [math.nan, 0.5], "steps": 3}, 1)

    assert application._answer(command, quiet=False, as_json=True) == 1
    printed = capfd.readouterr()
    assert json.loads(printed.out) == {"AP": [None, 0.5], "steps": 3}
    assert {"from Python", "from a library in C++", "from a child"} <= set(printed.err.splitlines())
