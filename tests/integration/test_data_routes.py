"""The routes of data sets, surveys, label reviews and runs, asked over HTTP."""

import io
import json
import time

import httpx
import pytest
from PIL import Image

from opendetr.data.door import load_index
from opendetr.serving.run_files import has_model, is_run, run_of
from review_server import HEIGHT, HOSTILE, LEFT, RIGHT, TRUE, WIDTH, add_lines, review_server


@pytest.fixture
def served(tmp_path):
    with review_server(tmp_path) as served:
        yield served


@pytest.fixture
def ask(served):
    with httpx.Client(base_url=served.address, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """A server, and what asks it, for tests that change nothing."""
    folder = tmp_path_factory.mktemp("served")
    with review_server(folder) as served, httpx.Client(base_url=served.address, timeout=60) as client:
        yield served, client


def surveyed(ask):
    found = ask.post("v1/data/val/survey").json()
    while found["state"] != "done":
        found = ask.get("v1/data/val/survey").json()
        time.sleep(0.01)
    return found


def reviewed(ask, **query):
    surveyed(ask)
    return ask.get("v1/review/val", params=query).json()


def test_a_data_set_is_read_by_split_and_number(untouched):
    _, ask = untouched
    assert ask.get("v1/model").json()["data"]["splits"] == [{"name": "val", "pictures": len(TRUE)}]
    listed = ask.get("v1/data/val/pictures", params={"offset": 1, "limit": 2}).json()
    assert listed["total"] == len(TRUE)
    assert [one["number"] for one in listed["pictures"]] == [1, 2]
    assert HOSTILE in listed["pictures"][0]["name"]
    one = ask.get("v1/data/val/pictures/2").json()
    assert (one["width"], one["height"], one["image_id"]) == (WIDTH, HEIGHT, 102)
    assert [(truth["label"], truth["box_xyxy"]) for truth in one["truth"]] == [
        (0, [25, 15, 55, 45]),
        (1, [20, 50, 60, 85]),
    ]
    image = Image.open(io.BytesIO(ask.get("v1/data/val/pictures/2/image").content))
    assert image.size == (WIDTH, HEIGHT)
    assert image.getpixel((0, 0)) == (2, 80, 120)
    assert ask.get("v1/data/val/pictures/2/thumbnail").headers["content-type"] == "image/jpeg"
    found = ask.get("v1/data/val/pictures/0/detections").json()["detections"]
    assert sorted((one["label"], one["box_xyxy"]) for one in found if one["score"] > 0.5) == [
        (0, pytest.approx(LEFT, abs=1e-4)), (1, pytest.approx(RIGHT, abs=1e-4))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("v1/data/val/pictures/99", 422), ("v1/data/val/pictures/-1", 422), ("v1/data/val/pictures/1.png", 422),
        ("v1/data/other/pictures/1", 404), ("v1/data/..%2F..%2Fetc/pictures/1/image", 404),
        ("v1/data/val/pictures/..%2Fval.json", 404), ("v1/data/val/pictures?sort=size", 422),
        ("v1/review/other", 404), ("v1/review/val/pictures/99", 404), ("v1/run/log?after=-1", 422),
        ("v1/data/val/pictures/1/detections?checkpoint=..%2Fbest", 422),
    ],
)  # fmt: skip
def test_what_is_not_there_is_one_sentence(untouched, path, status):
    _, ask = untouched
    answer = ask.get(path)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])


def test_the_survey_sorts_the_gallery_and_is_kept(ask, served, monkeypatch):
    found = surveyed(ask)
    assert found["missed"] == {"right box, wrong class": 1, "no query near it": 2}
    assert found["false_alarms"] == {"another class": 1, "background": 1, "badly placed": 1}
    assert found["confusions"] == [{"true": 1, "found": 0, "count": 1}]

    def numbers(sort, **query):
        return [
            one["number"] for one in ask.get("v1/data/val/pictures", params={"sort": sort, **query}).json()["pictures"]
        ]

    assert set(numbers("worst")[:4]) == {0, 1, 2, 3}
    assert set(numbers("missed")[:3]) == {1, 2, 3}
    assert set(numbers("false_alarms")[:3]) == {0, 1, 2}
    assert numbers("confusion") == numbers("confusion", true=1, found=0) == [1]
    assert numbers("confusion", true=0, found=1) == []

    def forbidden(*arguments):
        pytest.fail("a survey that was done is done again")

    with review_server(served.data.parent) as again:
        monkeypatch.setattr("opendetr.serving.data_work.output_of", forbidden)
        kept = httpx.get(f"{again.address}v1/data/val/survey").json()
    assert kept == found


