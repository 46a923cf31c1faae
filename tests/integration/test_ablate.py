"""`opendetr ablate`: rows are trained once, a study goes on where it was stopped, and says what it cannot say."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from tiny import TINY_FAST

from opendetr import api
from opendetr.ablation import run, study, tables
from opendetr.data.digits import crowd_scenes
from opendetr.errors import UserError
from opendetr.inference.detector import Detector
from opendetr.labels import LabelMap
from opendetr.recipes.recipe import resolve_config
from opendetr.structures import Detections
from opendetr.training.run_folder import read_metrics

pytestmark = pytest.mark.usefixtures("undrawn")  # the studies of all tests, made before, have their figures drawn

SMALL = (
    "model.backbone=test_resnet", "model.backbone_weights=none", "data.image_size=64", "train.workers=0",
    "train.batch_size=8", "train.precision=fp32", "data.horizontal_flip=0.0", "data.vertical_flip=0.0",
    *TINY_FAST["overrides"],
)  # fmt: skip


def ablate(name, digits, output, *extra, **options):
    return api.ablate(name, digits, output, epochs=1, device="cpu", overrides=(*SMALL, *extra), **options)


def study_of(name, seeds):
    """A fixture: the folder of a study, trained once for the tests that look at it."""

    @pytest.fixture(scope="module")
    def folder(digits, tmp_path_factory):
        output = tmp_path_factory.mktemp("studies") / name
        ablate(name, digits, output, seeds=seeds)
        return output

    return folder


losses, layers = study_of("losses", seeds=2), study_of("decoder-layers", seeds=1)


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
    assert "A difference in brackets" not in text
    assert "| class + L1 | 2 |" in text


def test_each_row_trains_with_its_own_values(losses):
    config = resolve_config(str(losses / "class---L1" / "seed-1" / "run" / "config.toml"))
    assert (config.loss.giou_weight, config.loss.giou_cost, config.loss.l1_weight) == (0, 0, 5)
    assert (config.train.seed, config.train.epochs) == (1, 1)


def test_a_finished_row_is_never_run_again(losses, digits, monkeypatch):
    def never(*_):
        raise AssertionError("a row was trained again")

    monkeypatch.setattr(run, "_train", never)
    before = (losses / "study.csv").read_text()
    ablate("losses", digits, losses, seeds=2)
    assert (losses / "study.csv").read_text() == before


def test_an_interrupted_study_goes_on(digits, tmp_path, monkeypatch):
    from opendetr.training.plan import Plan

    asked = []
    monkeypatch.setattr(Plan, "interrupted", lambda self: asked.append(1) or len(asked) > 1)
    with pytest.raises(KeyboardInterrupt):
        ablate("auxiliary-losses", digits, tmp_path / "out", seeds=1)
    monkeypatch.undo()
    kept = tmp_path / "out" / "every-layer" / "seed-0" / "run"
    stopped = json.loads((kept / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 < stopped["epoch"] < 1
    ablate("auxiliary-losses", digits, tmp_path / "out", seeds=1)
    logged = [line for line in read_metrics(kept) if line["kind"] == "epoch"]
    assert logged[-1]["epoch"] == 1
    assert logged[0]["epoch"] == stopped["epoch"]  # continued, not begun anew
    assert len(list(csv.DictReader((tmp_path / "out" / "study.csv").open()))) == 2


def test_another_study_does_not_mix_in(losses, digits):
    sentence = r"holds another study: settings\.fixed\.train\.lr is 0\.001 in .*study\.json and 0\.01 now"
    with pytest.raises(UserError, match=sentence):
        ablate("losses", digits, losses, "train.lr=1e-2")


def test_data_that_are_not_there_leave_nothing_behind(digits, tmp_path):
    options = {"study": "losses", "output": tmp_path / "out", "epochs": 1, "device": "cpu", "overrides": SMALL}
    for wrong in ({"data": digits / "nowhere"}, {"data": digits, "split": "vall"}):
        with pytest.raises(UserError):
            api.ablate(**options, **wrong)
        assert not (tmp_path / "out").exists()


def test_decoder_layers_are_measured_one_by_one(layers):
    assert "By decoder layer" in (layers / "study.md").read_text()


def test_crowds_of_digits_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SCENES", 16)
    monkeypatch.setattr(run, "DIGITS_COUNTED", 1)
    monkeypatch.setattr(run, "INSTANCES", (4, 30))
    assert "| 30 | 0% |" in ablate("instances", None, tmp_path / "out", seeds=1).read_text()
    assert (tmp_path / "out" / "digits" / "annotations" / "val.json").is_file()


def test_what_was_killed_before_its_first_save_is_begun_anew(layers, digits, tmp_path):
    shutil.copytree(layers, tmp_path / "out")
    row = tmp_path / "out" / "as-it-is" / "seed-0"
    (row / "result.json").unlink()
    shutil.rmtree(row / "run" / "last")
    ablate("decoder-layers", digits, tmp_path / "out", seeds=1)
    assert (row / "result.json").is_file()


def test_a_row_that_cannot_be_trained_does_not_stop_the_others(digits, tmp_path, capsys):
    axis = "model.backbone_weights=nowhere.safetensors,none"
    plain = [override for override in SMALL if "backbone_weights" not in override]
    with pytest.raises(UserError, match=r"1 of 2 runs of the study failed, the first 'model.backbone_weights=nowhere"):
        api.ablate(None, digits, tmp_path / "out", epochs=1, device="cpu", overrides=[*plain, axis], seeds=1)
    text = (tmp_path / "out" / "study.md").read_text()
    assert "| model.backbone_weights=none | 1 |" in text
    assert "Failed: 'model.backbone_weights=nowhere.safetensors', seed 0: " in text
    assert "seed 0, failed" in capsys.readouterr().out


def test_a_crash_fails_its_run_of_ones_own_study_only_and_is_tried_again(digits, tmp_path, monkeypatch):
    train = run._train

    def crashing(config, folder):
        if config.model.num_queries == 12:
            raise MemoryError("out of memory")
        train(config, folder)

    monkeypatch.setattr(run, "_train", crashing)
    with pytest.raises(UserError, match=r"1 of 2 runs of the study failed, .*seed 0 \(MemoryError: out of memory\)"):
        ablate(None, digits, tmp_path / "out", "model.num_queries=12,5", seeds=1)
    row = tmp_path / "out" / "model-num-queries-12" / "seed-0"
    assert "in crashing" in (row / "error.txt").read_text()
    assert not (row / "result.json").exists()
    monkeypatch.undo()
    table = ablate(None, digits, tmp_path / "out", "model.num_queries=12,5", seeds=1).read_text()
    assert "Study of model.num_queries" in table
    assert "| model.num_queries=12 | 1 |" in table
    assert [path.name for path in sorted(row.iterdir())] == ["result.json", "run"]


@pytest.mark.parametrize("name", study.study_names())
def test_every_study_fits_the_recipe(name):
    shipped = study.load_study(name)
    assert shipped.baseline in [row.name for row in shipped.rows]
    assert len({row.folder for row in shipped.rows}) == len(shipped.rows)
    assert shipped.measure in ("split", "layers", "instances")
    for row in shipped.rows:
        resolve_config("fast").with_values(row.values, "test")


def result(row, seed, ap, ap50=0.9, **more):
    return {
        (row, seed): {"row": row, "seed": seed, "AP": ap, "AP50": ap50, "AP75": 0.0, "epochs": 1, "seconds": 1, **more}
    }


TWO_ROWS = study.Study("own", "Two", "For the test.", "base", [study.StudyRow("base"), study.StudyRow("other")])
SETTINGS = study.Settings("data", "fast", epochs=1)


def lines(*results, of=TWO_ROWS, failed=None):
    together = {key: value for one in results for key, value in one.items()}
    return list(tables.markdown(of, SETTINGS, together, failed or {}))


def test_a_difference_that_may_be_chance_is_in_brackets():
    small = lines(result("base", 0, 0.48), result("base", 1, 0.52), result("other", 0, 0.50), result("other", 1, 0.54))
    assert any(line.startswith("| other | 2 | 52.0 ± 2.0 | (+2.0) |") for line in small)
    large = lines(result("base", 0, 0.50), result("base", 1, 0.51), result("other", 0, 0.40), result("other", 1, 0.41))
    assert any(line.startswith("| other | 2 | 40.5 ± 0.5 | -10.0 |") for line in large)
    single = lines(result("base", 0, 0.50), result("other", 0, 0.10))
    assert any(line.startswith("| other | 1 | 10.0 | (-40.0) |") for line in single)


def test_chance_alone_is_taken_for_a_result_once_in_twenty_times():
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(1000):
        rows = [list(pair) for pair in rng.normal(50, 1, (3, 2))]
        wrong += not tables._difference(rows[1], rows[0], tables._chance(rows)).startswith("(")
    assert 25 <= wrong <= 80  # 50 expected, standard deviation 7


def test_a_baseline_that_has_not_learned_has_no_differences():
    text = lines(
        result("base", 0, 0.1, 0.4), result("base", 1, 0.1, 0.4), result("other", 0, 0.9), result("other", 1, 0.9)
    )
    assert any("has not learned (AP50 0.400" in line for line in text)
    assert any(line.startswith("| other | 2 | 90.0 ± 0.0 | - |") for line in text)


def test_rows_that_could_not_be_trained_are_in_the_table():
    text = "\n".join(lines(result("other", 0, 0.5), failed={("base", 0): "no weights"}))
    assert "The baseline 'base' could not be trained" in text
    assert "Failed: 'base', seed 0: no weights" in text


def test_everything_that_is_measured_is_in_the_csv():
    flat = tables._flat(result("a", 0, 0.5, layers=[{"AP": 0.1}, {"AP": 0.2}], instances={"4": 0.75})["a", 0])
    assert (flat["AP, layer 1"], flat["AP, layer 2"], flat["found of 4"]) == (0.1, 0.2, 0.75)


def test_digits_are_found_by_class_place_and_once_each(monkeypatch, tiny_run):
    """A detector that names the class of every scene, puts two boxes on the first digit and one on the second."""
    truth = {}

    def crowds(count, side, seed):
        for digit, picture, boxes in crowd_scenes(count, side, seed):
            truth[digit] = boxes
            yield digit, picture, boxes

    def stream(self, images, threshold=0.5):
        ((digit, image),) = images
        boxes = torch.tensor([truth[digit][0], truth[digit][0], truth[digit][1]], dtype=torch.float32)
        labels = LabelMap(tuple(range(10)), tuple("0123456789"))
        said = digit if digit else 5  # wrong about the zeros
        found = Detections(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.full((3,), said), labels, image.size[::-1])
        yield digit, found

    monkeypatch.setattr(run, "crowd_scenes", crowds)
    monkeypatch.setattr(run, "DIGITS_COUNTED", 4)
    monkeypatch.setattr(run.Detector, "stream", stream)
    assert run._found_share(Detector.load(tiny_run, "cpu"), 4) == pytest.approx(9 * 2 / 40)


def test_a_study_of_another_recipe_does_not_mix_in(digits, tmp_path):
    config = resolve_config("fast", overrides=["train.lr=1e-3"])
    (tmp_path / "mine.toml").write_text(config.to_toml())
    options = {"epochs": 1, "device": "cpu", "seeds": 1, "recipe": str(tmp_path / "mine.toml"), "data": digits}
    plain = [override for override in SMALL if "train.lr" not in override]
    api.ablate("decoder-layers", output=tmp_path / "out", overrides=plain, **options)
    (tmp_path / "mine.toml").write_text(config.with_values({"train.lr": 2e-3}, "test").to_toml())
    with pytest.raises(UserError, match=r"holds another study: recipe\.train\.lr is 0\.001 in .* and 0\.002 now"):
        api.ablate("decoder-layers", output=tmp_path / "out", overrides=plain, **options)


def test_where_no_row_can_be_trained_the_reason_is_the_error(digits, tmp_path):
    options = {"epochs": 1, "device": "cpu", "seeds": 1}
    plain = [override for override in SMALL if "backbone_weights" not in override]
    nowhere = (*plain, "model.backbone_weights=nowhere.safetensors")
    with pytest.raises(UserError, match=r"no row of the study could be trained: .*nowhere\.safetensors"):
        api.ablate("decoder-layers", digits, tmp_path / "out", overrides=nowhere, **options)


def test_values_of_axes():
    assert study.parse_axes(["a.b=1,2,3", "c.d=[8],[]", "e.f=sine,none"]) == {
        "a.b": [1, 2, 3], "c.d": [[8], []], "e.f": ["sine", "none"],
    }  # fmt: skip


@pytest.mark.parametrize("values", [[1.5, "1-5"], [10, 10], ["Sine", "sine"]])
def test_rows_do_not_share_a_folder(values):
    with pytest.raises(UserError, match=r"--set: the rows 'a\.b=.*' and 'a\.b=.*' would share the folder 'a-b-"):
        study.own_study({"a.b": values})


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
        ({"study": "losses", "overrides": ["train.seed=7"]}, "--set train.seed: a study takes it from --seeds"),
        ({"study": "encoder-layers", "overrides": ["model.num_encoder_layers=2"]}, "every row of the study"),
        ({"study": "instances"}, "of its own making: leave out --data"),
        ({"study": "queries", "recipe": "paper"}, "is about selected queries"),
    ],
)
def test_bad_requests(digits, tmp_path, options, sentence):
    with pytest.raises(UserError, match=sentence):
        api.ablate(data=digits, output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
