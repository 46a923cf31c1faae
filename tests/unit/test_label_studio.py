"""The routes of Label Studio's backend, with a small server in its place."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from opendetr.errors import UserError
from opendetr.serving import label_studio
from opendetr.serving.label_studio import PictureStore, labelling_of, region_of
from opendetr.serving.refusal import Refusal
from opendetr.serving.settings import LabelStudio, Limits
from served import FOUND, Standing, ask, picture, settings

CONFIG = """<View><!-- cells --><Image name="photo" value="$image"/>
<RectangleLabels name="box" toName="photo"><Label value="RBC"/><Label value="other" predicted_values="WBC, Platelets"/>
</RectangleLabels></View>"""


@pytest.fixture
def studio():
    """A server whose paths say what it does; it keeps what it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Authorization")))
            if self.path == "/data/picture.png":
                self.answer(200, picture())
            elif self.path == "/data/large":
                self.answer(200, b"x" * 5000)
            elif self.path.startswith("/to?"):
                self.send_response(302)
                self.send_header("Location", self.path.removeprefix("/to?"))
                self.end_headers()
            else:
                self.answer(404, b"")

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, body))
            self.answer(200, json.dumps({"access": "short"}).encode())

        def answer(self, status, content):
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = asked
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def origin(server):
    return f"http://127.0.0.1:{server.server_port}"


def store(server, token="legacy", most_bytes=4000):
    return PictureStore(LabelStudio(origin(server), token), most_bytes)


def test_a_picture_is_fetched_with_the_token(studio):
    for address in ("/data/picture.png", "data/picture.png", f"{origin(studio)}/data/picture.png"):
        assert store(studio).fetch(address) == ("picture.png", picture())
    assert studio.asked == [("/data/picture.png", "Token legacy")] * 3


def test_a_personal_token_buys_a_short_one_once(studio):
    one = store(studio, "a.b.c")
    for _ in range(2):
        one.fetch("/data/picture.png")
    assert studio.asked == [
        ("/api/token/refresh", {"refresh": "a.b.c"}),
        ("/data/picture.png", "Bearer short"),
        ("/data/picture.png", "Bearer short"),
    ]


@pytest.mark.parametrize(
    "address",
    [
        "http://evil.example/data/picture.png", "https://127.0.0.1:{port}/data/picture.png", "//evil.example/a.png",
        "http://127.0.0.1/data/picture.png", "http://127.0.0.1:{port}@evil.example/a.png",
        "http://user@127.0.0.1:{port}/data/picture.png", "http://localhost:{port}/data/picture.png",
        "file:///etc/passwd", "data:image/png;base64,AAAA", "s3://bucket/a.png", "ftp://127.0.0.1:{port}/a", "http://[",
        "http://127.0.0.1:99999/a.png",
    ],
)  # fmt: skip
def test_nothing_is_fetched_from_elsewhere(studio, address):
    with pytest.raises(UserError, match="from which alone pictures are fetched"):
        store(studio).fetch(address.format(port=studio.server_port))
    assert studio.asked == []


@pytest.mark.parametrize("target", ["http://evil.example/a.png", "file:///etc/passwd", "//evil.example/a.png"])
def test_redirects_elsewhere_are_refused(studio, target):
    with pytest.raises(UserError, match=r"cannot be fetched from Label Studio|Label Studio answers 302"):
        store(studio).fetch(f"/to?{target}")
    assert len(studio.asked) == 1


def test_a_redirect_at_home_is_followed_and_a_circle_is_not(studio):
    assert store(studio).fetch("/to?/data/picture.png").content == picture()
    studio.asked.clear()
    with pytest.raises(UserError):
        store(studio).fetch("/to?/to?/to?/to?/to?/to?/data/picture.png")
    assert len(studio.asked) <= 5


def test_limits_and_errors_are_sentences(studio, monkeypatch):
    with pytest.raises(UserError, match=r"large cannot be fetched from Label Studio \(it has more than"):
        store(studio).fetch("/data/large")
    with pytest.raises(UserError, match="nothing: Label Studio answers 404"):
        store(studio).fetch("/nothing")
    monkeypatch.setattr(label_studio, "ALL_SECONDS", -1.0)
    with pytest.raises(UserError, match="it is not here in time"):
        store(studio).fetch("/data/picture.png")


def test_labels_are_classes_by_name_or_by_predicted_values():
    found = labelling_of(CONFIG, ["RBC", "WBC", "Platelets", "unknown"])
    assert found == ("box", "photo", "image", {"RBC": "RBC", "WBC": "other", "Platelets": "other"})


@pytest.mark.parametrize(
    "config",
    [
        None, "", "<View", "<View/>", '<View><RectangleLabels name="a" toName="b"/></View>', "<a>" * 100_000,
        '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><View>&e;</View>',
        '<View><Image name="b" value="$i"/><PolygonLabels name="a" toName="b"/></View>',
    ],
)  # fmt: skip
def test_another_interface_is_refused(config):
    with pytest.raises(Refusal, match="expected a labelling interface with RectangleLabels on an Image"):
        labelling_of(config, ["RBC"])


@pytest.mark.parametrize(
    ("box", "region"),
    [
        ((4, 2, 20, 12), (10, 10, 40, 50)),
        ((-4, -2, 44, 22), (0, 0, 100, 100)),
        ((50, 2, 60, 12), None),
        ((4, 25, 20, 30), None),
    ],
)
def test_boxes_are_in_per_cent_and_cut_off_at_the_edges(box, region):
    assert region_of(box, 40, 20) == (None if region is None else pytest.approx(region))


