"""Benchmarks: all sides do the same work, tables say what the clocks said, what cannot run is said in words."""

import json
import shutil
import sys
import types
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision

from opendetr.benchmarking import measure, peers, process_memory, timing
from opendetr.benchmarking.benchmark import Benchmark, print_benchmark, write_benchmark
from opendetr.benchmarking.measure import run_benchmark
from opendetr.benchmarking.peers import PEERS, load_peer, official_folder, require_peer
from opendetr.benchmarking.process_memory import make_pictures, peak_memory
from opendetr.benchmarking.sides import OwnSide, write_for_peer
from opendetr.benchmarking.task import Task
from opendetr.benchmarking.timing import Clock, measure_peaks, take_turns
from opendetr.checkpoints.loading import load_checkpoint
from opendetr.checkpoints.native import Checkpoint, save_checkpoint
from opendetr.checkpoints.origin import Origin
from opendetr.config import LossConfig
from opendetr.data.transforms import Preprocessing
from opendetr.errors import UserError
from opendetr.exporting.fastest_engine import engine_file
from opendetr.labels import LabelMap
from opendetr.model.build import build_model
from opendetr.recipes.presets import PRESETS
from opendetr.recipes.recipe import resolve_config

LABELS = LabelMap((1, 5, 9), ("circle", "square", "star"))
MODELS = {
    "plain": replace(  # little to trace for an engine, which takes longer than all that is measured
        PRESETS["detr-tiny"], output_stride=32, dropout=0.0, num_encoder_layers=0, num_decoder_layers=1
    ),
    "paper": replace(PRESETS["detr-tiny"], output_stride=32, dropout=0.0, backbone="resnet18.tv_in1k"),
    "fast": replace(
        PRESETS["detr-tiny"], query_source="selected", scoring="focal", output_stride=32, encoder_strides=(16,),
        proposal_strides=(8,), position_encoding="cell", num_queries=12, dropout=0.0, precedence=True, focus=True,
    ),
}  # fmt: skip
EXACT = 1e-4
CPU = torch.device("cpu")


def make_checkpoint(folder: Path, recipe: str) -> Checkpoint:
    torch.manual_seed(0)
    config = resolve_config("paper", None, {}, None, [])
    loss = LossConfig(proposal_repeats=1) if recipe == "fast" else LossConfig()
    config = replace(config, model=MODELS[recipe], loss=loss)
    model = build_model(config.model, config.loss, LABELS.num_classes).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("backbone"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    preprocessing = Preprocessing(64, 96, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), 32 if recipe == "fast" else 1)
    save_checkpoint(folder, Checkpoint(model, config, LABELS, preprocessing, Origin(), folder))
    return load_checkpoint(folder)


def in_short(checkpoint, **options) -> Benchmark:
    """A benchmark that takes no time to speak of, and says nothing about it."""
    return run_benchmark(checkpoint, **{"seconds": 1e-6, "memory": False, "device": "cpu"} | options)


@pytest.fixture(autouse=True, scope="module")
def short():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "PRODUCTS", (64, 128))
        patch.setattr(timing, "WARM_UP", 1)
        patch.setattr(timing, "TURN", 1e-9)
        if not official_folder().is_dir():
            patch.setenv("OPENDETR_PEERS", str(Path(__file__).parents[2] / ".peers"))
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Checkpoint:
    return make_checkpoint(tmp_path_factory.mktemp("benchmark") / "plain", "plain")


@pytest.fixture(scope="module")
def paper(tmp_path_factory) -> Checkpoint:
    """A model that peers know."""
    return make_checkpoint(tmp_path_factory.mktemp("benchmark") / "paper", "paper")


@pytest.fixture(scope="module")
def fast(tmp_path_factory) -> Checkpoint:
    return make_checkpoint(tmp_path_factory.mktemp("benchmark") / "fast", "fast")


