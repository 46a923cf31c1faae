"""Hugging Face's image processors beside our preprocessing: sizes, pixels, and what is assumed without a processor."""

import json
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from test_huggingface import build
from torchvision.transforms import v2
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.image_utils import get_image_size_for_max_height_width

from opendetr import api
from opendetr.checkpoints.families import IMAGENET, PREPROCESSING, TABLE_MODELS
from opendetr.checkpoints.huggingface_processor import read_preprocessing
from opendetr.checkpoints.loading import load_checkpoint
from opendetr.cli import main
from opendetr.config import ModelConfig
from opendetr.data.transforms import Preprocessing
from opendetr.errors import UserError
from opendetr.inference.detector import Detector

ODD = [(131, 97), (64, 200), (150, 149)]  # widths and heights
EXAMPLE = {"shortest_edge": 90, "longest_edge": 133}
SQUARE = {"max_height": 96, "max_width": 96}  # of the official example script


@pytest.fixture(scope="module")
def theirs():
    return build(use_timm_backbone=True, backbone="test_resnet")


@pytest.fixture(scope="module")
def bare(theirs, tmp_path_factory):
    """A folder without an image processor, as a Trainer's `checkpoint-500`."""
    path = tmp_path_factory.mktemp("hf") / "checkpoint-500"
    theirs.save_pretrained(path)
    return path


@pytest.fixture
def with_processor(bare, tmp_path):
    """The folder with an image processor."""

    def make(processor):
        folder = shutil.copytree(bare, tmp_path / "with", dirs_exist_ok=True)
        if isinstance(processor, dict):
            (folder / "preprocessor_config.json").write_text(json.dumps(processor))
        else:
            processor.save_pretrained(folder)
        return folder

    return make


def pictures():
    """Photographic, not noise: smooth areas and edges."""
    grey = np.indices((120, 160)).sum(0) % 251
    base = Image.fromarray(np.stack([grey, grey[::-1], 255 - grey], -1).astype(np.uint8))
    return [base.resize(size, Image.Resampling.BICUBIC) for size in ODD]


def sizes():
    """3,000 heights and widths, of which every third has the longer side as the limit."""
    drawn = random.Random(0)
    return [(drawn.randint(200, 2000), drawn.randint(200, 2000)) for _ in range(3000)]


@pytest.mark.parametrize(("size", "max_size"), [(800, 1333), (480, 800), (600, 600)])
def test_sizes_are_theirs(size, max_size):
    ours = replace(PREPROCESSING, image_size=size, max_size=max_size, rounding="transformers")
    assert [ours.shape(*shape) for shape in sizes()] == [
        get_size_with_aspect_ratio(shape, size, max_size) for shape in sizes()
    ]
    down = replace(PREPROCESSING, image_size=size, max_size=size, rounding="down")
    assert [down.shape(*shape) for shape in sizes()] == [
        get_image_size_for_max_height_width(shape, size, size) for shape in sizes()
    ]


def test_the_rule_matters():
    official, transformers_ = PREPROCESSING, replace(PREPROCESSING, rounding="transformers")
    assert sum(official.shape(*shape) != transformers_.shape(*shape) for shape in sizes()) > 900


@pytest.mark.parametrize("size", [EXAMPLE, SQUARE, {"shortest_edge": 300, "longest_edge": 150}])
@pytest.mark.parametrize("resample", [2, 3])
def test_inputs_and_answers_are_those_of_both_processors(with_processor, theirs, size, resample):
    torchvisions = transformers.DetrImageProcessor(size=size, do_pad=False, resample=resample)
    pils = transformers.DetrImageProcessorPil(size=size, do_pad=False, resample=resample)
    detector = Detector.load(with_processor(torchvisions), engine="torch")
    for picture in pictures():
        found, prepared = detector.predict(picture, threshold=0.0), detector.prepare(picture)
        one, other = (p(picture, return_tensors="pt")["pixel_values"][0] for p in (torchvisions, pils))
        assert prepared.shape == one.shape == other.shape
        # Parity is measured against the torchvision processor: the same resize, normalised in another order.
        torch.testing.assert_close(prepared, one, rtol=0, atol=1e-5)
        # Pillow rounds some pixels to the neighbouring grey levels, one for bilinear and two for bicubic at most.
        grey = 1 / 255 / 0.224
        assert float((prepared - other).abs().max()) < (1.01 if resample == 2 else 2.01) * grey
        assert float(((prepared - other).abs() > 1e-4).float().mean()) < 0.03
        with torch.no_grad():
            answer = theirs(one[None])
        expected = torchvisions.post_process_object_detection(
            answer, threshold=0.0, target_sizes=[(picture.height, picture.width)]
        )[0]
        torch.testing.assert_close(torch.as_tensor(found.scores), expected["scores"], rtol=0, atol=1e-5)
        boxes = torch.as_tensor(found.boxes_xyxy)
        torch.testing.assert_close(boxes, expected["boxes"], rtol=0, atol=1e-5 * 200)