def predict(studio, tasks, **options):
    asked_of = settings(labels=None if studio is None else LabelStudio(origin(studio), "legacy"))
    content = {"tasks": tasks, "label_config": CONFIG, "project": "1.1"}
    return ask("POST", "/predict", asked_of=asked_of, json=content, **options)


def test_predict_answers_a_result_per_task(studio):
    compute = Standing()
    tasks = [{"id": 1, "data": {"image": "/data/picture.png"}}, {"id": 2, "data": {"image": "/nothing.png"}}]
    answer = predict(studio, tasks, compute=compute)
    assert answer.status_code == 200
    first, second = answer.json()["results"]
    assert compute.asked == [("detect", {"picture": picture(), "name": "picture.png", "threshold": None})]
    (region,) = first["result"]
    assert (region["from_name"], region["to_name"], region["type"]) == ("box", "photo", "rectanglelabels")
    assert (region["original_width"], region["original_height"]) == (40, 20)
    assert region["value"].pop("rectanglelabels") == ["RBC"]
    assert region["value"] == pytest.approx({"x": 10, "y": 10, "width": 40, "height": 50, "rotation": 0})
    assert (first["score"], first["model_version"]) == (0.9, "cells 01234567")
    assert (second["result"], second["score"]) == ([], 0.0)


def test_detections_of_classes_that_the_project_lacks_are_left_out(studio):
    found = FOUND | {"detections": [FOUND["detections"][0] | {"name": "N/A"}]}
    answer = predict(studio, [{"data": {"image": "/data/picture.png"}}], compute=Standing(lambda *_: found))
    assert answer.json()["results"][0]["result"] == []


@pytest.mark.parametrize(
    ("tasks", "status", "said"),
    [
        ([{"data": {"image": "http://evil.example/a.png"}}], 422, "a task's picture is not at http://127.0.0.1"),
        ([{"data": {"image": "/to?http://evil.example/a.png"}}], 422, "it leads to another server"),
        ([{"data": {"image": 3}}], 422, "a task has no picture under 'image'"),
        ([{"data": {}}], 422, "a task has no picture under 'image'"),
        ([{}], 422, "a task has no picture under 'image'"),
        ("x", 422, "tasks: expected a list"),
        ([1], 422, "tasks: expected a list"),
        ([{}] * 1001, 413, "tasks: expected 1000 at most, got 1001"),
    ],
)
def test_tasks_that_cannot_be_done_are_refused(studio, tasks, status, said):
    answer = predict(studio, tasks)
    assert (answer.status_code, said in answer.json()["error"]) == (status, True), answer.text


def test_a_label_studio_that_is_down_is_said(studio):
    studio.shutdown()
    studio.server_close()
    answer = predict(studio, [{"data": {"image": "/data/picture.png"}}])
    assert answer.status_code == 502
    assert "picture.png cannot be fetched: Label Studio at http://127.0.0.1" in answer.json()["error"]
    assert "does not answer (" in answer.json()["error"]


def test_one_deadline_counts_for_all_tasks(studio):
    asked_of = settings(Limits(deadline=0.0), labels=LabelStudio(origin(studio), "legacy"))
    content = {"tasks": [{"data": {"image": "/data/picture.png"}}] * 9, "label_config": CONFIG}
    assert ask("POST", "/predict", asked_of=asked_of, json=content).status_code == 504


def test_fetched_pictures_count_as_held(studio):
    asked_of = settings(Limits(bytes_at_once=2000), labels=LabelStudio(origin(studio), "legacy"))
    large = Standing()
    content = {"tasks": [{"data": {"image": "/data/large"}}], "label_config": CONFIG}
    answer = ask("POST", "/predict", asked_of=asked_of, json=content, compute=large)
    assert (answer.status_code, large.asked) == (429, [])


def test_bodies_and_interfaces_have_limits_of_their_own():
    answer = ask("POST", "/webhook", content=b"{}" + b" " * label_studio.MOST_JSON)
    assert (answer.status_code, answer.json()["error"]) == (
        413, "the request is too large; this server takes 2 MB at most",
    )  # fmt: skip
    answer = ask("POST", "/setup", json={"schema": CONFIG + " " * label_studio.MOST_INTERFACE})
    assert (answer.status_code, "of 100 kB at most" in answer.json()["error"]) == (422, True)


def test_without_a_label_studio_nothing_is_fetched():
    answer = predict(None, [{"data": {"image": "http://127.0.0.1/a.png"}}])
    assert (answer.status_code, "start it with --label-studio URL" in answer.json()["error"]) == (422, True)


@pytest.mark.parametrize("path", ["/setup", "/predict", "/webhook"])
@pytest.mark.parametrize(
    ("content", "status"),
    [(b"{", 400), (b"[]", 422), (b"\xff", 400), (b"[" * 100_000, 400), (b"{}" + b" " * 5000, 413)],
)
def test_bodies_are_json_objects_within_the_limit(path, content, status):
    asked_of = settings(Limits(body_bytes=200_000 if content[:1] == b"[" else 4000))
    assert ask("POST", path, asked_of=asked_of, content=content).status_code == status


def test_setup_tells_the_version_and_refuses_another_interface():
    assert ask("POST", "/setup", json={"schema": CONFIG}).json() == {"model_version": "cells 01234567"}
    assert ask("POST", "/setup", json={"schema": "<View/>"}).status_code == 422
    assert ask("POST", "/webhook", json={"action": "ANNOTATION_CREATED"}).json() == {}
    assert ask("GET", "/health").json()["status"] == "UP"


def test_the_origin_is_compared_as_a_whole(studio):
    assert urlsplit(origin(studio)).port == studio.server_port
    assert label_studio.origin_of("HTTP://LocalHost/a") == ("http", "localhost", 80)
    assert label_studio.origin_of("https://localhost/a") == ("https", "localhost", 443)