def skip_without(peer: str) -> None:
    try:
        require_peer(peer)
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def found(plain) -> Benchmark:
    """Engines of ours in batches of two; one of the precisions is nobody's but OpenVINO's."""
    engines, precisions = ("torch", "onnxruntime"), ("fp32", "bf16")
    return in_short(plain, engines=engines, precisions=precisions, batch=2, size=(64, 96))


@pytest.fixture(scope="module", params=PEERS)
def beside(paper, request) -> Benchmark:
    skip_without(request.param)
    return in_short(paper, engines=("torch",), precisions=("fp32",), against=request.param)


def assert_numbers_fit(found: Benchmark) -> None:
    rows = {row.name: row for row in found.rows}
    base = rows[found.baseline]
    for row in found.rows:
        if row.reason is not None:
            continue
        for key in ("model", "end_to_end"):
            timing_, of_base = getattr(row, key), getattr(base, key)
            assert 0 < timing_.p50 <= timing_.p95
            assert timing_.calls >= 1
            assert timing_.pictures_per_second == pytest.approx(found.batch / timing_.p50)
            assert timing_.ratio == pytest.approx(of_base.p50 / timing_.p50)
        assert row.gflops_per_second == pytest.approx(2 * found.multiply_adds * found.batch / row.model.p50)
        peak = max(found.peaks.values()) if row.precision == "bf16" else found.peaks["fp32"]
        assert row.share_of_peak == pytest.approx(row.gflops_per_second / peak)


def test_every_engine_and_precision_is_a_row(found):
    assert [row.name for row in found.rows] == ["torch fp32", "torch bf16", "onnxruntime fp32", "onnxruntime bf16"]
    assert found.baseline == "torch fp32"
    assert (found.batch, found.input) == (2, (64, 96))
    assert found.multiply_adds > 0
    assert_numbers_fit(found)


def test_engines_agree_with_torch(found):
    torch_fp32, bf16, onnxruntime, _ = found.rows
    assert torch_fp32.logits == torch_fp32.boxes == 0
    assert onnxruntime.logits < EXACT
    assert onnxruntime.boxes < EXACT
    assert 0 < bf16.logits < 0.5
    assert 0 < bf16.boxes < 0.1


def test_before_it_begins_it_says_what_takes_how_long(plain, monkeypatch):
    """45 s for three rows, 60 + 60 x 0.5 for engines, 3 x (4 + 5 x 0.5) for processes."""
    monkeypatch.setattr(measure, "is_prepared", lambda _, engine, precision: engine == "torch")
    monkeypatch.setattr(measure.time, "time", lambda: measure.psutil.Process().create_time() + 4)
    wanted = [("torch", "fp32"), ("onnxruntime", "fp32"), ("openvino", "fp32")]
    said = measure._what_it_takes(plain, wanted, None, 10, 0.5, memory=True)
    assert said == (
        "This takes about 3 min. 3 rows of 10 s each, with warming up: 45 s; preparing onnxruntime fp32 and openvino "
        "fp32, once: 90 s; 3 processes of their own for peak memory (--no-memory leaves them out): 20 s."
    )
    assert measure._what_it_takes(plain, wanted[:1], None, 10, 0.5, memory=False).endswith("with warming up: 15 s.")


def test_engines_that_must_be_prepared_share_one_tracing(plain, monkeypatch):
    given = []

    def refuse(*_, tracing=None):
        given.append(tracing)
        raise UserError("not today")

    task = Task.of(plain, None, 1)
    expected = OwnSide(plain, plain.preprocessing, "torch", "fp32", "cpu").answer(task.images)
    monkeypatch.setattr("opendetr.benchmarking.sides.choose_engine", refuse)
    wanted = [("torch", "bf16"), ("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")]
    _, failed = measure._prepare(plain, task, wanted, "cpu", expected)
    assert [row.reason for row in failed] == ["not today"] * 4
    assert given[0] is None
    assert given[1] is given[2] is not given[3]


