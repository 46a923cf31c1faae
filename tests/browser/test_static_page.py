"""The exported folder in a real browser: it answers as Python does, without a network too, and certifies itself."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from patience import PATIENCE
from PIL import Image
from static_server import handed_out

from opendetr import api
from opendetr.checkpoints.loading import load_checkpoint
from opendetr.checkpoints.native import Checkpoint, save_checkpoint
from opendetr.checkpoints.origin import Origin
from opendetr.config import LossConfig
from opendetr.data.transforms import Preprocessing
from opendetr.detections import Detections
from opendetr.errors import UserError
from opendetr.explanation.look import look
from opendetr.exporting.export import ExportOptions
from opendetr.inference.detector import Detector
from opendetr.labels import LabelMap
from opendetr.model.build import build_model
from opendetr.recipes.presets import PRESETS
from opendetr.recipes.recipe import resolve_config
from opendetr.serving import web_folder
from opendetr.serving.look_tensors import look_tensors
from translations import counted_translations

PACKAGES = Path(__file__).parent / "node_modules"
CLOSE = 1e-3  # of the picture's sides, and of scores
HOSTILE = "<img src=x onerror=alert(1)> </script>"
FAST = replace(
    PRESETS["detr-tiny"], backbone="test_efficientnet", query_source="selected", scoring="focal", num_queries=12,
    output_stride=32, encoder_strides=(16,), proposal_strides=(8,), position_encoding="cell", dropout=0.0,
    precedence=True, focus=True,
)  # fmt: skip
SMALLER = replace(FAST, proposal_strides=(), num_decoder_layers=1)  # is exported in two thirds of the time


@pytest.fixture(scope="module", params=[SMALLER, pytest.param(FAST, marks=pytest.mark.slow)], ids=["smaller", "fast"])
def model(request, tmp_path_factory) -> Path:
    """A model with random weights far from their start, so that its answers differ from picture to picture."""
    torch.manual_seed(0)
    config = resolve_config("paper", None, {}, None, [])
    config = replace(config, model=request.param, loss=LossConfig(proposal_repeats=1))
    labels = LabelMap((1, 5, 9), ("circle", HOSTILE, "sta\nr"))
    detr = build_model(config.model, config.loss, labels.num_classes).eval()
    with torch.no_grad():
        for name, parameter in detr.named_parameters():
            if not name.startswith("backbone"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
        detr.class_embed.bias[0] += 5.0
    preprocessing = Preprocessing(64, 128, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), 32)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_checkpoint(folder, Checkpoint(detr, config, labels, preprocessing, Origin(thresholds=(0.4, 0.5, 0.6)), folder))
    return folder


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    """The model's page; to look at, never to change."""
    output = tmp_path_factory.mktemp("pages") / "page"
    with pytest.MonkeyPatch.context() as patch:
        taken = counted_translations(patch)
        api.export(model, output, "web")
    assert len(taken) == 1, "an operator that `_operators` lacks makes a translation take three times as long"
    return output


@pytest.fixture(scope="module")
def installed(folder) -> Path:
    """The same after `npm install`."""
    if not (PACKAGES / "onnxruntime-web").is_dir():
        pytest.skip(f"run `npm ci` in {PACKAGES.parent} for the runtime of the static page")
    (folder / "node_modules").symlink_to(PACKAGES)
    return folder


@pytest.fixture(scope="module")
def tabs(chromium):
    """The browser's memory; a server has a port of its own, so the browser has kept nothing of earlier ones."""
    context = chromium.new_context()
    context.set_default_timeout(PATIENCE)
    yield context
    context.close()


@pytest.fixture
def page(tabs):
    """A new tab. It stays open: while a tab has the runtime, the next need not compile it."""
    return tabs.new_page()


@pytest.fixture(scope="module")
def with_client(tabs, installed):
    """A page whose client is asked by several tests. It has one thread: several wait busily for each other."""
    with handed_out(installed) as address:
        page = tabs.new_page()
        bare(page, address)
        yield page


