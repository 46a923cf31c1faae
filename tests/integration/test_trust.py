"""No file that is named on a command line runs its sender's code, and absurd numbers in it build nothing.

Every file here would make a folder if code in it ran.
"""

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from opendetr.checkpoints.huggingface_names import from_ours
from opendetr.checkpoints.official import official_name
from opendetr.cli import main
from opendetr.engines.program_archive import _is_expression
from opendetr.engines.program_engine import ProgramEngine, read_pt2_metadata, write_pt2
from opendetr.errors import UserError
from opendetr.model.backbone import Backbone

CODE = "import os; os.mkdir('ran')\n"


class Bomb:
    """An object whose pickle makes a folder when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def test_the_bomb_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Bomb()))
    assert (tmp_path / "ran").is_dir()


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd) -> Callable[..., str]:
    """Runs a command in an empty folder; asserts that it ends with one sentence and that no code ran; the sentence."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30)).save("picture.png")

    def run(*words: object) -> str:
        capfd.readouterr()
        monkeypatch.setattr("sys.argv", ["opendetr", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capfd.readouterr().err.strip()
        assert not Path("ran").exists()
        assert ended.value.code == 2
        assert len(said.splitlines()) == 1, said
        assert said.startswith("opendetr: ")
        return said

    return run


def pickled(**options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": {"weight": Bomb()}}, buffer, **options)
    return buffer.getvalue()


def numpy_pickle(*, archive: bool) -> bytes:
    buffer, value = io.BytesIO(), np.array([Bomb()], dtype=object)
    if archive:
        np.savez(buffer, weight=value)
    else:
        np.save(buffer, value)
    return buffer.getvalue()


def scripted() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


def safetensors(header: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header


HUGE = json.dumps({"weight": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}).encode()
FILES: dict[str, Callable[[], bytes]] = {
    "zipped.pth": pickled,
    "legacy.pth": lambda: pickled(_use_new_zipfile_serialization=False),
    "protocol-4.ckpt": lambda: pickled(pickle_protocol=4),
    "plain.bin": lambda: pickle.dumps(Bomb()),
    "arrays.npz": lambda: numpy_pickle(archive=True),
    "array.npy": lambda: numpy_pickle(archive=False),
    "scripted.pt": scripted,
    "code.pth": CODE.encode,
    "header-beyond.safetensors": lambda: safetensors(b"{}", 2**60),
    "tensor-beyond.safetensors": lambda: safetensors(HUGE),
    "nested.safetensors": lambda: safetensors(b'{"a":' * 50_000),
    "pickle.safetensors": pickled,
}


def write(name: str) -> Path:
    Path(name).write_bytes(FILES[name]())
    return Path(name)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("name", FILES)
def test_no_file_of_weights_runs_code(refused, coco_folder, name):
    """As MODEL, as `--init`, as `--backbone-weights`."""
    file, start = write(name), ("train", "--data", coco_folder((1, 1)), "--epochs", "1", "--workers", "0")
    for words in (
        ("predict", file, "picture.png", "--output", "out"), ("info", file), (*start, "--init", file),
        (*start, "--preset", "detr-tiny", "--backbone-weights", file),
    ):  # fmt: skip
        assert name in refused(*words)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("name", FILES)
def test_no_folder_of_weights_runs_code(refused, monkeypatch, tiny_run, name):
    """A Hugging Face folder, with code that its config names; the same from the hub; our model folder."""
    theirs, ours = Path("theirs"), Path("ours")
    theirs.mkdir()
    config = {"model_type": "detr", "auto_map": {"AutoModel": "modeling_evil.Evil"}, "id2label": {"0": "a"}}
    (theirs / "config.json").write_text(json.dumps(config))
    for file in ("modeling_evil.py", "configuration_evil.py", "__init__.py"):
        (theirs / file).write_text(CODE)
    weights = "model.safetensors" if name.endswith(".safetensors") else "pytorch_model.bin"
    write(name).rename(theirs / weights)
    assert weights in refused("info", theirs)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(theirs))
    assert weights in refused("predict", "hf://organisation/evil", "picture.png", "--output", "out")
    shutil.copytree(tiny_run / "best", ours)
    shutil.copy(theirs / weights, ours / "model.safetensors")
    assert "model.safetensors" in refused("info", ours)


def test_a_config_does_not_name_code_to_import(refused):
    """Neither its type, nor its backbone: timm would load `local-dir:` and `hf-hub:` from anywhere."""
    Path("theirs").mkdir()
    Path("theirs/config.json").write_text(json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}))
    Path("theirs/evil.py").write_text(CODE)
    assert "'evil'; expected 'detr'" in refused("info", "theirs")
    for name in ("local-dir:theirs", "hf-hub:organisation/evil", "timm/resnet18", "resnet18:evil", "os"):
        with pytest.raises(UserError, match="timm has no network called"):
            Backbone(name, pretrained=False)
    Path("recipe.toml").write_text('[model]\nbackbone = "local-dir:theirs"\n')
    assert "unknown section '__import__'" in refused("train", "--data", ".", "--recipe", _toml("[__import__]\nos = 1"))


def _toml(text: str) -> Path:
    Path("recipe.toml").write_text(text)
    return Path("recipe.toml")


@pytest.mark.parametrize("content", [pickled(), CODE.encode(), b"model = " + b"[" * 100_000, b"a = " + b"9" * 5_000])
def test_no_recipe_runs_code(refused, content):
    Path("recipe.toml").write_bytes(content)
    assert "recipe.toml" in refused("train", "--data", ".", "--recipe", "recipe.toml")


def test_no_state_of_a_training_runs_code(refused, tiny_run):
    shutil.copytree(tiny_run, "run")
    Path("run/last/training.pt").write_bytes(pickled())
    assert "training.pt asks for code to be run" in refused("train", "--resume", "run")


class Program(nn.Module):
    """The smallest program of a detector's form."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("mean", torch.zeros(3), persistent=False)

    def forward(self, images: torch.Tensor, padding_mask: torch.Tensor) -> torch.Tensor:
        """Something of everything that our programs hold: weights, constants, sizes, guards."""
        pixels = images.flatten(2).transpose(1, 2) - self.mean
        return self.linear(pixels) * padding_mask.flatten(1)[..., None]


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """A `.pt2` as our exporter writes it."""
    path = tmp_path_factory.mktemp("pt2") / "good.pt2"
    sides = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    example = (torch.zeros(2, 3, 8, 12), torch.zeros(2, 8, 12, dtype=torch.bool))
    shapes = {"images": {0: torch.export.Dim.DYNAMIC, **sides}, "padding_mask": dict.fromkeys((0, 1, 2), sides[2])}
    traced = torch.export.export(Program(), example, dynamic_shapes=shapes, strict=False)
    metadata = {
        "labels": [{"id": 1, "name": "a"}], "precision": "fp32", "inputs": {"images": "float32"}, "scoring": "softmax",
        "preprocessing": {"image_size": 32, "max_size": 64, "mean": [0.5] * 3, "std": [0.5] * 3},
    }  # fmt: skip
    write_pt2(traced, path, json.dumps(metadata))
    return path


def changed(program: Path, entries: dict[str, bytes], **changes: Callable[[Any], Any]) -> Path:
    """The program with other entries, by name, and JSON files changed: `models`, `weights` or `constants`."""
    names = {
        "models": "models/model.json", "weights": "data/weights/model_weights_config.json",
        "constants": "data/constants/model_constants_config.json",
    }  # fmt: skip
    with zipfile.ZipFile(program) as archive:
        found = {entry.partition("/")[2]: archive.read(entry) for entry in archive.namelist()}
    for key, change in changes.items():
        content = json.loads(found[names[key]])
        change(content)
        found[names[key]] = json.dumps(content).encode()
    with zipfile.ZipFile("evil.pt2", "w") as archive:
        for name, content in (found | entries).items():
            archive.writestr(f"evil/{name}", content)
    return Path("evil.pt2")


def operation(target: str, **argument: Any) -> Callable[[Any], None]:
    """Puts an operation first in a program."""
    node = {
        "target": target, "inputs": [{"name": "", "arg": argument, "kind": 1}], "outputs": [], "metadata": {},
        "name": "evil", "is_hop_single_tensor_return": None,
    }  # fmt: skip
    return lambda content: content["graph_module"]["graph"]["nodes"].insert(0, node)


def sized(text: str) -> Callable[[Any], None]:
    """Puts a text in the place of a size."""

    def change(content: Any) -> None:
        value = next(iter(content["graph_module"]["graph"]["tensor_values"].values()))
        value["sizes"][0] = {"as_expr": {"expr_str": text, "hint": None}}

    return change


def first(content: Any) -> Any:
    return next(iter(content["config"].values()))


EVIL = "__import__('os').mkdir('ran')"
NODE = ("graph_module", "signature", "input_specs", 0, "parameter")
PROGRAMS: dict[str, Callable[[Path], Path]] = {
    "weights": lambda good: changed(good, {"data/weights/model.pt": pickled()}),
    "constants": lambda good: changed(good, {"data/constants/model.pt": pickled()}),
    "sample inputs": lambda good: changed(good, {"data/sample_inputs/model.pt": pickled()}),
    "one weight": lambda good: changed(
        good, {"data/weights/weight_0": pickled()}, weights=lambda content: first(content).update(use_pickle=True)
    ),
    "an object": lambda good: changed(
        good,
        {"data/constants/opaque_obj_0": pickle.dumps(Bomb())},
        constants=lambda content: first(content).update(use_pickle=True, path_name="opaque_obj_0"),
    ),
    "an object under another name": lambda good: changed(
        good, {}, constants=lambda content: first(content).update(path_name="../../x")
    ),
    "a library": lambda good: changed(good, {"data/aotinductor/model/evil.so": b"code"}),
    "a size": lambda good: changed(good, {}, models=sized(EVIL)),
    "a size of known words": lambda good: changed(good, {}, models=sized("Symbol('s0').__class__")),
    "a guard": lambda good: changed(good, {}, models=lambda content: content["guards_code"].append(EVIL)),
    "an endless size": lambda good: changed(good, {}, models=sized("9**9**9**9")),
    "an endless guard": lambda good: changed(good, {}, models=lambda content: content["guards_code"].append("9**9**9")),
    "an operator inside torch": lambda good: changed(
        good, {}, models=operation("torch.ops.aten._resize_output_.default", as_string="cpu")
    ),
    "a function": lambda good: changed(good, {}, models=operation("torch.hub.load", as_string="evil")),
    "a library's name": lambda good: changed(good, {}, models=operation("torch.ops.load_library", as_string="cpu")),
    "a file to write": lambda good: changed(good, {}, models=operation("torch.ops.aten.save.default", as_string="ran")),
    "a file's name": lambda good: changed(good, {}, models=operation("torch.ops.aten.add.Tensor", as_string="ran")),
    "any call": lambda good: changed(good, {}, models=operation("_operator.methodcaller", as_string="cpu")),
    "a function as argument": lambda good: changed(
        good, {}, models=operation("torch.ops.aten.add.Tensor", as_operator="torch.hub.load")
    ),
    "a type to import": lambda good: changed(
        good,
        {},
        models=lambda content: content["graph_module"]["module_call_graph"][0]["signature"].update(
            in_spec='[1, {"type": "builtins.dict", "context": "[{\\"__enum__\\": true, \\"fqn\\": \\"evil:E\\"}]"}]'
        ),
    ),
    "a name with code": lambda good: changed(
        good,
        {},
        models=lambda content: content["graph_module"]["signature"]["input_specs"][0]["parameter"].update(
            parameter_name=f'a", {EVIL}, "'
        ),
    ),
    "a compressed entry": lambda good: _compressed(good),
    "nested": lambda good: changed(good, {"models/model.json": b"[" * 100_000}),
    "no program": lambda good: changed(good, {"models/model.json": b"[]"}),
    "an empty weight": lambda good: changed(good, {"data/weights/weight_0": b""}),
    "no weights": lambda good: changed(good, {}, weights=lambda content: content["config"].clear()),
    "no archive": lambda _: write("plain.bin").rename("evil.pt2"),
}  # fmt: skip


def _compressed(good: Path) -> Path:
    with zipfile.ZipFile(changed(good, {})) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile("evil.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in found.items():
            archive.writestr(name, content)
    return Path("evil.pt2")


def test_a_program_of_ours_is_loaded(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (program, changed(program, {})):
        assert "labels" in json.loads(read_pt2_metadata(path) or "")
        assert ProgramEngine(path).module(torch.ones(1, 3, 4, 6), torch.ones(1, 4, 6, dtype=torch.bool)).shape[1] == 24


@pytest.mark.parametrize(
    "text",
    [
        "Mul(Integer(32), Symbol('s18', positive=True, integer=True), Symbol('s30', positive=True, integer=True))",
        "((1 + (((-1) + L['images'].size()[2]) // 8)) % L['padding_mask'].size()[1]) != 0",
        "torch.sym_max(1 + (((-1) + L['images'].size()[2]) // 32), math.ceil(0.5)) <= 50 and not 3 == 4",
    ],
)
def test_sizes_are_expressions_and_nothing_else(text):
    """As torch writes them; with any other name, or a way to one, they are not."""
    assert _is_expression(text)
    for word in (
        "evil",
        "__class__",
        ".shape",
        "torch",
        "torch.hub",
        "lambda",
        "for x in y",
        '"',
        "`",
        "\\",
        "\n",
        "f''",
    ):
        assert not _is_expression(text + word)
        assert not _is_expression(word + text)


@pytest.mark.parametrize("text", ["L['x'].size()[2]**2", "Pow(Symbol('s0', positive=True), Integer(-1))", "9" * 19])
def test_small_powers_and_numbers_are_sizes(text):
    assert _is_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "9**999", "9**9**9", "(((9**99)**99)**99)**99", "9**(9*9)", "Pow(Integer(9), Integer(999))",
        "Pow(Integer(9), Mul(Integer(9), Integer(9)))", "PowByNatural(9, 100)", "FloatPow(9, Pow(9, 9))", "9" * 20,
        "Float('1e9999', precision=53)", "Float('1.0', precision=999999999)", "Rational('1e99999999')",
        "1 << 999999999", "round(1, -999999999)", "[1]*999999999", "(1, 2)*999999999", "1 +",
        "('a')*999999999", "max('a', 'b')*999999999", "L['x'].size()*999999999",
    ],
)  # fmt: skip
def test_sizes_that_take_for_ever_are_none(text):
    assert not _is_expression(text)


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_program_runs_code(refused, program, name):
    path = PROGRAMS[name](program)
    assert "evil.pt2" in refused("predict", path, "picture.png", "--output", "out")


def test_metadata_are_read_without_the_program(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.export, "load", lambda *_, **__: pytest.fail("the program was loaded"))
    assert read_pt2_metadata(program)
    with pytest.raises(UserError, match="which might run code"):
        read_pt2_metadata(PROGRAMS["a library"](program))


def test_metadata_of_another_kind_are_one_sentence(refused, program):
    for metadata in ({"labels": 3}, {"labels": []}, {"labels": [{"id": True, "name": 5}]}):
        whole = {"preprocessing": 1, "precision": 2, "inputs": 3} | metadata
        assert "evil.pt2" in refused("info", changed(program, {"extra/opendetr": json.dumps(whole).encode()}))
        assert "evil.pt2" in refused("predict", "evil.pt2", "picture.png", "--output", "out")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("outside", ["../secret.bin", "absolute", "link.bin"])
def test_onnx_reads_no_weights_outside_its_folder(refused, tmp_path, engine, outside):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip(engine)
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.arange(8, dtype=np.float32).tobytes())
    Path("model").mkdir()
    Path("model/link.bin").symlink_to(secret)
    place = str(secret) if outside == "absolute" else outside
    entries = [
        onnx.StringStringEntryProto(key=key, value=value) for key, value in (("location", place), ("length", "32"))
    ]
    weight = onnx.TensorProto(name="w", data_type=1, dims=[8], data_location=onnx.TensorProto.EXTERNAL)
    weight.external_data.extend(entries)
    values = [onnx.helper.make_tensor_value_info(name, 1, [8]) for name in "xy"]
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.helper.set_model_props(model, {"opendetr": json.dumps({"labels": []})})
    Path("model/evil.onnx").write_bytes(model.SerializeToString())
    assert "evil.onnx" in refused("predict", "model/evil.onnx", "picture.png", "--output", "out", "--engine", engine)


def test_onnx_and_openvino_run_no_operations_of_others(refused):
    """They would come from a library, which nothing here loads."""
    onnx, _ = pytest.importorskip("onnx"), pytest.importorskip("openvino")
    values = [onnx.helper.make_tensor_value_info(name, 1, [8]) for name in "xy"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Evil", ["x"], ["y"], domain="evil")], "g", *map(list, zip(values))
    )
    imports = [onnx.helper.make_opsetid("evil", 1)]
    Path("evil.onnx").write_bytes(onnx.helper.make_model(graph, opset_imports=imports).SerializeToString())
    Path("evil.xml").write_text(
        '<?xml version="1.0"?><net name="n" version="11"><layers><layer id="0" name="e" type="Evil" version="evil">'
        '<output><port id="0" precision="FP32"><dim>1</dim></port></output></layer></layers><edges/></net>'
    )
    Path("evil.bin").write_bytes(b"")
    for name in ("evil.onnx", "evil.xml"):
        assert name in refused("info", name)


@pytest.fixture
def nothing_built(monkeypatch) -> None:
    """Fails a test in which a model is built from a checkpoint."""
    for room in ("native", "official", "huggingface", "remote_code"):
        monkeypatch.setattr(
            f"opendetr.checkpoints.{room}.build_model", lambda *_: pytest.fail("a model was built"), raising=True
        )


NUMBERS = {
    "embed_dim": "4000000", "num_heads": "true", "num_encoder_layers": "1000000", "num_decoder_layers": "0",
    "feedforward_dim": "-1", "num_queries": "1" + "0" * 30, "dropout": "nan", "output_stride": '"32"',
    "pre_norm": "1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"),
    [*NUMBERS.items(), ("num_encoder_layers", "7"), ("embed_dim", "64"), ("num_queries", "9" * 5_000)],
)
def test_absurd_numbers_in_our_config_build_nothing(refused, tiny_run, nothing_built, key, value):
    """Also numbers that are possible, and not those of the weights."""
    shutil.copytree(tiny_run / "best", "model")
    config = Path("model/config.toml")
    lines = config.read_text().splitlines()
    config.write_text("\n".join(f"{key} = {value}" if line.startswith(f"{key} = ") else line for line in lines))
    said = refused("info", "model")
    assert "config.toml" in said or "model.safetensors" in said or f"model.{key}" in said
    assert len(said) < 500


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("labels.json", [{"id": 1, "name": 5}]), ("labels.json", [{"id": 1.5, "name": "a"}]), ("labels.json", []),
        ("labels.json", [1]), ("labels.json", {"a": 1}), ("preprocessing.json", {"image_size": 10**9}),
        ("preprocessing.json", [1]), ("metrics.json", [1]), ("metrics.json", {"kinds": {"a": "load"}}),
        ("metrics.json", {"read": 5}), ("metrics.json", {"val": 5}), ("metrics.json", {"arguments": [1]}),
    ],
)  # fmt: skip
def test_our_json_files_of_another_kind_build_nothing(refused, tiny_run, nothing_built, file, content):
    shutil.copytree(tiny_run / "best", "model")
    path = Path("model") / file
    before = json.loads(path.read_text())
    path.write_text(json.dumps(before | content if isinstance(before, dict) and isinstance(content, dict) else content))
    assert file in refused("info", "model")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 100_000, '{"model_type": ' + "9" * 5_000 + "}", "null"])
def test_json_beyond_all_limits_builds_nothing(refused, tiny_run, nothing_built, text):
    Path("theirs").mkdir()
    Path("theirs/config.json").write_text(text)
    assert "config.json" in refused("info", "theirs")
    shutil.copytree(tiny_run / "best", "model")
    for name in ("labels.json", "metrics.json", "preprocessing.json"):
        kept = Path("model", name).read_text()
        Path("model", name).write_text(text)
        assert name in refused("info", "model")
        Path("model", name).write_text(kept)


def hugging_face(run: Path, **config: Any) -> Path:
    """A folder of the tiny run's weights as transformers has them, with changes in its config."""
    folder = Path("theirs")
    folder.mkdir()
    torch.save(from_ours(load_file(run / "best" / "model.safetensors")), folder / "pytorch_model.bin")
    whole = {
        "model_type": "detr", "use_timm_backbone": False, "backbone": None, "encoder_layers": 1, "decoder_layers": 2,
        "backbone_config": {"model_type": "timm_backbone", "backbone": "test_resnet", "output_stride": 16},
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
        "id2label": {str(index): str(index) for index in range(10)},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(whole | config))
    return folder


HEADS = ("encoder_attention_heads", "decoder_attention_heads")
OF_HUGGING_FACE = [
    (("decoder_layers",), 10**6), (("encoder_layers",), 10**30), (HEADS, 0), (("decoder_layers",), -1), (HEADS, True),
    (("encoder_layers",), "1"), (("dropout",), None), (HEADS, [4]), (("encoder_ffn_dim", "decoder_ffn_dim"), {"a": 64}),
    (("decoder_layers",), 2.5), (("dropout",), float("nan")), (("encoder_ffn_dim", "decoder_ffn_dim"), 10**9),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "value"), OF_HUGGING_FACE)
