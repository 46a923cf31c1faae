"""Exports: what a file says elsewhere is what the model says in PyTorch, or there is no file."""

import copy
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from opendetr import api
from opendetr.checkpoints.loading import load_checkpoint
from opendetr.checkpoints.native import Checkpoint, copy_checkpoint, save_checkpoint
from opendetr.config import PRESETS, LossConfig, resolve_config
from opendetr.data.transforms import Preprocessing
from opendetr.engines.engine import TorchEngine
from opendetr.errors import UserError
from opendetr.exporting import choice, export
from opendetr.exporting.certificate import BOUNDS, Certificate, Comparison
from opendetr.exporting.files import fingerprint, load_exported, read_metadata
from opendetr.inference.detector import Detector
from opendetr.labels import LabelMap
from opendetr.model.detr import build_model

LABELS = LabelMap((1, 5, 9), ("circle", "square", "star"))
RECIPES = {
    "paper": replace(PRESETS["detr-tiny"], output_stride=32, dropout=0.0),
    "fast": replace(
        PRESETS["detr-tiny"], query_source="selected", scoring="focal", output_stride=32, encoder_strides=(16,),
        proposal_strides=(8,), position_encoding="cell", num_queries=12, dropout=0.0, precedence=True,
    ),
}  # fmt: skip
EXACT = 1e-4  # float32 through another library's kernels; logits here are of the size of 1
SAYS_SOMETHING = 0.3


def make_checkpoint(folder, recipe: str, **changes) -> Checkpoint:
    """A model with random weights far from their start, so that its answers differ from picture to picture."""
    torch.manual_seed(0)
    config = resolve_config("paper", None, {}, None, [])
    loss = LossConfig(proposal_repeats=1) if recipe == "fast" else LossConfig()
    config = replace(config, model=replace(RECIPES[recipe], **changes), loss=loss)
    model = build_model(config.model, config.loss, LABELS.num_classes).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("backbone"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.class_embed.bias[0] += 5.0 if recipe == "fast" else 2.0  # enough for some detections
    preprocessing = Preprocessing(64, 128, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), 32 if recipe == "fast" else 1)
    checkpoint = Checkpoint(model, config, LABELS, preprocessing, {}, folder)
    save_checkpoint(folder, checkpoint)
    return load_checkpoint(folder)


TRACED, TRANSLATED = {}, {}


@pytest.fixture(autouse=True)
def traced_once(monkeypatch):
    """Tracing and translating a model take most of an export's time: the same one is not traced twice."""
    trace, translate = export.export_program, export.to_onnx

    def export_program(checkpoint, **options):
        key = (fingerprint(checkpoint), *options.values())
        if key not in TRACED:
            TRACED[key] = trace(checkpoint, **options)
        return TRACED[key]

    def to_onnx(program):
        if id(program) not in TRANSLATED:
            TRANSLATED[id(program)] = translate(program)
        return copy.deepcopy(TRANSLATED[id(program)])

    monkeypatch.setattr(export, "export_program", export_program)
    monkeypatch.setattr(export, "to_onnx", to_onnx)


@pytest.fixture(params=["paper", "fast"])
def checkpoint(request, tmp_path) -> Checkpoint:
    return make_checkpoint(tmp_path / request.param, request.param)


@pytest.fixture
def exported(checkpoint, tmp_path):
    """Writes a format, with its certificate."""
    names = {"onnx": "model.onnx", "openvino": "model.xml", "pt2": "model.pt2"}
    return lambda kind: (tmp_path / names[kind], api.export(checkpoint.source, tmp_path / names[kind]))


@pytest.fixture
def paper(tmp_path) -> Checkpoint:
    return make_checkpoint(tmp_path / "model", "paper")


@pytest.mark.parametrize("kind", ["onnx", "openvino", "pt2"])
def test_an_export_says_what_the_model_says(checkpoint, exported, kind):
    """Batch, height and width, and padding, that were not seen when it was traced; and the file tells what it is."""
    path, certificate = exported(kind)
    engine = load_exported(path).engine
    reference = TorchEngine(checkpoint.model, torch.device("cpu"))
    for batch, height, width in ((1, 64, 128), (3, 96, 64), (5, 64, 64)):
        images = torch.randn(batch, 3, height, width)
        mask = torch.zeros(batch, height, width, dtype=torch.bool)
        mask[-1, :, width - 32 :] = batch > 1 and width > 32
        expected, found = reference(images, mask), engine(images, mask)
        torch.testing.assert_close(found.logits[-1], expected.logits[-1], rtol=0, atol=EXACT)
        torch.testing.assert_close(found.boxes_cxcywh[-1], expected.boxes_cxcywh[-1], rtol=0, atol=EXACT)
    assert not certificate.problems()
    assert {row.batch for row in certificate.comparisons} == {1, 2, 3, 8}
    assert sum(row.padded for row in certificate.comparisons) == 1
    metadata = read_metadata(path)
    assert metadata["labels"] == LABELS.to_json()
    assert metadata["preprocessing"] == checkpoint.preprocessing.to_json()
    assert Certificate.from_json(metadata["certificate"]) == certificate
    assert metadata["certificate"]["holds"]


