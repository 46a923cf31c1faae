"""The web application: what it refuses, and what it hands on to the process that computes."""

import asyncio
import base64
import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from opendetr.serving import app as application
from opendetr.serving.app import create_app
from opendetr.serving.process import ComputeGone, Late, QueueFull, WorkFailed, WrongInputError
from opendetr.serving.server import _bound, grace_of, reachable
from opendetr.serving.settings import Limits
from served import FOUND, Standing, ask, images, picture, settings

KEY = "a-key-of-sixteen-letters"


def sentence(answer):
    assert list(answer.json()) == ["error"], answer.text
    return answer.json()["error"]


def test_detect_hands_pictures_on_and_answers_in_their_order():
    compute = Standing(lambda name, given: FOUND | {"width": len(given["picture"])})
    small, large = picture(), picture(size=(300, 200))
    answer = ask("POST", "/v1/detect?threshold=0.25", compute=compute, **images(small, large))
    assert answer.status_code == 200
    assert [one["width"] for one in answer.json()["pictures"]] == [len(small), len(large)]
    assert compute.asked == [
        ("detect", {"picture": content, "name": "a.png", "threshold": 0.25}) for content in (small, large)
    ]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "../../etc/passwd"),
        ("<script>alert(1)</script>.png", "<script>alert(1)</script>.png"),
        ("a\x1b[2J‮.png", r"a\x1b[2J\u202e.png"),
    ],
)
def test_a_hostile_file_name_is_a_text_and_opens_no_file(name, shown):
    def refuse(work, given):
        raise WrongInputError("UserError", f"{given['name']} cannot be read as a picture")

    head = f'--b\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'.encode()
    answer = ask(
        "POST", "/v1/detect", compute=Standing(refuse), content=head + b"x\r\n--b--\r\n",
        headers={"content-type": "multipart/form-data; boundary=b"},
    )  # fmt: skip
    assert (answer.status_code, sentence(answer)) == (422, f"{shown} cannot be read as a picture")


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ({"content": b"x"}, 415, "expected multipart/form-data with the field 'images'"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "the body is no multipart"),
        ({"files": [("other", ("a.png", b"x"))]}, 422, "the field 'other' is not known here; expected images"),
        ({"files": [("images", (None, b"/etc/passwd"))]}, 422, "the field 'images' must be a file"),
        ({"files": [("images", (None, b"http://x/a.png"))]}, 422, "the field 'images' must be a file"),
        (images(*[b"x"] * 3), 413, "too many pictures; expected 2 at most in a request"),
        (images(*[b"x"] * 9), 413, "too many pictures; expected 2 at most in a request"),
        (images(b"x" * 3000), 413, "the request is too large; this server takes 0.00195312 MB at most"),
        (images(b"x" * 9000), 413, "the request is too large"),
    ],
)
def test_bodies_beyond_the_limits_and_of_other_kinds_are_refused(options, status, said):
    compute = Standing()
    limits = Limits(body_bytes=2048, pictures=2)
    answer = ask("POST", "/v1/detect", compute=compute, asked_of=settings(limits), **options)
    assert (answer.status_code, sentence(answer).startswith(said)) == (status, True), answer.text
    assert compute.asked == []


def test_a_body_without_a_length_is_counted_while_it_arrives():
    async def endless():
        while True:
            yield b"x" * 1000

    answer = ask(
        "POST", "/v1/detect", asked_of=settings(Limits(body_bytes=2048)), content=endless(),
        headers={"content-type": "multipart/form-data; boundary=b"},
    )  # fmt: skip
    assert answer.status_code in (400, 413)


def test_all_requests_together_hold_no_more_than_the_limit():
    app = create_app(settings(Limits(bytes_at_once=100)), Standing())

    async def both():
        app.state.gate.held = 90
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            full = await client.post("/v1/detect", **images(b"x" * 50))
            app.state.gate.held = 0
            return full, app.state.gate.held

    answer, held = asyncio.run(both())
    assert (answer.status_code, answer.headers["retry-after"], held) == (429, "1", 0)


def test_what_was_held_is_given_back_after_every_answer():
    app = create_app(settings(), Standing())

    async def several():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            for content in (picture(), b"x" * 1000):
                await client.post("/v1/detect", **images(content))
                await client.post("/v1/detect", content=content)
        return app.state.gate.held

    assert asyncio.run(several()) == 0


def test_a_body_that_does_not_arrive_in_time_is_answered():
    async def slow():
        yield b"--b\r\n"
        await asyncio.Event().wait()

    answer = ask(
        "POST", "/v1/detect", asked_of=settings(Limits(reading=0.01)), content=slow(),
        headers={"content-type": "multipart/form-data; boundary=b"},
    )  # fmt: skip
    assert (answer.status_code, sentence(answer)) == (408, "the request did not arrive within 0.01 seconds")