def ask(page, script: str, given=None):
    """What the script returns, which has a client in `client` and makes blobs by `blobOf`."""
    return page.evaluate(
        """async ([script, given]) => {
          const { localClient } = await import("./clients/local.js");
          const model = await (await fetch("model.json")).json();
          globalThis.client ??= localClient(model);
          const blobOf = (bytes) => new Blob([Uint8Array.from(bytes)], { type: "image/png" });
          return await (0, eval)(`(async (client, given, blobOf) => { ${script} })`)(client, given, blobOf);
        }""",
        [script, given],
    )


def bare(page, address: str) -> None:
    """Open the folder without starting its page, which has a client of its own."""
    page.goto(f"{address}types.js")


def noise(width=90, height=70, seed=0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def png(picture: Image.Image) -> list[int]:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return list(content.getvalue())


def linked(folder: Path, tmp_path: Path) -> Path:
    """The folder again, to change a file in."""
    copy = tmp_path / "page"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).symlink_to(path)
    return copy


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.unlink()
    path.write_text(text.replace(old, new))


def require_same(found, expected: Detections, sides: tuple[int, int]) -> None:
    """Every detection has its partner, of the same class, score and box."""
    expected = expected[expected.scores.argsort(descending=True, stable=True)]
    assert [one["label"] for one in found] == expected.labels.tolist()
    assert [one["category_id"] for one in found] == expected.category_ids
    torch.testing.assert_close(torch.tensor([one["score"] for one in found]), expected.scores, rtol=0, atol=CLOSE)
    apart = torch.tensor([one["box_xyxy"] for one in found]) - expected.boxes_xyxy
    assert (apart / torch.tensor([*sides, *sides])).abs().max() < CLOSE


def test_the_folder_is_whole_and_says_what_it_is(folder, model):
    names = {path.name for path in folder.iterdir()}
    assert {
        "index.html", "main.js", "sw.js", "exported-files.js", "model.onnx", "look.onnx", "model.json", "sample.png",
        "sample.json", "certificate.json", "package.json",
    } <= names  # fmt: skip
    facts = json.loads((folder / "model.json").read_text())
    assert [one["name"] for one in facts["classes"]] == ["circle", HOSTILE, "sta\nr"]
    assert facts["thresholds"] == [0.4, 0.5, 0.6]
    assert facts["costs"] == {"class": 1.0, "l1": 5.0, "giou": 2.0}
    assert (facts["num_queries"], facts["strides"], facts["can_look"]) == (12, [16, 32], True)
    certificates = json.loads((folder / "certificate.json").read_text())
    assert all(certificates[name]["holds"] for name in ("model.onnx", "look.onnx"))
    package = json.loads((folder / "package.json").read_text())
    tested = json.loads((PACKAGES.parent / "package.json").read_text())["dependencies"]
    assert package["dependencies"] == {"onnxruntime-web": tested["onnxruntime-web"]}
    listed = json.loads((folder / "exported-files.js").read_text().removeprefix("self.exported = ").rstrip(";\n"))
    missing = [name for name in listed["files"] if not (folder / name).exists() and "node_modules" not in name]
    assert missing == []
    assert str(model) not in (folder / "model.json").read_text()


@pytest.mark.parametrize("name", ["model.onnx", "look.onnx"])
def test_its_graphs_sample_nothing_and_need_no_operator_of_their_own(folder, name):
    graph = pytest.importorskip("onnx").load(folder / name)
    assert {each.domain for each in graph.opset_import} <= {"", "ai.onnx"}
    assert not graph.functions
    assert "GridSample" not in {node.op_type for node in graph.graph.node}