def test_predict_and_val_take_an_exported_file(checkpoint, exported, digits):
    picture = sorted((digits / "images").glob("val_*"))[0]
    expected = Detector.load(checkpoint.source).predict(picture, threshold=0.0)
    path, _ = exported("onnx")
    for engine in ("onnxruntime", "openvino"):
        found = Detector.load(path, engine=engine).predict(picture, threshold=0.0)
        assert found.names == expected.names
        torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=EXACT)
        torch.testing.assert_close(found.boxes_xyxy, expected.boxes_xyxy, rtol=0, atol=200 * EXACT)  # pixels
    with pytest.raises(UserError, match="give the model it was made from"):
        _ = Detector.load(path).model


def test_post_processing_is_in_the_graph(checkpoint, exported):
    import onnxruntime

    session = onnxruntime.InferenceSession(exported("onnx")[0])
    images, mask = torch.randn(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.bool)
    found = session.run(["scores", "labels", "boxes_xyxy"], {"images": images.numpy(), "padding_mask": mask.numpy()})
    output = checkpoint.model(images, mask)
    scores, labels, queries = checkpoint.model.scoring.answers(output.logits[-1])
    boxes = output.boxes_cxcywh[-1].gather(1, queries[..., None].expand(-1, -1, 4))
    corners = torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)
    np.testing.assert_allclose(found[0], scores.detach(), atol=EXACT)
    np.testing.assert_array_equal(found[1], labels)
    np.testing.assert_allclose(found[2], corners.detach(), atol=EXACT)


def test_pixels_in_and_attention_out(paper, tmp_path):
    import onnxruntime

    path = tmp_path / "pixels.onnx"
    api.export(paper.source, path, with_preprocessing=True, with_attention=True)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8))
    session = onnxruntime.InferenceSession(path)
    found = dict(
        zip(
            [output.name for output in session.get_outputs()],
            session.run(None, {"images": np.asarray(picture)[None], "padding_mask": np.zeros((1, 64, 96), bool)}),
        )
    )
    expected = paper.model(Detector.load(paper.source).prepare(picture)[None])
    np.testing.assert_allclose(found["logits"], expected.logits[-1].detach(), atol=EXACT)
    assert found["attention"].shape[:3] == (1, 4, expected.logits.shape[2])
    np.testing.assert_allclose(found["attention"].sum(-1), 1, atol=EXACT)
    with pytest.raises(UserError, match="preprocessing inside"):
        Detector.load(path)


def test_an_export_that_differs_is_not_written(paper, tmp_path, monkeypatch):
    run_file = export.run_file

    def disturbed(path, precision):
        engine = run_file(path, precision)

        class Disturbed(type(engine)):
            def __call__(self, images, padding_mask=None):
                output = super().__call__(images, padding_mask)
                return replace(output, logits=output.logits + (0.01 if len(images) == 8 else 0.0))

        engine.__class__ = Disturbed
        return engine

    monkeypatch.setattr(export, "run_file", disturbed)
    with pytest.raises(UserError, match=r"logits differ by 0\.01 in batch 8"):
        api.export(paper.source, tmp_path / "out" / "model.onnx")
    assert list((tmp_path / "out").iterdir()) == []


def test_int8_is_calibrated_and_its_ap_is_stated(paper, digits, tmp_path):
    with pytest.raises(UserError, match="calibrated on your pictures"):
        api.export(paper.source, tmp_path / "model.xml", precision="int8")
    save_checkpoint(tmp_path / "digits", replace(paper, label_map=LabelMap((0, 1, 2), ("0", "1", "2"))))
    truth = json.loads((digits / "annotations/val.json").read_text())
    truth["categories"] = truth["categories"][:3]
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] < 3]
    three = tmp_path / "three"
    (three / "annotations").mkdir(parents=True)
    (three / "annotations/val.json").write_text(json.dumps(truth))
    (three / "images").symlink_to(digits / "images")
    certificate = api.export(tmp_path / "digits", tmp_path / "model.xml", precision="int8", data=three)
    assert certificate.ap["pictures"] == 4
    assert max(row.logits for row in certificate.comparisons) > EXACT  # it is another arithmetic


def test_a_certificate_does_not_hold_where_ap_or_detections_are_lost(tmp_path):
    row = Comparison(1, 64, 64, False, 0.5, 0.5, detections=10, agreeing=10, passed_over=0)
    int8 = Certificate("openvino", "int8", "torch", "a machine", "2026-01-01", "pictures", BOUNDS["int8"], [row])
    assert not replace(int8, ap={"torch": 0.5, "engine": 0.496, "pictures": 4.0}).problems()
    worse = replace(int8, ap={"torch": 0.5061, "engine": 0.5, "pictures": 4.0})
    assert worse.problems() == ["AP falls by 0.0061 (from 0.5061), 0.005 is allowed"]
    bf16 = replace(int8, precision="bf16", bounds=BOUNDS["bf16"])
    assert not bf16.problems()
    assert replace(bf16, comparisons=[row._replace(agreeing=8)]).problems() == [
        "8 of 10 detections agree, 90% are needed"
    ]