def test_a_picture_that_cannot_be_read_ends_no_survey(ask, served):
    (served.data / "images" / "4.png").write_bytes(b"no picture")
    found = surveyed(ask)
    assert (found["done"], len(found["problems"])) == (len(TRUE), 1)
    assert "4.png" in found["problems"][0]


def has_names_of(example, answer):
    """Whether both have the same names; FastAPI leaves out what is None in an example."""
    return {name for name, value in answer.items() if value is not None} <= example.keys() <= answer.keys()


def test_examples_have_the_names_that_answers_have(ask):
    reviewed(ask)
    paths = ask.get("openapi.json").json()["paths"]
    for path, asked in [
        ("/v1/data", "v1/data"), ("/v1/data/{split}/pictures", "v1/data/val/pictures"),
        ("/v1/data/{split}/pictures/{number}", "v1/data/val/pictures/1"),
        ("/v1/data/{split}/pictures/{number}/detections", "v1/data/val/pictures/1/detections"),
        ("/v1/data/{split}/survey", "v1/data/val/survey"), ("/v1/review/{split}", "v1/review/val"),
        ("/v1/review/{split}/pictures/{number}", "v1/review/val/pictures/1"),
    ]:  # fmt: skip
        example = paths[path]["get"]["responses"]["200"]["content"]["application/json"]["example"]
        answer = ask.get(asked).json()
        assert has_names_of(example, answer), path
        for name in ("pictures", "truth", "detections", "queue", "objects"):
            if isinstance(answer.get(name), list):
                assert has_names_of(example[name][0], answer[name][0]), (path, name)


def test_no_answer_says_where_the_data_set_is(ask, served):
    (served.data / "images" / "4.png").write_bytes(b"no picture")
    (served.data / "images" / "6.png").unlink()
    Image.new("RGB", (WIDTH + 1, HEIGHT)).save(served.data / "images" / "5.png")
    (served.data / "annotations" / "test.json").write_text("{}")
    surveyed(ask)
    pictures = [f"v1/data/val/pictures/{number}" for number in (4, 5, 6)]
    paths = ["v1/model", "v1/data", "v1/data/val/survey", "v1/data/val/pictures", "v1/review/val", "v1/run"]
    paths += [one + rest for one in pictures for rest in ("", "/image", "/thumbnail", "/detections")]
    with review_server(served.data.parent) as again:
        answers = [ask.get(path) for path in paths] + [
            httpx.get(again.address + path) for path in ("v1/data", "v1/model")
        ]
    assert {answer.status_code for answer in answers} >= {200, 422}
    assert "4.png" in answers[paths.index("v1/data/val/pictures/4/image")].json()["error"]
    for answer in answers:
        assert str(served.data.parent).encode() not in answer.content, answer.url