def test_what_cannot_run_is_a_row_with_the_reason(found, capsys):
    failed = found.rows[-1]
    assert "bf16 is for" in failed.reason or "no bf16" in failed.reason
    assert failed.model is failed.end_to_end is failed.logits is failed.gflops_per_second is None
    print_benchmark(found)
    for text in (found.to_markdown(), capsys.readouterr().out):
        assert f"onnxruntime bf16 was not measured: {failed.reason}" in text


def test_answers_that_are_no_numbers_are_a_row_with_the_reason(plain, monkeypatch):
    answer = OwnSide.answer

    def nonsense(side, images):
        output = answer(side, images)
        return replace(output, logits=output.logits * float("nan")) if side.precision == "bf16" else output

    monkeypatch.setattr(OwnSide, "answer", nonsense)
    good, bad = in_short(plain, engines=("torch",), precisions=("fp32", "bf16")).rows
    assert good.reason is None
    assert "NaN" in bad.reason


def test_a_peer_is_a_row_and_the_baseline(beside):
    ours, theirs = beside.rows
    assert beside.baseline == theirs.name == f"{theirs.engine} fp32"
    assert theirs.engine in beside.versions
    assert theirs.model.ratio == theirs.end_to_end.ratio == 1
    assert theirs.logits < EXACT
    assert theirs.boxes < EXACT
    assert not [remark for remark in beside.remarks if "does not compute the same" in remark]
    assert_numbers_fit(beside)
    assert ours.logits == 0


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_does_the_same_work_end_to_end(paper, peer, tmp_path):
    """Its own resize, normalisation and post-processing lead to our scores and boxes, in pixels of the picture."""
    skip_without(peer)
    task = Task.of(paper, (70, 110), 2)
    written = write_for_peer(replace(paper, preprocessing=task.preprocessing), peer, tmp_path / "peer")
    ours = OwnSide(paper, task.preprocessing, "torch", "fp32", "cpu").detect(task.pictures)
    theirs = load_peer(peer, written, CPU).detect(task.pictures)
    for mine, other in zip(ours, theirs, strict=True):
        assert len(mine) == len(other["scores"]) == MODELS["paper"].num_queries
        order, others_order = mine.scores.argsort(), other["scores"].argsort()
        torch.testing.assert_close(mine.scores[order], other["scores"][others_order], rtol=0, atol=0.02)
        middles = [boxes.mean(0) for boxes in (mine.boxes_xyxy, other["boxes"])]
        torch.testing.assert_close(*middles, rtol=0, atol=0.02 * max(task.picture))


def test_a_peer_that_computes_something_else_is_said(paper, monkeypatch):
    skip_without("huggingface")
    load = measure.load_peer

    def disturbed(*arguments):
        peer = load(*arguments)
        with torch.no_grad():
            peer.model.bbox_predictor.layers[-1].bias.add_(0.1)
        return peer

    monkeypatch.setattr(measure, "load_peer", disturbed)
    found = in_short(paper, engines=("torch",), precisions=("fp32",), against="huggingface")
    assert "huggingface does not compute the same" in found.remarks[0]
    assert found.rows[-1].boxes > EXACT


def test_a_peer_that_does_not_round_sides_is_said(paper):
    skip_without("huggingface")
    coarse = replace(paper, preprocessing=replace(paper.preprocessing, multiple_of=32))
    found = in_short(coarse, engines=("torch",), precisions=("fp32",), against="huggingface")
    assert any("makes 64x85 of a picture instead of 96x128" in remark for remark in found.remarks)


def test_what_is_written_comes_back_and_has_every_row(found, beside, tmp_path, capsys):
    for one in (found, beside):
        page = write_benchmark(one, tmp_path / "out").read_text()
        assert json.loads((tmp_path / "out" / "benchmark.json").read_text()) == one.to_json()
        print_benchmark(one)
        for text in (page, capsys.readouterr().out):
            assert all(text.count(row.engine) >= 3 for row in one.rows)
            assert one.machine in text
            assert all(f"{name} {version}" in text for name, version in one.versions.items())
        for row in one.rows:
            assert page.count(f"| {row.name} |") == 3