@pytest.mark.parametrize(
    ("error", "status", "again"),
    [
        (QueueFull(), 429, "1"),
        (Late(), 504, None),
        (ComputeGone(), 503, "5"),
        (WorkFailed("KeyError: 'x'"), 500, None),
        (WrongInputError("UserError", "a.png cannot be read"), 422, None),
        (WrongInputError("TooLargeError", "a.png has too many pixels"), 413, None),
    ],
)
def test_what_goes_wrong_in_the_other_process_has_its_status(error, status, again):
    def fail(name, given):
        raise error

    answer = ask("POST", "/v1/detect", compute=Standing(fail), **images(picture()))
    assert (answer.status_code, answer.headers.get("retry-after")) == (status, again)
    assert sentence(answer)


@pytest.mark.parametrize("threshold", ["2", "-0.1", "nan", "high"])
@pytest.mark.parametrize("route", ["/v1/detect", "/v1/match", "/v1/explain"])
def test_a_threshold_is_between_0_and_1(route, threshold):
    data = {"threshold": threshold, "truth": "[]"} if route == "/v1/match" else {"threshold": threshold}
    in_query = route == "/v1/detect"
    answer = ask(
        "POST", f"{route}?threshold={threshold}" if in_query else route, data=None if in_query else data,
        **images(picture()),
    )  # fmt: skip
    assert (answer.status_code, "threshold: " in sentence(answer)) == (422, True)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"points": "1,2 3"}, "points: expected x,y in pixels, got '3'"),
        ({"points": "nan,1"}, "points: expected x,y in pixels, got 'nan,1'"),
        ({"points": " ".join(["1,1"] * 17)}, "points: expected 16 at most, got 17"),
        ({"layer": "-1"}, "layer: expected a whole number, got '-1'"),
        ({"head": "1e3"}, "head: expected a whole number, got '1e3'"),
        ({"at_most": "0"}, "at_most: expected 1 to 100"),
    ],
)
def test_fields_of_explain_are_checked(fields, said):
    answer = ask("POST", "/v1/explain", data=fields, **images(picture()))
    assert (answer.status_code, sentence(answer)) == (422, said)


def test_explain_gets_its_fields_as_numbers():
    compute = Standing()
    ask("POST", "/v1/explain", compute=compute, data={"points": "1,2 3.5,4", "layer": "2"}, **images(picture()))
    ((name, given),) = compute.asked
    assert (name, given["points"], given["layer"], given["head"], given["at_most"], given["threshold"]) == (
        "explain", [(1.0, 2.0), (3.5, 4.0)], 2, 0, 12, None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("truth", "said"),
    [
        (None, "the field 'truth' is missing"),
        ("{", "truth: this is no JSON"),
        ("[" * 100_000, "truth: this is no JSON"),
        ("{}", "truth: input should be a valid list"),
        ('[{"box_xyxy": [1, 2, 3, 4]}]', "truth: 0: a true object needs one of label, name and category_id"),
        ('[{"label": 0, "box_xyxy": [3, 2, 1, 4]}]', "truth: 0: a box needs x1 < x2 and y1 < y2"),
        ('[{"label": 0, "box_xyxy": [1, 2, 3]}]', "truth: 0.box_xyxy: list should have at least 4 items"),
        ('[{"label": 0, "box_xyxy": [NaN, 2, 3, 4]}]', "truth: 0.box_xyxy.0: input should be a finite number"),
        (
            '[{"label": 0, "box_xyxy": [0, 0, 1e39, 1e39]}]',
            "truth: 0.box_xyxy.2: input should be less than or equal to",
        ),
        ('[{"label": 0, "box_xyxy": [-1e7, 0, 1, 1]}]', "truth: 0.box_xyxy.0: input should be greater than or equal"),
        ('[{"label": 0, "box_xyxy": [1, 2, 3, 4], "path": "x"}]', "truth: 0.path: extra inputs are not permitted"),
        (json.dumps([{"label": 0, "box_xyxy": [1, 2, 3, 4]}] * 1001), "truth: expected 1000 objects at most"),
    ],
)
def test_the_truth_of_match_is_checked(truth, said):
    data = {} if truth is None else {"truth": truth}
    answer = ask("POST", "/v1/match", data=data, **images(picture()))
    assert (answer.status_code, sentence(answer)[: len(said)]) == (422, said)


def test_match_and_look_take_one_picture():
    for route, data in (("/v1/match", {"truth": "[]"}), ("/v1/look", {})):
        answer = ask("POST", route, data=data, **images(picture(), picture()))
        assert (answer.status_code, sentence(answer)) == (413, "too many pictures; expected 1 at most in a request")