def test_a_picture_is_kept_by_browsers_until_its_file_changes(ask, served):
    for kind in ("image", "thumbnail"):
        path = f"v1/data/val/pictures/0/{kind}"
        first = ask.get(path)
        assert first.headers["cache-control"] == "private, no-cache"
        again = ask.get(path, headers={"if-none-match": f'"other", W/{first.headers["etag"]}'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    Image.new("RGB", (WIDTH, HEIGHT), (9, 9, 9)).save(served.data / "images" / "0.png", compress_level=0)
    changed = ask.get(path, headers={"if-none-match": first.headers["etag"]})
    assert (changed.status_code, changed.headers["etag"] != first.headers["etag"]) == (200, True)


def test_the_queue_names_each_fault_with_what_would_mend_it(ask):
    found = reviewed(ask)
    by_picture = {one["picture"]: one for one in found["queue"]}
    assert {number: (one["fault"], one["edit"]) for number, one in by_picture.items()} == {
        0: ("missing label", "add"), 1: ("wrong class", "class"), 2: ("badly placed", "move"),
        3: ("nothing there", "delete"),
    }  # fmt: skip
    assert (by_picture[0]["annotation"], by_picture[0]["class"]) == (None, HOSTILE)
    assert by_picture[0]["bbox"] == pytest.approx([70, 20, 40, 40], abs=0.02)
    assert (by_picture[1]["given"], by_picture[1]["class"], by_picture[1]["category_id"]) == (HOSTILE, "cat", 3)
    assert len(reviewed(ask, limit=2)["queue"]) == 2


def mended(one):
    of = {} if one["annotation"] is None else {"annotation": one["annotation"]}
    values = {"edit": one["edit"], "image_id": one["image_id"], "accepted": True, **of}
    values |= {"category_id": one["category_id"]} if one["edit"] in ("add", "class") else {}
    return values | ({"bbox": one["bbox"]} if one["edit"] in ("add", "move") else {})


def test_with_all_proposals_accepted_the_labels_are_true_and_nothing_else_has_changed(ask, served):
    source = (served.data / "annotations" / "val.json").read_bytes()
    for version, one in enumerate(reviewed(ask)["queue"]):
        answer = ask.post("v1/review/val/decisions", json={"version": version, "decision": mended(one)})
        assert answer.status_code == 200, answer.text
        assert len(served.decisions()) == answer.json()["version"] == version + 1
    after = ask.get("v1/review/val").json()
    assert (after["decided"], after["total"], after["file"]) == (4, 4, "val.corrected.json")
    path = served.data / "annotations" / after["file"]
    while not path.exists() or len(json.loads(path.read_text())["annotations"]) != sum(map(len, TRUE)):
        time.sleep(0.01)  # it is written right after the last answer
    corrected = load_index(served.data, "val.corrected")
    for number, objects in enumerate(TRUE):
        record = corrected.records[number]
        found = sorted(zip(record.labels.tolist(), record.boxes_xyxy.tolist()))
        assert [label for label, _ in found] == sorted(label for label, _ in objects)
        for (_, box), (_, true) in zip(found, sorted(objects)):
            assert box == pytest.approx(true, abs=0.02)
    untouched = [one for one in json.loads(path.read_text())["annotations"] if one["image_id"] in (104, 106, 107)]
    assert untouched == [one for one in json.loads(source)["annotations"] if one["image_id"] in (104, 106, 107)]
    assert (served.data / "annotations" / "val.json").read_bytes() == source


def test_undo_and_a_second_window(ask, served):
    queue = reviewed(ask)["queue"]
    first, second = mended(queue[0]), mended(queue[1])
    assert ask.post("v1/review/val/decisions", json={"version": 0, "decision": first}).status_code == 200
    late = ask.post("v1/review/val/decisions", json={"version": 0, "decision": {**first, "accepted": False}})
    assert (late.status_code, "another window" in late.json()["error"]) == (409, True)
    assert ask.post("v1/review/val/decisions", json={"version": 0, "decision": second}).status_code == 200
    assert ask.post("v1/review/val/undo", json={"version": 1}).status_code == 409
    undone = ask.post("v1/review/val/undo", json={"version": 2}).json()
    assert undone["undone"]["image_id"] == second["image_id"]
    assert [len(one["decisions"]) for one in ask.get("v1/review/val").json()["queue"]] == [1, 0, 0, 0]
    assert [line.get("edit", "undo") for line in served.decisions()] == [first["edit"], second["edit"], "undo"]


def test_a_new_server_goes_on_with_the_decisions(ask, served, tmp_path):
    one = reviewed(ask)["queue"][0]
    ask.post("v1/review/val/decisions", json={"version": 0, "decision": mended(one)})
    (served.data / "annotations" / "val.corrected.json").unlink(missing_ok=True)  # as if killed before it was written
    with review_server(tmp_path) as again:
        state = httpx.get(f"{again.address}v1/review/val").json()
        assert not (served.data / "annotations" / "val.corrected.json").exists()  # whoever looks writes nothing
        labels = httpx.get(f"{again.address}v1/review/val/pictures/{one['picture']}").json()["objects"]
    assert (state["version"], state["live"], state["decided"]) == (1, 1, 1)
    assert [label["name"] for label in labels].count(one["class"]) == 1
    assert (served.data / "annotations" / "val.corrected.json").exists()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"no json", 400), (b"[1]", 422), (b"{}", 422), (b'{"version": 0}', 422),
        (b'{"version": -1, "decision": {}}', 422),
        (b'{"version": 0, "decision": {"edit": "class", "image_id": 101, "annotation": 2, "category_id": 9}}', 422),
        (b'{"version": 0, "decision": {"edit": "add", "image_id": 101, "category_id": 3, "bbox": [1, 1, 2]}}', 422),
        (b"[" * 100_000, 413), (b"[" * 10_000, 400),
    ],
)  # fmt: skip
def test_what_is_no_decision_changes_nothing(untouched, body, status):
    served, ask = untouched
    answer = ask.post("v1/review/val/decisions", content=body)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert served.decisions() == []


