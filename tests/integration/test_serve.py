"""`opendetr serve` as users start it: the page's server and the process that computes, on this machine."""

import asyncio
import io
import json
import os
import signal
import subprocess
from pathlib import Path

import httpx
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load

from opendetr import Detector, UserError, api
from opendetr.serving.answers import ExplainedPictures, Matching, ModelFacts
from opendetr.serving.process import Compute, WrongInputError
from opendetr.serving.settings import ModelSettings
from opendetr.serving.work import WORK, ServingWorker
from serve_program import PROGRAM, started
from served import images, picture


@pytest.fixture(scope="module")
def server(tiny_run):
    with started(tiny_run, "--max-megapixels", "1") as (process, address):
        yield process, address


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server[1], timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def digit_pictures(digits) -> list[bytes]:
    return [path.read_bytes() for path in sorted((digits / "images").glob("val_*.png"))]


def test_the_server_finds_what_predict_finds(client, tiny_run, digit_pictures):
    expected = Detector.load(tiny_run).predict(digit_pictures, threshold=0.01)
    answer = client.post("/v1/detect", params={"threshold": 0.01}, **images(*digit_pictures))
    assert answer.status_code == 200
    for found, wanted in zip(answer.json()["pictures"], expected, strict=True):
        assert (found["height"], found["width"]) == wanted.image_size
        assert [one["name"] for one in found["detections"]] == wanted.names
        boxes = torch.tensor([one["box_xyxy"] for one in found["detections"]])
        # The batches differ, so sums are ordered otherwise: float32 over some hundred terms, in pixels.
        torch.testing.assert_close(boxes, wanted.boxes_xyxy, atol=1e-2, rtol=0)
        scores = torch.tensor([one["score"] for one in found["detections"]])
        torch.testing.assert_close(scores, wanted.scores, atol=1e-4, rtol=0)
        assert all({"query", "label", "category_id"} <= one.keys() for one in found["detections"])


def test_without_a_threshold_the_models_own_is_taken(client, tiny_run, digit_pictures):
    expected = Detector.load(tiny_run).predict(digit_pictures[0])
    answer = client.post("/v1/detect", **images(digit_pictures[0])).json()
    assert len(answer["pictures"][0]["detections"]) == len(expected)


def test_the_model_is_described(client, tiny_run):
    model, facts = client.get("/v1/model").json(), api.info(tiny_run)
    assert [one["name"] for one in model["classes"]] == facts["classes"]
    assert model["parameters"] == facts["parameters"]
    assert (model["engine"], model["precision"], model["certificate"], model["can_look"]) == (
        "torch",
        "fp32",
        None,
        True,
    )
    assert len(model["thresholds"]) == len(model["classes"])
    assert ModelFacts.model_validate(model).model_dump().keys() == model.keys()  # all are described, and no more


def test_a_look_is_the_models_own(client, digit_pictures):
    model = client.get("/v1/model").json()
    answer = client.post("/v1/look", **images(digit_pictures[0]))
    assert answer.status_code == 200
    tensors = load(answer.content)
    queries, layers = model["num_queries"], model["decoder_layers"]
    assert tensors["boxes_cxcywh"].shape == (layers, queries, 4)
    found = client.post("/v1/detect", params={"threshold": 0}, **images(digit_pictures[0])).json()["pictures"][0]
    one = found["detections"][0]
    cx, cy, w, h = (tensors["boxes_cxcywh"][-1, one["query"]] * found["width"]).tolist()  # the pictures are square
    assert one["box_xyxy"] == pytest.approx([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], abs=1e-2)


def test_explain_gives_maps_over_the_picture(client, digit_pictures):
    answer = client.post("/v1/explain", data={"points": "10,10 30,40", "threshold": "0"}, **images(digit_pictures[0]))
    (found,) = answer.json()["pictures"]
    rows, columns = len(found["points"][0]["reads"]), len(found["points"][0]["reads"][0])
    assert [point["point"] for point in found["points"]] == [[10, 10], [30, 40]]
    assert ExplainedPictures.model_validate(answer.json()).model_dump() == answer.json()
    assert sum(map(sum, found["points"][0]["reads"])) == pytest.approx(1, abs=1e-4)  # a row of the attention
    for one in found["detections"]:
        assert (len(one["attention"]), len(one["rollout"][0])) == (rows, columns)
    outside = client.post("/v1/explain", data={"points": "1000,10"}, **images(digit_pictures[0]))
    assert (outside.status_code, "lies outside a.png" in outside.json()["error"]) == (422, True)
    layer = client.post("/v1/explain", data={"layer": "9"}, **images(digit_pictures[0]))
    assert (layer.status_code, layer.json()["error"].startswith("layer 9: this model's layers count")) == (422, True)