def test_a_rule_goes_through_every_form(with_processor, tmp_path, capsys):
    for name, size, rule in (("a", EXAMPLE, "transformers"), ("b", SQUARE, "down")):
        theirs = with_processor({"size": size, "resample": 3, "do_pad": False})
        ours = api.convert(theirs, tmp_path / f"{name}1", "opendetr")
        again = api.convert(ours, tmp_path / f"{name}2", "huggingface")
        for folder in (theirs, ours, again):
            found = load_checkpoint(folder).preprocessing
            assert (found.rounding, found.resampling) == (rule, "bicubic")
        written = json.loads((again / "preprocessor_config.json").read_text())
        assert (written["size"], written["resample"]) == (size, 3)
    assert "rounds" not in capsys.readouterr().out  # transformers has both rules


def test_the_official_rule_in_a_folder_for_transformers_is_kept_and_said(with_processor, tmp_path, capsys):
    ours = api.convert(with_processor({"size": EXAMPLE}), tmp_path / "ours", "opendetr")
    stored = json.loads((ours / "preprocessing.json").read_text())
    assert stored.pop("rounding") == "transformers"
    (ours / "preprocessing.json").write_text(json.dumps(stored))  # as earlier versions wrote it
    assert load_checkpoint(ours).preprocessing.rounding == "official"
    capsys.readouterr()
    written = api.convert(ours, tmp_path / "written", "huggingface")
    assert "transformers rounds the longer side of a resized picture by its own rule" in " ".join(
        capsys.readouterr().out.split()
    )
    assert load_checkpoint(written).preprocessing.rounding == "official"
    config = json.loads((written / "config.json").read_text())
    del config["opendetr"]["rounding"]  # a folder that an earlier version wrote
    (written / "config.json").write_text(json.dumps(config))
    assert load_checkpoint(written).preprocessing.rounding == "official"


@pytest.mark.parametrize(
    ("processor", "said"),
    [
        ({"size": EXAMPLE, "pad_size": {"height": 132, "width": 140}}, "pad_size must be a height and a width of at"),
        ({"size": EXAMPLE, "pad_size": {"height": "140", "width": 140}}, "pad_size must be a height and a width"),
        (
            {"size": {"max_height": 96, "max_width": 128}},
            "expected shortest_edge and longest_edge, or equal max_height",
        ),
        ({"size": {"height": 96, "width": 96}}, "expected shortest_edge and longest_edge, or equal max_height"),
        ({"size": EXAMPLE, "resample": 1}, "resample = 1 cannot be computed here; expected 2 or 3"),
    ],
)
def test_what_is_not_computed_is_refused_by_its_name(with_processor, processor, said):
    with pytest.raises(UserError, match=f"preprocessor_config.json: .*{said}"):
        load_checkpoint(with_processor(processor))


def test_a_pad_size_that_is_not_used_changes_nothing(with_processor):
    processor = {"size": EXAMPLE, "pad_size": {"height": 133, "width": 133}, "do_pad": False}
    assert load_checkpoint(with_processor(processor)).preprocessing.max_size == 133