def test_look_answers_the_bytes_of_a_file():
    answer = ask("POST", "/v1/look?checkpoint=epoch-0001", compute=Standing(lambda *_: b"\x01\x02"), **images(b"x"))
    assert (answer.content, answer.headers["content-type"]) == (b"\x01\x02", "application/octet-stream")


@pytest.mark.parametrize("base", ["http://evil.example:8000", "http://127.0.0.1.evil.example", "http://[::2]"])
def test_a_page_whose_name_points_here_reads_nothing(base):
    answer = ask("GET", "/v1/model", base=base)
    assert (answer.status_code, sentence(answer)) == (
        403,
        "this server answers requests to localhost only; see --public-name and --host",
    )


@pytest.mark.parametrize("base", ["http://localhost:8000", "http://127.0.0.1", "http://[::1]:8000"])
def test_this_machine_has_several_names(base):
    assert ask("GET", "/v1/model", base=base).status_code == 200


def test_every_loopback_address_is_this_machine():
    assert ask("GET", "/v1/model", asked_of=settings(host="127.0.0.2"), base="http://evil.example").status_code == 403
    assert ask("GET", "/v1/model", asked_of=settings(host="127.0.0.2"), base="http://127.0.0.2:8000").status_code == 200


@pytest.mark.parametrize(
    "host", ["detr.example", "DETR.example:443", "127.0.0.1:8000"]
)  # as a proxy passes it on, or not
@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://detr.example", 200), ("https://detr.example:8443", 200), ("https://evil.example", 403),
        ("https://detr.example.evil.example", 403), ("null", 403), ("http://[", 403),
    ],
)  # fmt: skip
def test_behind_a_server_with_tls_its_name_is_accepted(host, origin, status):
    asked_of, headers = settings(public="detr.example"), {"host": host, "origin": origin}
    assert ask("POST", "/v1/detect", asked_of=asked_of, headers=headers, **images(picture())).status_code == status
    assert ask("GET", "/v1/model", asked_of=asked_of, headers={"host": "other.example"}).status_code == 403


@pytest.mark.parametrize(
    ("key", "has_data", "said"),
    [
        (None, True, "all machines that reach it (there is no --api-key-file) can use the model, look at the pictures"),
        (
            KEY,
            True,
            "machines that have the key can use the model, look at the pictures of the open data set and write",
        ),
        (None, False, "can use the model; what is sent is not encrypted"),
    ],
)
def test_what_other_machines_can_do_is_said(key, has_data, said):
    assert said in reachable(settings(host="0.0.0.0", key=key), has_data=has_data)


@pytest.mark.skipif(os.name != "posix", reason="on Windows asyncio accepts connections in another way")
def test_an_answer_is_sent_at_once():
    """Its body does not wait for the acknowledgement of its head, which may take 40 ms."""

    async def run() -> bool:
        waits = asyncio.get_running_loop().create_future()

        def connected(reader, writer):
            waits.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0)
            writer.close()

        bound = _bound(replace(settings(), port=0))
        async with await asyncio.start_server(connected, sock=bound):
            _, writer = await asyncio.open_connection(*bound.getsockname())
            writer.close()
            return await waits

    assert not asyncio.run(run())


def test_a_stop_waits_for_a_slow_body_and_its_answer():
    assert grace_of(Limits(reading=20, deadline=7.5)) >= 20 + 7.5 + 2


def test_a_server_for_other_machines_has_any_name():
    assert ask("GET", "/v1/model", asked_of=settings(host="0.0.0.0"), base="http://gpu.example").status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:8001"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"origin": "http://127.0.0.1:8000"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
    ],
)
def test_pages_of_other_hosts_may_not_post(headers, status):
    assert ask("POST", "/v1/detect", headers=headers, **images(picture())).status_code == status


@pytest.mark.parametrize("path", ["/v1/model", "/metrics", "/health"])
@pytest.mark.parametrize(
    ("given", "status"),
    [
        (None, 401),
        (f"Bearer {KEY}x", 401),
        (f"Bearer {KEY[:-1]}", 401),
        ("Bearer \u00e9".encode(), 401),
        (f"Token {KEY}", 401),
        ("Basic ???", 401),
        (f"Bearer {KEY}", 200),
        ("Basic " + base64.b64encode(f"any:{KEY}".encode()).decode(), 200),
    ],
)
def test_the_key_is_asked_for(path, given, status):
    headers = {} if given is None else {"authorization": given}
    answer = ask("GET", path, asked_of=settings(key=KEY), headers=headers)
    assert answer.status_code == status
    if status == 401:
        assert KEY not in answer.text
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json"])
def test_some_routes_need_no_key(path):
    assert ask("GET", path, asked_of=settings(key=KEY)).status_code == 200