def test_match_says_what_became_of_every_object(client, digit_pictures):
    truth = [{"name": "3", "box_xyxy": [2, 2, 30, 40]}, {"category_id": 5, "box_xyxy": [40, 40, 70, 80]}]
    answer = client.post(
        "/v1/match", data={"truth": json.dumps(truth), "threshold": "0.2"}, **images(digit_pictures[0])
    )
    found = answer.json()
    assert Matching.model_validate(found).model_dump() == found
    assert [one["name"] for one in found["objects"]] == ["3", "5"]
    assert found["objects"][0]["box_xyxy"] == pytest.approx([2, 2, 30, 40], abs=1e-3)
    one = found["objects"][0]["taken_by"]
    assert one["cost"] == pytest.approx(one["class_cost"] + one["l1_cost"] + one["giou_cost"])
    assert all(one["found_by"] is not None or one["reason"] for one in found["objects"])
    unknown = client.post(
        "/v1/match", data={"truth": '[{"name": "cat", "box_xyxy": [1, 1, 2, 2]}]'}, **images(digit_pictures[0])
    )
    assert (unknown.status_code, "the model has no class 'cat'" in unknown.json()["error"]) == (422, True)
    empty = client.post("/v1/match", data={"truth": "[]"}, **images(digit_pictures[0]))
    assert (empty.status_code, empty.json()["objects"]) == (200, [])


@pytest.mark.parametrize(
    ("box", "status"),
    [([0, 0, 1e39, 1e39], 422), ([-1e6, -1e6, 1e6, 1e6], 200), ([0, 0, 1e-42, 1e-42], 200), ([1 - 1e-9, 5, 1, 6], 200)],
)
def test_no_true_box_is_too_large_or_too_small_to_be_matched(client, digit_pictures, box, status):
    data = {"truth": json.dumps([{"label": 3, "box_xyxy": box}])}
    answer = client.post("/v1/match", data=data, **images(digit_pictures[0]))
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"", 422, "it is empty"),
        (b"no picture", 422, "it is of no known kind"),
        (picture("JPEG", (300, 200))[:400], 422, "cannot be read as a picture"),
        (b"%PDF-1.4 ...", 422, "it is of no known kind"),
        (b"/etc/passwd", 422, "it is of no known kind"),
        (picture("PNG", (1001, 1000)), 413, "has too many pixels; this server takes 1 megapixels at most"),
        (picture("PNG", (30000, 30000))[:2000], 413, "has too many pixels"),
    ],
)  # fmt: skip
def test_bad_pictures_are_sentences(client, content, status, said):
    answer = client.post("/v1/detect", **images(content, name="../a.png"))
    assert (answer.status_code, said in answer.json()["error"]) == (status, True), answer.text
    assert "Traceback" not in answer.text


def test_no_answer_tells_where_the_model_lies(client, tiny_run, digits, digit_pictures):
    config, one = tiny_run / "config.toml", images(digit_pictures[0])
    answers = [client.get(f"/v1/{path}") for path in ("model", "data", "run", "run/log", "data/none/pictures")]
    answers += [client.get(path) for path in ("/readyz", "/health", "/metrics", "/openapi.json")]
    answers += [client.post(f"/v1/{path}", **one) for path in ("detect", "explain", "look", "match")]
    answers.append(client.post("/v1/look", params={"checkpoint": str(tiny_run)}, **one))
    answers.append(client.post("/v1/detect", **images(b"x", name=str(config))))
    for answer in answers:
        for folder in {tiny_run.parent, digits.parent, tiny_run.resolve().parent}:
            assert str(folder).encode() not in answer.content, answer.url


def test_odd_pictures_are_answered(client):
    sizes = [(1, 1), (1, 4000), (4000, 1), (1000, 1000)]
    answer = client.post("/v1/detect", **images(*(picture("PNG", size) for size in sizes)))
    assert [(one["width"], one["height"]) for one in answer.json()["pictures"]] == sizes
    for mode, kind in (("L", "PNG"), ("1", "PNG"), ("P", "GIF"), ("RGBA", "PNG"), ("CMYK", "JPEG"), ("I;16", "TIFF")):
        buffer = io.BytesIO()
        Image.new(mode, (30, 20)).save(buffer, kind)
        assert client.post("/v1/detect", **images(buffer.getvalue())).status_code == 200, mode


def test_the_web_process_has_no_torch(server):
    process, _ = server
    if not Path(f"/proc/{process.pid}/maps").exists():
        pytest.skip("what a process has loaded is read from /proc, which is not here")
    child = psutil.Process(process.pid).children()[0]
    assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
    assert "libtorch" in Path(f"/proc/{child.pid}/maps").read_text()