def test_a_busy_machine_is_said(found):
    assert "Other programs took 40%" in replace(found, others=0.4).to_markdown()
    assert "Other programs" not in replace(found, others=0.0).to_markdown()


def test_the_model_is_not_changed(plain):
    before = {name: tensor.clone() for name, tensor in plain.model.state_dict().items()}
    in_short(plain, engines=("torch",), precisions=("bf16",))
    assert not plain.model.backbone.in_full_precision
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.model.state_dict().items())


def test_selected_queries_are_paired_before_they_are_compared(fast, monkeypatch):
    """The same answers in another order are the same answers."""
    answer = OwnSide.answer

    def turned(side, images):
        output = answer(side, images)
        return replace(output, logits=output.logits.flip(2), boxes_cxcywh=output.boxes_cxcywh.flip(2))

    expected = OwnSide(fast, fast.preprocessing, "torch", "fp32", "cpu")
    task = Task.of(fast, None, 2)
    output = expected.answer(task.images)
    monkeypatch.setattr(OwnSide, "answer", turned)
    assert measure._compared(expected, task, output, paired=True).logits == 0
    assert measure._compared(expected, task, output, paired=False).logits > 0.1


def test_without_wishes_bf16_is_measured_where_it_is_fast_and_int8_where_it_was_prepared(plain, found, monkeypatch):
    engine_file(plain, "onnxruntime", "int8").touch()  # onnxruntime's fp32 was prepared for `found`
    monkeypatch.setattr(measure, "measure_peaks", lambda device: {"fp32": 100.0, "bf16": 200.0})
    rows = in_short(plain, engines=("torch", "onnxruntime")).rows
    assert [row.name for row in rows] == ["torch fp32", "torch bf16", "onnxruntime fp32", "onnxruntime int8"]
    assert "data set is not there" in rows[-1].reason
    monkeypatch.setattr(measure, "measure_peaks", lambda device: {"fp32": 100.0, "bf16": 50.0})
    slow = in_short(plain, engines=("torch",))
    assert [row.name for row in slow.rows] == ["torch fp32"]
    assert "bf16 is left out: matrix products in it run at 0.50 times" in slow.remarks[0]


def test_torch_is_the_reference_even_where_others_are_asked_for(plain, found):
    rows = in_short(plain, engines=("onnxruntime",), precisions=("fp32",)).rows
    assert [row.name for row in rows] == ["torch fp32", "onnxruntime fp32"]


def test_memory_is_measured_in_another_process(plain, monkeypatch):
    (row,) = in_short(plain, engines=("torch",), precisions=("fp32",), memory=True).rows
    weights = sum(tensor.nbytes for tensor in plain.model.state_dict().values())
    assert weights < row.memory < 1e11
    monkeypatch.setattr(process_memory.sys, "executable", shutil.which("false"))
    found = in_short(plain, engines=("torch",), precisions=("fp32",), memory=True)
    assert found.rows[0].memory is None
    assert "the memory of torch fp32 could not be measured" in found.remarks[0]


@pytest.mark.parametrize("engine", ["onnxruntime", pytest.param("official", marks=pytest.mark.slow)])
def test_the_other_process_loads_what_was_prepared(plain, paper, found, engine, tmp_path):
    """An engine is not prepared again, and a peer needs no model of ours."""
    if engine in PEERS:
        skip_without(engine)
        written = write_for_peer(paper, engine, tmp_path / "peer")
    else:
        written = tmp_path / "own"
        save_checkpoint(written, plain)
    kept = engine_file(plain, "onnxruntime", "fp32").with_suffix(".json")
    before = kept.stat().st_mtime_ns
    order = process_memory.Order(engine, "fp32", "cpu", str(written), str(plain.source), 64, 96, (48, 64), 1, 1)
    assert peak_memory(order) > 1e7
    assert kept.stat().st_mtime_ns == before
    assert not (tmp_path / "own" / "engines").exists()


