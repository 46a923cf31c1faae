"""`opendetr ablate`: rows are trained once, a study goes on where it was stopped, and says what it cannot say."""

import csv
import json
import shutil

import pytest
from tiny import TINY_FAST

from opendetr import ablation, api
from opendetr.config import resolve_config
from opendetr.errors import UserError

SMALL = (
    "model.backbone=test_resnet", "model.backbone_weights=none", "data.image_size=64", "train.workers=0",
    "train.batch_size=8", "train.precision=fp32", *TINY_FAST["overrides"],
)  # fmt: skip


def ablate(study, digits, output, *extra, **options):
    return api.ablate(study, digits, output, epochs=1, device="cpu", overrides=(*SMALL, *extra), **options)


@pytest.fixture(scope="module")
def losses(digits, tmp_path_factory):
    output = tmp_path_factory.mktemp("studies") / "losses"
    ablate("losses", digits, output, seeds=2)
    return output


def test_every_row_has_a_run_per_seed_and_a_line_in_the_tables(losses):
    rows = list(csv.DictReader((losses / "study.csv").open()))
    assert [(row["row"], row["seed"]) for row in rows] == [
        (name, seed) for seed in "01" for name in ("class + L1", "class + GIoU", "class + L1 + GIoU")
    ]
    assert (losses / "class---L1" / "seed-1" / "run" / "last" / "model.safetensors").exists()
    text = (losses / "study.md").read_text()
    assert text.count("\n| class") == 3
    assert "| -4.8 | -4.4 |" in text
    assert (losses / "study.png").stat().st_size > 1000


def test_a_baseline_that_has_not_learned_concludes_nothing(losses):
    text = (losses / "study.md").read_text()
    assert "has not learned (AP50 0.0" in text
    assert "it says nothing" not in text
    assert "| class + L1 | 2 |" in text


def test_each_row_trains_with_its_own_values(losses):
    config = resolve_config(str(losses / "class---L1" / "seed-1" / "run" / "config.toml"))
    assert (config.loss.giou_weight, config.loss.giou_cost, config.loss.l1_weight) == (0, 0, 5)
    assert (config.train.seed, config.train.epochs) == (1, 1)


def test_a_finished_row_is_never_run_again(losses, digits, monkeypatch):
    def never(*_):
        raise AssertionError("a row was trained again")

    monkeypatch.setattr(ablation, "_train", never)
    before = (losses / "study.csv").read_text()
    ablate("losses", digits, losses, seeds=2)
    assert (losses / "study.csv").read_text() == before


def test_an_interrupted_study_goes_on(digits, tmp_path, monkeypatch):
    from opendetr.training.plan import Plan

    asked = []
    monkeypatch.setattr(Plan, "interrupted", lambda self: asked.append(1) or len(asked) > 4)
    with pytest.raises(KeyboardInterrupt):
        ablate("auxiliary-losses", digits, tmp_path / "out", seeds=1)
    monkeypatch.undo()
    run = tmp_path / "out" / "every-layer" / "seed-0" / "run"
    stopped = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 < stopped["epoch"] < 1
    ablate("auxiliary-losses", digits, tmp_path / "out", seeds=1)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["epoch"] == 1
    assert lines[0]["epoch"] == stopped["epoch"]  # continued, not begun anew
    assert len(list(csv.DictReader((tmp_path / "out" / "study.csv").open()))) == 2


def test_another_study_does_not_mix_in(losses, digits):
    with pytest.raises(UserError, match=r"holds a study with other rows or settings"):
        ablate("losses", digits, losses, "train.lr=1e-2")


def test_ones_own_study(digits, tmp_path):
    table = ablate(None, digits, tmp_path / "out", "model.num_queries=5,12", seeds=1)
    assert "| model.num_queries=12 | 1 |" in table.read_text()
    assert "Study of model.num_queries" in table.read_text()


def test_decoder_layers_are_measured_one_by_one(digits, tmp_path):
    assert "By decoder layer" in ablate("decoder-layers", digits, tmp_path / "out", seeds=1).read_text()


def test_crowds_of_digits_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "SCENES", 16)
    assert "| 30 | 0% |" in ablate("instances", None, tmp_path / "out", seeds=1).read_text()
    assert (tmp_path / "out" / "digits" / "annotations" / "val.json").is_file()


def test_what_was_killed_before_its_first_save_is_begun_anew(digits, tmp_path):
    ablate("decoder-layers", digits, tmp_path / "out", seeds=1)
    row = tmp_path / "out" / "as-it-is" / "seed-0"
    (row / "result.json").unlink()
    shutil.rmtree(row / "run" / "last")
    ablate("decoder-layers", digits, tmp_path / "out", seeds=1)
    assert (row / "result.json").is_file()


def test_a_row_that_cannot_be_trained_does_not_stop_the_others(digits, tmp_path, capsys):
    axis = "model.backbone_weights=nowhere.safetensors,none"
    plain = [override for override in SMALL if "backbone_weights" not in override]
    table = api.ablate(
        None, digits, tmp_path / "out", epochs=1, device="cpu", overrides=[*plain, axis], seeds=1
    )  # fmt: skip
    assert "| model.backbone_weights=none | 1 |" in table.read_text()
    assert "cannot be trained" in capsys.readouterr().out


@pytest.mark.parametrize("name", ablation.study_names())
def test_every_study_fits_the_recipe(name):
    study = ablation.load_study(name)
    assert study.baseline in [row.name for row in study.rows]
    assert len({row.folder for row in study.rows}) == len(study.rows)
    assert study.measure in ("split", "layers", "instances")
    for row in study.rows:
        resolve_config("fast").with_values(row.values, "test")


def test_differences_are_compared_with_the_spread():
    assert ablation._difference([50.0, 52.0], [48.0, 52.0]) == "(+1.0)"
    assert ablation._difference([40.0], [48.0]) == "(-8.0)"
    assert ablation._difference([40.0, 41.0], [48.0, 52.0]) == "-9.5"
    assert ablation._mean_and_spread([40.0, 41.0]) == "40.5 ± 0.5"


def test_values_of_axes():
    assert ablation.parse_axes(["a.b=1,2,3", "c.d=[8],[]", "e.f=sine,none"]) == {
        "a.b": [1, 2, 3], "c.d": [[8], []], "e.f": ["sine", "none"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"study": "loses"}, "ablate loses: unknown study; did you mean 'losses'"),
        ({"study": None}, "ablate needs a study or --set"),
        ({"study": "losses", "overrides": ["model.num_queries=1,2"]}, "several values make a study of their own"),
        ({"study": "losses", "overrides": ["model.queries=1"]}, "unknown key 'model.queries'"),
        ({"study": "losses", "overrides": ["model.num_queries"]}, "expected section.key=VALUE"),
        ({"study": "losses", "epochs": 1, "minutes": 1.0}, "--epochs and --minutes exclude each other"),
        ({"study": "losses", "seeds": 0}, "must be above 0"),
        ({"study": "instances"}, "of its own making: leave out --data"),
        ({"study": "queries", "recipe": "paper"}, "is about selected queries"),
    ],
)
def test_bad_requests(digits, tmp_path, options, sentence):
    with pytest.raises(UserError, match=sentence):
        api.ablate(data=digits, output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