@pytest.mark.parametrize("size", [SQUARE, {"shortest_edge": 60, "longest_edge": 90}])
def test_padded_pictures_are_computed_with_their_mask(with_processor, theirs, tmp_path, size, capsys):
    """As the official example script: boxes are fractions of the padded frame, in which it trains them."""
    processor = transformers.DetrImageProcessor(size=size, do_pad=True, pad_size={"height": 96, "width": 128})
    folder = with_processor(processor)
    native = api.convert(folder, tmp_path / "ours", "opendetr")
    again = api.convert(native, tmp_path / "again", "huggingface")
    for picture in pictures():
        inputs = processor(picture, return_tensors="pt")
        with torch.no_grad():
            answer = theirs(**inputs)
        inside = inputs["pixel_mask"][0]
        height, width = int(inside[:, 0].sum()), int(inside[0].sum())
        frame = [(picture.height * 96 / height, picture.width * 128 / width)]  # in pixels of the picture
        expected = processor.post_process_object_detection(answer, threshold=0.0, target_sizes=torch.tensor(frame))[0]
        for model in (folder, native, again):
            found = Detector.load(model, engine="torch").predict([picture, picture], threshold=0.0)[1]
            torch.testing.assert_close(torch.as_tensor(found.scores), expected["scores"], rtol=0, atol=1e-5)
            boxes = torch.as_tensor(found.boxes_xyxy)
            torch.testing.assert_close(boxes, expected["boxes"], rtol=0, atol=1e-5 * 400)
    # A model learns these fractions: the processor's own targets, of a box in the lower right corner of the picture.
    box = {"bbox": [picture.width - 10, picture.height - 20, 10, 20], "category_id": 0, "area": 200, "iscrowd": 0}
    target = processor(picture, annotations={"image_id": 1, "annotations": [box]}, return_tensors="pt")["labels"][0]
    assert target["boxes"][0, 0] + target["boxes"][0, 2] / 2 == pytest.approx(width / 128)
    said = " ".join(capsys.readouterr().out.split())
    assert "pictures are padded to 96x128, and boxes are fractions of that" in said
    with pytest.raises(UserError, match="a picture of 1x400 pixels, after resizing, does not fit the model's pad_size"):
        load_checkpoint(folder).preprocessing.framed(torch.zeros(1, 3, 1, 400))
    for refused in (
        lambda: api.explain(folder, [str(tmp_path)], tmp_path / "why", threads=1),
        lambda: api.export(folder, tmp_path / "model.onnx", threads=1),
    ):
        with pytest.raises(UserError, match=r"the model is one for pictures padded to one size \(pad_size"):
            refused()


# Without a processor


def test_what_is_assumed_is_said_once(bare, capsys):
    found = load_checkpoint(bare).preprocessing
    assert found == replace(PREPROCESSING, rounding="transformers", resizer="torchvision")
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("no preprocessor_config.json: shorter side 800, longer at most 1333, and ImageNet's mean") == 1
    assert "if it was trained at another size, give that by --image-size" in said


def of_queries(folder, queries, classes):
    """A small Table Transformer on ResNet-18, with as many queries, without a processor."""
    torch.manual_seed(0)
    labels = {index: f"part {index}" for index in range(classes)}
    config = transformers.TableTransformerConfig(
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=queries, id2label=labels, backbone="resnet18",
        label2id={name: index for index, name in labels.items()},
    )  # fmt: skip
    transformers.TableTransformerForObjectDetection(config).save_pretrained(folder)
    return folder


def theirs_of_tables(height, width, longest):
    """The authors' own rule: microsoft/table-transformer, src/inference.py, `MaxResize`."""
    scale = longest / max(height, width)
    return round(scale * height), round(scale * width)


@pytest.mark.parametrize(
    ("queries", "longest", "task"), [(15, 800, "table detection"), (125, 1000, "table structure recognition")]
)
def test_table_transformers_are_known_by_their_queries(tmp_path, queries, longest, task):
    model = ModelConfig(backbone="resnet18.tv_in1k", pre_norm=True, num_queries=queries)
    found, (remark,) = read_preprocessing(tmp_path, {}, model)
    assert [found.shape(*shape) for shape in sizes()] == [theirs_of_tables(*shape, longest) for shape in sizes()]
    assert f"longer side {longest}, resized as the authors of the Table Transformer do for {task}" in remark
    assert f"assumed by its {queries} queries; if it was trained at another size, give that by --image-size" in remark
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"longest_edge": 640}}')  # of the version 1.1
    found, remarks = read_preprocessing(tmp_path, {}, model)
    assert (found.shape(700, 500), remarks) == (theirs_of_tables(700, 500, 640), [])
    (tmp_path / "preprocessor_config.json").write_text('{"size": 800, "max_size": 1000}')  # of the version 1.0
    assert read_preprocessing(tmp_path, {}, model)[0].shape(1100, 1000) == (880, 800)
    for other in (replace(model, pre_norm=False), replace(model, num_queries=100)):
        (tmp_path / "preprocessor_config.json").unlink(missing_ok=True)
        assert read_preprocessing(tmp_path, {}, other)[0].image_size == 800
        assert read_preprocessing(tmp_path, {}, other)[0].max_size == 1333