@pytest.mark.parametrize("size", [(64, 96), (480, 640), (97, 61), (800, 1066), (333, 500), (801, 1067)])
def test_pictures_become_an_input_of_the_size_asked_for(paper, size):
    task = Task.of(paper, size, 1)
    assert task.images.shape == (1, 3, *size)
    assert task.picture != size  # there is something to resize


def test_pictures_differ_and_are_the_same_every_time():
    first, second = make_pictures(2, 30, 40)
    assert first.size == (40, 30)
    assert first.tobytes() != second.tobytes()
    assert [one.tobytes() for one in make_pictures(2, 30, 40)] == [first.tobytes(), second.tobytes()]


def test_peaks_are_speeds():
    found = measure_peaks(CPU)
    assert found.keys() == {"fp32", "bf16"}
    assert all(0 < peak < 1e9 for peak in found.values())


@pytest.mark.parametrize(("seconds", "rounds"), [(6.0, 3), (7.9, 3), (1.0, 1)])
def test_clocks_tick_in_turn_for_no_longer_than_they_may(monkeypatch, seconds, rounds):
    """Every call takes a second, and a round two of each side; one round is made in any case."""
    order, now = [], [0.0]
    monkeypatch.setattr(timing, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(timing, "TURN", 1.0)

    def call(name):
        order.append(name)
        now[0] += 1.0

    clocks = [Clock({"a": partial(call, name)}) for name in "xyz"]
    others = take_turns(clocks, seconds)
    warm, measured = order[: 3 * timing.WARM_UP], "".join(order[3 * timing.WARM_UP :])
    assert sorted(warm) == sorted("xyz" * timing.WARM_UP)
    assert measured == ("xxyyzz" + "yyzzxx" + "zzxxyy")[: 6 * rounds]  # the first call of each is not timed
    assert all(len(clock.seconds["a"]) == rounds for clock in clocks)
    assert 0 <= others <= 1


def test_what_it_takes_is_said_before(plain, capsys):
    in_short(plain, engines=("torch",), precisions=("fp32",), seconds=1e-6)
    assert "1 row of 1e-06 s each, with warming up: 0 s." in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": (0, 64)}, "--size 0x64: expected height x width"),
        ({"device": "tpu"}, "--device tpu is not available"),
    ],
)
def test_impossible_requests_are_said(paper, options, sentence):
    with pytest.raises(UserError, match=sentence):
        in_short(paper, **options)


def test_sizes_that_the_model_never_sees_are_said(fast):
    with pytest.raises(UserError, match="--size 64x100: expected height x width in multiples of 32 pixels"):
        in_short(fast, size=(64, 100))


@pytest.mark.parametrize("peer", PEERS)
def test_models_that_a_peer_does_not_know_are_said(fast, peer):
    skip_without(peer)
    with pytest.raises(UserError, match="cannot read a model with"):
        in_short(fast, against=peer)


def test_a_peer_that_is_missing_is_said(paper, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENDETR_PEERS", str(tmp_path))
    with pytest.raises(UserError, match=r"pip install --no-deps --target .* detr==0\.1\.4"):
        in_short(paper, against="official")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="pip install 'transformers"):
        in_short(paper, against="huggingface")


def test_the_official_code_leaves_no_traces(monkeypatch):
    skip_without("official")
    others, version, path = types.ModuleType("util"), torchvision.__version__, list(sys.path)
    monkeypatch.setitem(sys.modules, "util", others)
    peers._official_code.cache_clear()
    require_peer("official")
    assert sys.modules["util"] is others
    assert "models" not in sys.modules
    assert (torchvision.__version__, sys.path) == (version, path)