def test_absurd_numbers_in_a_hugging_face_config_build_nothing(refused, tiny_run, nothing_built, keys, value):
    assert "theirs" in refused("info", hugging_face(tiny_run, **dict.fromkeys(keys, value)))


OF_OFFICIAL = [
    ("nheads", 10**6), ("nheads", 10**5000), ("nheads", 0), ("nheads", "4"), ("nheads", True), ("dropout", -1),
    ("dropout", float("nan")), ("pre_norm", "False"), ("eos_coef", 10**30), ("eos_coef", [1]), ("aux_loss", "yes"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), OF_OFFICIAL, ids=lambda value: f"{value!r:.20}" if value != 10**5000 else "")
def test_absurd_numbers_in_official_arguments_build_nothing(refused, tiny_run, nothing_built, monkeypatch, key, value):
    monkeypatch.setattr("opendetr.checkpoints.official.backbone_of", lambda _: "test_resnet")
    state = load_file(tiny_run / "best" / "model.safetensors")
    content = {"model": {official_name(name): tensor for name, tensor in state.items()}, "args": {key: value}}
    torch.save(content, "evil.pth")
    assert "evil.pth" in refused("info", "evil.pth")


def test_a_tensor_that_poses_as_a_large_one_builds_nothing(refused, tiny_run, nothing_built):
    state = {f"detr.{name}": tensor for name, tensor in load_file(tiny_run / "best" / "model.safetensors").items()}
    torch.save({"model": state | {"class_embed.weight": torch.zeros(1).expand(10**12)}}, "evil.pth")
    assert "'class_embed.weight' poses as [1000000000000]" in refused("info", "evil.pth")