def test_an_engine_is_prepared_once_and_anew_for_other_weights(paper, monkeypatch, capsys):
    monkeypatch.setattr(choice, "is_installed", lambda engine: engine != "openvino")
    picture = Image.new("RGB", (96, 64), "teal")
    for engine in ("onnxruntime", "auto"):
        Detector.load(paper.source, engine=engine).predict(picture)
    said = capsys.readouterr().out.replace("\n", " ")
    assert said.count("preparing onnxruntime") == 1
    assert "the fastest here" in said
    before = choice.choose_engine(paper, "onnxruntime", "fp32")
    assert "preparing" not in capsys.readouterr().out
    with torch.no_grad():
        paper.model.class_embed.bias.add_(1.0)
    after = choice.choose_engine(paper, "onnxruntime", "fp32")
    assert "preparing onnxruntime" in capsys.readouterr().out
    images = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(after(images).logits, before(images).logits + 1, rtol=0, atol=EXACT)


def test_engines_that_cannot_be_kept_leave_torch(paper, monkeypatch, capsys):
    monkeypatch.setattr(choice, "is_installed", lambda engine: engine != "openvino")
    (paper.source / "engines").write_text("in the way")
    assert Detector.load(paper.source).engine.name == "torch"
    assert "onnxruntime is passed over" in capsys.readouterr().out


def test_a_model_is_copied_without_what_engines_keep_beside_it(paper, tmp_path):
    (paper.source / "engines").mkdir()
    copy_checkpoint(paper.source, tmp_path / "copy")
    assert fingerprint(load_checkpoint(tmp_path / "copy")) == fingerprint(paper)


def test_equal_weights_in_another_architecture_are_another_model(paper):
    dilated = replace(paper, config=replace(paper.config, model=replace(paper.config.model, output_stride=16)))
    assert fingerprint(dilated) != fingerprint(paper)


def test_an_engine_that_disagrees_is_passed_over(paper, monkeypatch, capsys):
    monkeypatch.setattr(choice, "is_installed", lambda engine: engine != "openvino")
    monkeypatch.setattr(Certificate, "problems", lambda self: ["boxes differ by 0.3"])
    assert Detector.load(paper.source).engine.name == "torch"
    assert "onnxruntime is passed over" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"boxes differ by 0\.3"):
        Detector.load(paper.source, engine="onnxruntime")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"engine": "tensorrt"}, "--engine tensorrt: expected auto, torch"),
        ({"precision": "fp64"}, "--precision fp64: expected fp32"),
        ({"engine": "torch", "precision": "int8"}, "--engine torch runs fp32 and bf16, not int8"),
        ({"engine": "onnxruntime", "precision": "bf16"}, "bf16 is for --format openvino"),
    ],
)
def test_what_cannot_run_is_said(paper, options, sentence):
    chosen = {"engine": "auto", "precision": "fp32"} | options
    with pytest.raises(UserError, match=sentence):
        choice.choose_engine(paper, **chosen)


def test_files_that_are_no_exports_are_said(tmp_path):
    for name in ("a.onnx", "a.xml", "a.pt2"):
        with pytest.raises(UserError, match="does not exist"):
            Detector.load(tmp_path / name)
        (tmp_path / name).write_text("no model")
        with pytest.raises(UserError, match="cannot be read"):
            Detector.load(tmp_path / name)
    with pytest.raises(UserError, match=r"ends in \.onnx, \.xml, \.pt2"):
        api.export(tmp_path, tmp_path / "model.tflite")


def test_a_backbone_with_tensorflow_padding_needs_sides_that_fit(tmp_path):
    checkpoint = make_checkpoint(tmp_path / "model", "paper", backbone="tf_efficientnet_lite0")
    with pytest.raises(UserError, match=r"multiples of 32; .* --set data.multiple_of=32"):
        api.export(checkpoint.source, tmp_path / "model.onnx")


def test_the_example_for_other_programs_needs_neither_torch_nor_opendetr(checkpoint, exported, tmp_path):
    """examples/run_onnx.py, run where importing either fails."""
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (90, 130, 3), dtype=np.uint8)).save(picture)
    code = (
        "import sys, runpy; sys.modules['torch'] = sys.modules['opendetr'] = None; "
        f"sys.argv = ['run_onnx.py', {str(exported('onnx')[0])!r}, {str(picture)!r}, '{SAYS_SOMETHING}']; "
        "runpy.run_path('examples/run_onnx.py', run_name='__main__')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = result.stdout.strip().splitlines()
    expected = Detector.load(checkpoint.source).predict(picture, threshold=SAYS_SOMETHING)
    assert len(lines) == len(expected) > 0
    for line, name, score, box in zip(lines, expected.names, expected.scores, expected.boxes_xyxy):
        said, *numbers = line.split()
        assert said == name
        assert [float(number) for number in numbers] == pytest.approx([float(score), *box.tolist()], abs=0.5)