def test_a_bare_pth_of_a_table_transformer_is_known_too(tmp_path, capsys):
    folder = of_queries(tmp_path / "hf", 125, 6)
    official = api.convert(folder, tmp_path / "official", "official") / "checkpoint.pth"
    state = torch.load(official, weights_only=False)["model"]
    torch.save(state, tmp_path / "TATR.pth")
    said = " ".join(capsys.readouterr().out.split())
    assert "no preprocessor_config.json: longer side 1000, resized as the authors of the Table Transformer do" in said
    assert "the official code resizes by its own rule, not by the model's ('nearest', bicubic)" in said
    found = load_checkpoint(tmp_path / "TATR.pth")
    assert found.preprocessing == TABLE_MODELS[125].preprocessing
    assert found.label_map.names[:2] == ("table", "table column")
    assert found.origin.labels == "names assumed"
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "longer side 1000, resized as the authors of the Table Transformer do for table structure recognition" in said
    )
    assert "assumed by its 125 queries; if it was trained at another size, give that by --image-size" in said
    assert "6 classes: taken for the Table Transformer's for table structure recognition" in said
    assert load_checkpoint(tmp_path / "TATR.pth", image_size=500).preprocessing.shape(2200, 1700) == (500, 386)
    assert "pictures: shorter side 500, longer at most 500, as asked for" in capsys.readouterr().out

    picture = pictures()[0]
    height, width = theirs_of_tables(picture.height, picture.width, 1000)
    theirs = v2.functional.to_image(picture.resize((width, height))).float() / 255  # bicubic: Pillow's default
    theirs = v2.functional.normalize(theirs, *IMAGENET)
    ours = Detector.of_checkpoint(found, "cpu").prepare(picture)
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) < 2.01 / 255 / 0.224  # two grey levels


def test_another_image_size_in_every_command(bare, tmp_path, monkeypatch, capsys):
    smaller = replace(PREPROCESSING, image_size=48, max_size=80, rounding="transformers", resizer="torchvision")

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["opendetr", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code

    seen = list[Preprocessing]()
    monkeypatch.setattr(Detector, "prepare", spied(seen, Detector.prepare))
    monkeypatch.setattr(  # the page itself is not the question
        "opendetr.explanation.writing.explain_sources",
        lambda detector, *others: seen.append(detector.description.preprocessing) or tmp_path / "page",
    )
    picture = tmp_path / "picture.png"
    pictures()[0].save(picture)
    assert run("predict", bare, picture, "--output", tmp_path / "found", "--engine", "torch", "--image-size", 48) == 0
    assert run("explain", bare, picture, "--output", tmp_path / "why", "--image-size", 48, "--threads", 1) == 0
    assert seen == [smaller, smaller]
    assert run("convert", bare, tmp_path / "out", "--to", "opendetr", "--image-size", 48) == 0
    assert load_checkpoint(tmp_path / "out").preprocessing == smaller
    capsys.readouterr()
    assert run("predict", bare, picture, "--output", tmp_path / "none", "--image-size", 0) == 2
    assert capsys.readouterr().err == "opendetr: --image-size must be at least 1, got 0\n"
    assert run("predict", tmp_path / "a.onnx", picture, "--output", tmp_path / "none", "--image-size", 48) == 2
    assert "is an exported file, which keeps its own size of pictures: leave out --image-size" in (
        " ".join(capsys.readouterr().err.split())
    )


def spied(seen, prepare):
    """`Detector.prepare` that notes the preprocessing."""

    def noting(detector, image):
        seen.append(detector.description.preprocessing)
        return prepare(detector, image)

    return noting