def test_review_elsewhere_where_the_labels_cannot_be_written(ask, served, tmp_path, monkeypatch):
    (tmp_path / "blocked").write_text("")
    blocked = tmp_path / "blocked" / "annotations"
    monkeypatch.setattr(
        "opendetr.data.reviewed_labels.corrected_file", lambda root, found: blocked / "val.corrected.json"
    )
    refused = ask.get("v1/review/val")
    assert refused.status_code == 409
    assert "--review DIR" in refused.json()["error"]
    with review_server(tmp_path, review=tmp_path / "elsewhere") as other, httpx.Client(base_url=other.address) as there:
        one = reviewed(there)["queue"][0]
        assert there.post("v1/review/val/decisions", json={"version": 0, "decision": mended(one)}).status_code == 200
    assert sorted(path.name for path in (tmp_path / "elsewhere").glob("val*")) == [
        "val.corrected.json",
        "val.decisions.jsonl",
    ]


def test_a_run_is_one_from_its_first_file_on_and_has_a_model_while_it_is_replaced(tmp_path):
    run = tmp_path / "run"
    (run / "last").mkdir(parents=True)
    assert not is_run(run)
    (run / "config.toml").write_text("")
    assert is_run(run)
    assert not has_model(run)
    (run / "last" / "model.safetensors").write_bytes(b"")
    assert has_model(run)
    (run / "last").rename(run / ".last.old")  # between the two renames of a replacement
    assert has_model(run)
    assert run_of(str(run / "best")) == run_of(str(run / "checkpoints" / "epoch-0002")) == run_of(str(run)) == run


def test_a_run_shows_its_checkpoints_and_its_log_as_it_grows(ask, served):
    assert [one["name"] for one in ask.get("v1/run").json()["checkpoints"]] == ["epoch-0001", "epoch-0002"]
    first = ask.get("v1/run/log").json()
    assert ([line["loss"] for line in first["lines"]], first["next"], first["reset"]) == ([9.5], 1, False)
    add_lines(served.run, [{"kind": "epoch", "epoch": 2.0, "step": 20, "seconds": 9.0, "loss": float("nan")}])
    later = ask.get("v1/run/log", params={"after": 1}).json()
    assert ([line["loss"] for line in later["lines"]], later["next"]) == ([None], 2)
    (served.run / "metrics.jsonl").write_text("")  # a run that was begun anew
    assert ask.get("v1/run/log", params={"after": 2}).json() == {"lines": [], "next": 0, "reset": True}
    picture = (served.data / "images" / "0.png").read_bytes()
    found = ask.post("v1/run/detect", params={"checkpoint": "epoch-0001"}, files={"images": picture})
    assert sorted(one["label"] for one in found.json()["detections"] if one["score"] > 0.5) == [0, 1]
    looked = ask.post("v1/look", params={"checkpoint": "epoch-0002"}, files={"images": picture})
    assert looked.status_code == 200