def test_not_ready_is_said():
    compute = Standing()
    compute._is_ready = False
    answers = {path: ask("GET", path, compute=compute).status_code for path in ("/healthz", "/readyz", "/health")}
    assert answers == {"/healthz": 200, "/readyz": 503, "/health": 503}


@pytest.fixture
def page(tmp_path, monkeypatch) -> Path:
    """A folder of the page with a file beside it that no request may read."""
    (tmp_path / "secret.txt").write_text("secret")
    web = tmp_path / "web"
    (web / "views").mkdir(parents=True)
    (web / "index.html").write_text("<title>page</title>")
    (web / "views" / "a.js").write_text("export {};")
    (web / "link.txt").symlink_to(tmp_path / "secret.txt")
    monkeypatch.setattr(application, "WEB", web)
    return web


def test_the_page_has_its_policy(page):
    answer = ask("GET", "/")
    assert (answer.status_code, answer.text) == (200, "<title>page</title>")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "'unsafe-inline'" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert ask("GET", "/views/a.js").headers["content-type"].startswith("text/javascript")
    assert "access-control-allow-origin" not in ask("GET", "/", headers={"origin": "http://evil.example"}).headers


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/views/../../secret.txt",
        "/views/..%5c..%5csecret.txt", "//etc/passwd", "/%2fetc%2fpasswd", "/link.txt", "/views", "/a%00b",
        "/" + "a" * 5000, "/app.py",
    ],
)  # fmt: skip
def test_no_request_reads_another_file(page, path):
    async def raw():
        """As a client sends it: httpx would tidy the path."""
        sent = []
        scope = {
            "type": "http", "method": "GET", "path": httpx.URL("http://x" + path).path if "%" in path else path,
            "raw_path": path.encode(), "query_string": b"", "headers": [(b"host", b"localhost")], "scheme": "http",
            "server": ("localhost", 8000), "client": ("127.0.0.1", 1), "http_version": "1.1", "root_path": "",
        }  # fmt: skip

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            sent.append(message)

        await create_app(settings(), Standing())(scope, receive, send)
        return sent[0]["status"], b"".join(one.get("body", b"") for one in sent)

    status, body = asyncio.run(raw())
    assert status in (404, 405)
    assert b"secret" not in body.replace(b"secret.txt", b"")
    assert b"root:" not in body


def test_a_route_of_another_method_says_which(page):
    answer = ask("GET", "/v1/detect")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert ask("PUT", "/v1/detect").status_code == 405
    assert ask("GET", "/v1/nothing").status_code == 404


def test_a_client_that_goes_away_takes_its_work_along():
    ended = []

    class Waiting(Standing):
        async def call_all(self, name, arguments, **options):
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(name)

    messages = [{"type": "http.request", "body": b"".join(
        [b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n', b"x", b"\r\n--b--\r\n"]
    )}, {"type": "http.disconnect"}]  # fmt: skip
    scope = {
        "type": "http", "method": "POST", "path": "/v1/detect", "query_string": b"", "scheme": "http",
        "headers": [(b"host", b"localhost"), (b"content-type", b"multipart/form-data; boundary=b")],
        "server": ("localhost", 8000), "client": None, "http_version": "1.1", "root_path": "",
    }  # fmt: skip

    async def receive():
        return messages.pop(0)

    async def send(message):
        pass

    asyncio.run(create_app(settings(), Waiting())(scope, receive, send))
    assert ended == ["detect"]


def test_metrics_count_by_route_and_not_by_path():
    app = create_app(settings(), Standing())

    async def several():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await client.post("/v1/detect", **images(picture()))
            for number in range(3):
                await client.get(f"/nothing/{number}")
            return (await client.get("/metrics")).text

    text = asyncio.run(several())
    assert 'opendetr_requests_total{route="/v1/detect",status="200"} 1.0' in text
    assert "/nothing/" not in text
    assert "opendetr_ready 1.0" in text
    assert 'opendetr_memory_bytes{process="web"}' in text


def test_a_fault_is_an_answer_and_names_no_file():
    def fail(name, given):
        raise RuntimeError("/home/someone/secret")

    answer = ask("POST", "/v1/detect", compute=Standing(fail), **images(picture()))
    assert (answer.status_code, "/home" in answer.text) == (500, False)


def test_no_page_of_the_description_loads_from_another_host(page):
    assert ask("GET", "/docs").status_code == 404
    assert ask("GET", "/openapi.json").json()["paths"].keys() >= {"/v1/detect", "/v1/explain", "/v1/match", "/v1/look"}