@pytest.mark.skipif(os.name != "posix", reason="SIGTERM is of POSIX")
def test_sigterm_answers_what_was_taken_and_ends_both_processes(tiny_run, digit_pictures):
    with started(tiny_run) as (process, address):
        child = psutil.Process(process.pid).children()[0]

        async def many():
            async with httpx.AsyncClient(base_url=address, timeout=60) as client:
                jobs = [asyncio.create_task(client.post("/v1/detect", **images(*digit_pictures))) for _ in range(8)]
                while "opendetr_waiting 0.0" in (await client.get("/metrics")).text:
                    pass  # until some are taken
                process.send_signal(signal.SIGTERM)
                process.send_signal(signal.SIGTERM)  # a second one changes nothing
                return await asyncio.gather(*jobs, return_exceptions=True)

        answers = asyncio.run(many())
        taken = [one for one in answers if not isinstance(one, httpx.ConnectError)]  # the others were never taken
        assert taken
        assert {one.status_code for one in taken} == {200}
        assert process.wait(30) == 0
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGINT is of POSIX")
def test_ctrl_c_ends_with_its_code(tiny_run):
    with started(tiny_run) as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_a_missing_model_and_a_port_in_use_are_sentences(tiny_run, tmp_path, server):
    for model, port, said in (
        (tmp_path / "nothing", "0", "nothing does not exist"),
        (tiny_run, server[1].rpartition(":")[2], "cannot be used (Address already in use)"),
    ):
        ended = subprocess.run([*PROGRAM, str(model), "--port", port], capture_output=True, text=True)
        assert ended.returncode == 2
        assert said in ended.stderr
        assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": 2}, "--threshold must be between 0 and 1"),
        ({"max_pictures": 0}, "--max-pictures 0: expected more than 0"),
        ({"deadline": float("nan")}, "--deadline nan: expected more than 0"),
        ({"deadline": float("inf")}, "--deadline inf: expected more than 0, and a finite number"),
        ({"max_megabytes": float("inf")}, "--max-megabytes inf: expected more than 0, and a finite number"),
        ({"max_megapixels": float("inf")}, "--max-megapixels inf: expected more than 0, and a finite number"),
        ({"max_waiting": 15}, "--max-waiting 15 is less than --max-pictures 16"),
        ({"max_megabytes": 513}, "--max-megabytes 513: expected 512 at most"),
        ({"public_name": "https://detr.example"}, "--public-name https://detr.example: expected the name of a machine"),
        ({"port": 70000}, "--port 70000: expected 0 to 65535"),
        ({"label_studio": "http://localhost:8080"}, "belong together: give both"),
        ({"label_studio": "localhost", "label_studio_token_file": "token"}, "expected the address of a server"),
        (
            {"label_studio": "http://localhost/a", "label_studio_token_file": "token"},
            "expected the address of a server",
        ),
        ({"label_studio": "http://localhost", "label_studio_token_file": "missing"}, "--label-studio-token-file"),
        ({"api_key_file": "missing"}, "--api-key-file missing cannot be read (No such file or directory)"),
        ({"api_key_file": "short"}, "expected one line of 16 letters or more"),
    ],
)
def test_options_are_checked_before_anything_is_loaded(options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "short").write_text("secret\n")
    with pytest.raises(UserError) as error:
        api.serve("runs/none", **options)
    assert said in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.slow
def test_an_exported_file_detects_and_says_why_it_shows_no_attention(tiny_run, tmp_path, digit_pictures):
    path = tmp_path / "tiny.onnx"
    api.export(tiny_run, path)
    worker = ServingWorker(ModelSettings(str(path), threads=1))
    facts = worker.facts()
    assert (facts["engine"], facts["can_look"], facts["parameters"]) == ("onnxruntime", False, None)
    assert facts["certificate"] == api.info(path)["certificate"]
    ready = WORK["detect"].prepare(worker, digit_pictures[0], "a.png", 0.01)
    (found,) = WORK["detect"].run(worker, [ready])
    wanted = Detector.load(tiny_run).predict(digit_pictures[0], threshold=0.01)
    assert [one["name"] for one in found["detections"]] == wanted.names
    with pytest.raises(UserError, match=r"tiny\.onnx is an exported file, which shows no attention"):
        WORK["look"].run(worker, digit_pictures[0], "a.png", None)


@pytest.mark.slow
def test_kill_9_of_the_process_that_computes(tiny_run, digit_pictures):
    """The same as in tests/unit, with a model: it is loaded again."""

    async def run():
        compute = Compute(ModelSettings(str(tiny_run), threads=1))
        await compute.start()
        try:
            os.kill(compute.process_id, signal.SIGKILL)
            async with asyncio.timeout(60):
                while compute.is_ready:
                    await asyncio.sleep(0.005)
                while not compute.is_ready:
                    await asyncio.sleep(0.01)
            arguments = {"picture": digit_pictures[0], "name": "a.png", "threshold": 0.01}
            assert (await compute.call("detect", arguments))["width"]
            with pytest.raises(WrongInputError, match=r"a\.png cannot be read"):
                await compute.call("detect", arguments | {"picture": b"x"})
        finally:
            await compute.stop()

    asyncio.run(run())