def test_a_folder_with_other_files_is_left_alone(model, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="which is of no export, and would be removed"):
        api.export(model, tmp_path, "web")
    with pytest.raises(UserError, match="goes without --with-preprocessing"):
        api.export(model, tmp_path / "new", "web", with_attention=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_failed_export_leaves_the_earlier_folder(folder, model, tmp_path, monkeypatch):
    output = tmp_path / "page"
    shutil.copytree(folder, output, symlinks=True)
    before = {path: path.read_bytes() for path in output.iterdir() if path.is_file()}

    def fails(*_):
        raise UserError("no look")

    monkeypatch.setattr(web_folder, "export_model", lambda *_, **named: None)
    monkeypatch.setattr(web_folder, "write_look_graph", fails)
    with pytest.raises(UserError, match="no look"):
        api.export(model, output, "web")
    assert {path: path.read_bytes() for path in output.iterdir() if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["page"]


def test_with_data_both_graphs_are_of_the_model_that_knows_their_categories(model, tmp_path, monkeypatch):
    given, knowing = [], replace(load_checkpoint(model), label_map=LabelMap((7, 8, 9), ("a", "b", "c")))

    def stop(*arguments):
        given.extend(arguments)
        raise UserError("enough")

    monkeypatch.setattr(web_folder, "on_data", lambda _, index: (knowing, index))
    monkeypatch.setattr(web_folder, "export_with_data", stop)
    with pytest.raises(UserError, match="enough"):
        web_folder.export_web(load_checkpoint(model), tmp_path / "page", ExportOptions("onnx"), object(), object())
    assert given[0] is given[-1].checkpoint is knowing


def test_the_page_is_small(folder):
    """Page and script, without model, runtime and sample."""
    parts = [path for path in folder.rglob("*") if path.suffix in (".js", ".html", ".css", ".svg")]
    assert len(parts) > 15
    assert sum(path.stat().st_size for path in parts if "node_modules" not in path.parts) < 300_000


def test_it_detects_looks_and_matches_as_python_does(with_client, installed, model):
    picture = noise()
    truth = [{"label": 0, "box_xyxy": [10, 10, 50, 40]}, {"label": 1, "box_xyxy": [0, 0, 90, 70]}]
    found = ask(
        with_client,
        """
        const picture = blobOf(given.picture);
        await client.model();
        const { tensors, ...look } = await client.look(picture);
        return {
          agreement: client.engine().agreement,
          detected: await client.detect(picture, 0.4), everything: await client.detect(picture),
          look: { ...look, tensors: Object.fromEntries(Object.entries(tensors).map(([name, { shape, data }]) => [name, { shape, data: [...data] }])) },
          matching: await client.match(picture, given.truth, 0.4),
        };
        """,  # noqa: E501
        {"picture": png(picture), "truth": truth},
    )
    detector = Detector.load(model, engine="torch")
    require_same(found["detected"]["detections"], detector.predict(picture, threshold=0.4), picture.size)
    require_same(found["everything"]["detections"], detector.predict(picture, threshold=0.05), picture.size)
    assert len(found["detected"]["detections"]) > 1
    sample = json.loads((installed / "sample.json").read_text())
    count = len(sample["answers"])
    assert (found["agreement"]["agreeing"], found["agreement"]["count"]) == (count, count)

    seen = look(detector, picture)
    expected = look_tensors(seen.output, seen.captured)
    assert found["look"]["extent"] == pytest.approx(seen.extent)
    assert found["look"]["memory_shapes"] == [list(shape) for shape in seen.memory.shapes]
    assert found["look"]["tensors"].keys() == expected.keys()
    for name, tensor in expected.items():
        said = found["look"]["tensors"][name]
        torch.testing.assert_close(torch.tensor(said["data"]).view(said["shape"]), tensor, rtol=1e-3, atol=1e-3)
    assert len(found["matching"]["objects"]) == 2
    assert found["matching"]["objects"][1]["name"] == HOSTILE


@pytest.mark.parametrize("count", [2, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["bccd", pytest.param("cards", marks=pytest.mark.slow)])
def test_photographs_are_detected_alike(with_client, model, test_data, name, count):
    """JPEG files, which the browser decodes itself."""
    files = sorted(path for path in (test_data / name / "images").rglob("*") if path.is_file())
    chosen = files[:: max(1, len(files) // count)][:count]
    assert len(chosen) == count
    detector, shown = Detector.load(model, engine="torch"), 0
    for path in chosen:
        found = ask(with_client, "return await client.detect(blobOf(given));", list(path.read_bytes()))
        expected = detector.predict(path, threshold=0.05)
        assert (found["height"], found["width"]) == expected.image_size
        require_same(found["detections"], expected, (found["width"], found["height"]))
        shown += len(expected)
    assert shown > 2 * count


@pytest.mark.slow
def test_with_two_headers_it_computes_in_threads(page, installed, model):
    picture = noise()
    with handed_out(installed, isolated=True) as address:
        bare(page, address)
        engine = ask(page, "return (await client.model()).engine;")
        assert ("threads" in engine) == has_cores(page)
        found = ask(page, "return (await client.detect(blobOf(given), 0)).detections", png(picture))
    require_same(found, Detector.load(model).predict(picture, threshold=0.0), picture.size)


# A worker that never answers, so no runtime is loaded.
ASLEEP = "if (localStorage.asleep) globalThis.Worker = class { postMessage() {} };"
# The page's files are kept, and the service worker answers for the page.
IS_KEPT = "() => navigator.serviceWorker.controller !== null"


def kept_by_worker(page) -> None:
    """Waits until the page has begun, and its files are kept."""
    page.wait_for_selector("header")
    page.wait_for_function(IS_KEPT)


def has_cores(page) -> bool:
    return page.evaluate("navigator.hardwareConcurrency") > 1


def has_threads(page) -> bool:
    """What the page says of itself."""
    page.get_by_role("button", name="About").click()
    return "threads" in page.inner_text("dialog[open]")


def test_it_works_offline_and_takes_a_new_export(page, installed, model, tmp_path):
    copy = linked(installed, tmp_path)
    page.add_init_script(ASLEEP)
    with handed_out(copy) as address:
        bare(page, address)
        page.evaluate("localStorage.asleep = true")
        page.goto(address)
        page.wait_for_function(IS_KEPT)
        port = int(address.rstrip("/").rpartition(":")[2])
    page.evaluate("localStorage.clear()")
    page.goto(f"{address}index.html")  # nobody answers at this address now
    picture = {"name": "noise.png", "mimeType": "image/png", "buffer": bytes(png(noise()))}
    page.locator("input[type=file]").first.set_input_files([picture])
    page.wait_for_selector(".listing li")
    assert page.locator(".listing li").count() == len(Detector.load(model).predict(noise()))
    assert has_threads(page) == has_cores(page)  # since the service worker sends the two headers
    page.evaluate("localStorage.asleep = true")
    change(copy / "index.html", "<html ", '<html data-export="new" ')
    change(copy / "exported-files.js", '"version": "', '"version": "new-')
    with handed_out(copy, port=port):
        page.goto(f"{address}index.html")
        page.wait_for_selector("html[data-export=new]")  # it starts anew by itself
        kept = page.evaluate("caches.keys()")
    assert len(kept) == 1
    assert "new-" in kept[0]


@pytest.mark.slow
def test_threads_do_not_depend_on_the_first_server_of_an_address(page, installed):
    with handed_out(installed) as address:
        page.goto(address)
        kept_by_worker(page)
        assert not page.evaluate("crossOriginIsolated")
        port = int(address.rstrip("/").rpartition(":")[2])
    with handed_out(installed, isolated=True, port=port):
        page.reload()
        page.wait_for_selector("header")
        assert page.evaluate("crossOriginIsolated")
    with handed_out(installed, port=port):  # the worker sends the headers, whatever the server does
        page.reload()
        page.wait_for_selector("header")
        assert page.evaluate("crossOriginIsolated")
        assert has_threads(page) == has_cores(page)


@pytest.mark.slow
def test_the_page_leaves_an_address_that_is_anothers_by_now(page, installed, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "index.html").write_text("<h1>Another project</h1>")
    with handed_out(installed) as address:
        page.goto(address)
        kept_by_worker(page)
        port = int(address.rstrip("/").rpartition(":")[2])
    with handed_out(other, port=port):
        page.reload()
        page.wait_for_selector("text=Another project")
        assert page.evaluate("caches.keys()") == []
        page.reload()
        page.wait_for_selector("text=Another project")
        assert page.evaluate("navigator.serviceWorker.controller") is None
        assert page.evaluate("navigator.serviceWorker.getRegistrations()") == []


def test_without_the_runtime_the_page_says_what_to_install(page, folder, tmp_path):
    copy = linked(folder, tmp_path)
    (copy / "node_modules").unlink(missing_ok=True)
    with handed_out(copy) as address:
        page.goto(address)
        page.wait_for_selector("text=run npm install in this folder")


def test_an_engine_that_answers_otherwise_is_not_used(page, installed, tmp_path):
    copy = linked(installed, tmp_path)
    sample = json.loads((copy / "sample.json").read_text())
    for answer in sample["answers"]:
        answer["score"] -= 0.1
    (copy / "sample.json").unlink()
    (copy / "sample.json").write_text(json.dumps(sample))
    with handed_out(copy) as address:
        page.goto(address)
        page.wait_for_selector("text=This browser's answers differ from the model's")


# In place of WebGPU: WASM under its name, fast because it answers the sample from memory.
GRAPHICS_CARD = """
Object.defineProperty(navigator, "gpu", { value: { requestAdapter: async () => ({}) } });
"""
WEBGPU = """
import * as wasm from "./ort.wasm.min.mjs";
const known = new Map();
export const { env, Tensor } = wasm;
export const InferenceSession = {
  async create(file) {
    const session = await wasm.InferenceSession.create(file, { executionProviders: ["wasm"] });
    return {
      async run(feeds, names) {
        const of = String(feeds.images.data.subarray(0, 20)); // of a picture
        if (known.size && !known.has(of)) LATER;
        if (!known.has(of)) known.set(of, await session.run(feeds, names));
        const { logits, boxes_cxcywh } = known.get(of);
        return { logits: { ...logits, data: logits.data.map((value) => value + OFF) }, boxes_cxcywh };
      },
    };
  },
};
"""


@pytest.mark.parametrize(
    ("off", "later", "used", "lost"),
    [
        pytest.param(0, "void 0", True, False, id="agrees"),
        pytest.param(2, "void 0", False, False, id="answers otherwise"),
        pytest.param(0, "throw new Error('device lost')", True, True, id="fails later", marks=pytest.mark.slow),
    ],
)
def test_webgpu_detects_only_while_it_answers_as_wasm_does(page, installed, model, tmp_path, off, later, used, lost):
    """With something in its place; no graphics card is here."""
    copy = linked(installed, tmp_path)
    (copy / "node_modules").unlink()
    dist = copy / "node_modules" / "onnxruntime-web" / "dist"
    dist.mkdir(parents=True)
    for path in (PACKAGES / "onnxruntime-web" / "dist").iterdir():
        (dist / path.name).symlink_to(path)
    (dist / "ort.webgpu.min.mjs").unlink()
    (dist / "ort.webgpu.min.mjs").write_text(WEBGPU.replace("LATER", later).replace("OFF", f"{off}"))
    with handed_out(copy) as address:
        worker = GRAPHICS_CARD + (copy / "clients" / "worker.js").read_text()
        page.route("**/clients/worker.js", lambda route: route.fulfill(body=worker, content_type="text/javascript"))
        bare(page, address)
        picture = noise()
        trial = ask(
            page,
            """await client.model();
            await client.detect(blobOf(given), 0);
            for (let wait = 0; client.engine().trial === undefined && wait < 2000; wait++) {
              await new Promise((done) => setTimeout(done, 50));
            }
            return client.engine().trial;""",
            png(picture),
        )
        assert trial["isUsed"] is used, trial
        assert trial["agreement"]["holds"] is used
        found = ask(page, "return (await client.detect(blobOf(given), 0)).detections", png(picture))
        require_same(found, Detector.load(model).predict(picture, threshold=0.0), picture.size)
        assert ask(page, "return client.engine().isLost") is lost
        assert ("WebGPU" in ask(page, "return client.engine().name")) is (used and not lost)
        assert "WASM, 1 thread" in ask(page, "return (await client.model()).engine")
        assert not page.evaluate("crossOriginIsolated")  # which needs the two headers


def test_opened_as_a_file_the_page_says_what_to_run(page, folder):
    page.goto((folder / "index.html").as_uri())
    page.wait_for_selector("text=python -m http.server")
    page.wait_for_function("() => getComputedStyle(document.querySelector('#starting')).opacity === '1'")
