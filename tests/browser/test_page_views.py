"""The views of the page in a real browser, on a real server with a small model."""

import json
import re
from pathlib import Path

import pytest
import torch
from axe import require_axe, violations
from patience import PATIENCE
from PIL import Image
from tab import WIDE, watched

from opendetr.boxes import box_iou
from opendetr.explanation.look import look
from serve_program import started

NAMES = ("star", "square", "<img src=x onerror=alert(1)>")  # of the model's classes
NARROW = {"width": 360, "height": 740}
CLOSE = 1e-5  # of attention, which Python and the page sum in another order


@pytest.fixture
def page(served, tab):
    """The page, just opened."""
    tab.goto(served)
    tab.wait_for_selector("nav")
    return tab


def choose(page, *paths) -> None:
    page.locator("input[type=file]").first.set_input_files([str(path) for path in paths])


def opened(page, tiny):
    """The page with the picture and its detections."""
    choose(page, tiny.picture)
    seen(page)
    return page


def seen(page) -> None:
    """Waits for detections, and for the picture to be as large as it will be."""
    page.wait_for_selector(".listing li")
    page.wait_for_function("() => document.querySelector('.stage canvas').clientWidth > 200")


def rows(page, list_name="Detections"):
    return page.get_by_role("listbox", name=list_name).get_by_role("option")


def scale_title(page) -> str:
    page.wait_for_selector(".scale:not(.off)")
    return page.inner_text(".scale-title")


def point(page, x, y):
    """The place on the page of a point in fractions of the shown picture."""
    box = page.locator(".stage canvas").first.bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def at_box(page, tiny, number=0):
    x1, y1, x2, y2 = tiny.detector.predict(tiny.picture).clipped()[number].box_xyxy
    return point(page, (x1 + x2) / 320, (y1 + y2) / 240)


def set_slider(page, label, value):
    page.get_by_role("slider", name=label).evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", str(value)
    )


def coco_of(picture: Path, objects, file_name=None, categories=("square", "star")) -> dict:
    """A COCO file of one picture; objects are pairs of a class and a box xyxy."""
    return {
        "images": [{"id": 7, "file_name": file_name or picture.name, "width": 160, "height": 120}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(categories)],
        "annotations": [
            {"id": n, "image_id": 7, "category_id": categories.index(name), "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for n, (name, (x1, y1, x2, y2)) in enumerate(objects)
        ],
    }


def file_of(name: str, text: str) -> dict:
    return {"name": name, "mimeType": "", "buffer": text.encode()}


def test_what_the_model_finds_stands_in_the_list_as_python_finds_it(page, tiny):
    opened(page, tiny)
    expected = [f"{one.name}\n{one.score:.2f}" for one in tiny.detector.predict(tiny.picture)]
    assert len(expected) == 4
    assert rows(page).all_inner_texts() == expected
    assert page.evaluate("document.querySelectorAll('main img, main script').length") == 0  # names are text


def test_from_opening_to_the_first_map_it_takes_three_actions(page, tiny):
    choose(page, tiny.picture)  # the second; the first was to open the page
    seen(page)
    page.mouse.move(*at_box(page, tiny))  # the third
    assert "last decoder layer" in scale_title(page)


@pytest.mark.slow
def test_the_page_of_the_program_detects(tab, tiny):
    """As users start it; in the other tests the model computes in this process."""
    with started(tiny.folder, "--engine", "torch") as (_, address):
        tab.goto(address)
        opened(tab, tiny)
        assert rows(tab).count() == len(tiny.detector.predict(tiny.picture))


def test_thresholds_and_classes_choose_what_is_shown(page, tiny):
    opened(page, tiny)
    set_slider(page, "Score threshold", 0.05)
    every = tiny.detector.predict(tiny.picture, threshold=0.05)
    assert rows(page).count() == len(every) > 4
    page.get_by_role("group", name="Classes").get_by_label("square").uncheck()
    assert rows(page).count() == sum(one.name != "square" for one in every)
    page.get_by_role("button", name="Use the model's thresholds").click()
    assert rows(page).count() == sum(one.name != "square" for one in tiny.detector.predict(tiny.picture))


def test_the_result_is_copied_and_downloaded_as_json(page, tiny):
    opened(page, tiny)
    page.get_by_role("button", name="Copy JSON").click()
    page.wait_for_function("() => document.querySelector('#notice').textContent === 'Copied.'")
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    with page.expect_download() as download:
        page.get_by_role("button", name="Download JSON").click()
    assert download.value.suggested_filename == "noise.json"
    assert json.loads(Path(download.value.path()).read_text()) == copied
    found = tiny.detector.predict(tiny.picture)
    assert (copied["picture"], copied["width"], copied["height"]) == ("noise.png", 160, 120)
    assert [one["name"] for one in copied["detections"]] == found.names
    for one, expected in zip(copied["detections"], found):
        assert one["box_xyxy"] == pytest.approx(expected.box_xyxy, abs=1e-3)


def test_the_keyboard_alone_reaches_everything(page, tiny):
    opened(page, tiny)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('role')") == "listbox":
            break
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    second = page.evaluate(
        "document.getElementById(document.activeElement.getAttribute('aria-activedescendant')).innerText"
    )
    assert second == rows(page).nth(1).inner_text()
    query = f"Query {look_at(tiny).explained(0.0, 12).queries[1]} "
    assert scale_title(page).startswith(query)
    page.keyboard.press("Enter")
    assert rows(page).nth(1).get_attribute("aria-selected") == "true"
    page.keyboard.press("Escape")
    assert rows(page).nth(1).get_attribute("aria-selected") == "false"
    page.keyboard.press("Enter")  # nothing is walked to
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # Look inside
    page.wait_for_selector(".mosaic >> visible=true")
    assert page.evaluate("document.activeElement.id") == "view"


def look_at(tiny):
    return look(tiny.detector, Image.open(tiny.picture).convert("RGB"))


def heat(page):
    """The values of the map that is shown, from the page's own numbers: the top of its scale, in per cent."""
    page.wait_for_selector(".scale:not(.off)")
    return float(re.search(r"([\d.e-]+) %", page.inner_text(".scale"))[1])


def as_said(value: float) -> float:
    """A share as the scale says it: two digits of its per cents."""
    return float(f"{100 * value:.2g}")


def test_layers_heads_and_the_prior_show_what_python_computes(page, tiny):
    opened(page, tiny)
    rows(page).first.click()
    page.get_by_role("button", name="Look inside").click()
    inside = look_at(tiny)
    query = inside.explained(0.0, 12).queries[0]
    maps = inside.cross_maps([query])[:, :, 0]  # [L, heads, h, w]
    last = len(maps) - 1
    assert heat(page) == as_said(float(maps[last].mean(0).max()))
    set_slider(page, "Head", 2)
    assert heat(page) == as_said(float(maps[last, 1].max()))
    set_slider(page, "Layer", 1)
    assert heat(page) == as_said(float(maps[0, 1].max()))
    assert "decoder layer 1, head 2 of" in page.inner_text(".sentence")
    page.get_by_label("With the focus prior").uncheck()
    attention = inside.captured.decoder_cross[0]
    with torch.no_grad():
        asked, keys = attention.attention.project(attention.query, attention.key)
        content = (asked[0, 1, query] * asked.shape[-1] ** -0.5 @ keys[0, 1].T).softmax(-1)
    assert heat(page) == as_said(float(content.max()))
    page.get_by_role("radio", name="Rollout").check()
    assert heat(page) == as_said(float(inside.rollout_maps([query]).max()))
    page.get_by_label("Query number").fill("3")
    page.get_by_label("Query number").press("Enter")
    assert heat(page) == as_said(float(inside.rollout_maps([3]).max()))


def test_the_boxes_of_all_layers_stand_in_the_table(page, tiny):
    opened(page, tiny)
    rows(page).first.click()
    page.get_by_role("button", name="Look inside").click()
    inside = look_at(tiny)
    query = inside.explained(0.0, 12).queries[0]
    table = page.locator("section", has_text="Through the decoder").locator("tbody tr")
    page.wait_for_selector("tbody tr")
    assert table.count() == 1 + len(inside.output.logits)  # the start and every layer
    scores, labels = inside.scores(0).max(-1)
    cells = table.nth(1).locator("td").all_inner_texts()
    assert cells[:2] == [tiny.detector.description.label_map.names[labels[query]], f"{float(scores[query]):.2f}"]
    assert table.last.locator("td").last.inner_text() == "1.00"


def test_a_click_shows_what_a_pixel_sees_and_who_reads_it(page, tiny):
    opened(page, tiny)
    page.get_by_role("link", name="Inside").click()
    page.get_by_role("radio", name="Pixel sees").check()
    page.wait_for_function("() => document.querySelector('.sentence').textContent.startsWith('Click a pixel')")
    page.mouse.click(*point(page, 50 / 160, 70 / 120))
    inside = look_at(tiny)
    assert heat(page) == as_said(float(inside.encoder_maps([(50, 70)])[-1].mean(0).max()))
    page.get_by_role("radio", name="Who reads it").check()
    assert heat(page) == as_said(float(inside.encoder_readers([(50, 70)])[-1].mean(0).max()))
    page.get_by_label("x", exact=True).fill("150")
    page.get_by_label("x", exact=True).press("Enter")
    assert heat(page) == as_said(float(inside.encoder_readers([(150, 70)])[-1].mean(0).max()))


@pytest.mark.slow
def test_the_slot_of_a_query_remembers_the_last_20_pictures(page, tiny):
    for _ in range(22):
        with page.expect_response("**/v1/detect*"):
            choose(page, tiny.picture)
        page.wait_for_function("() => document.querySelector('#notice').textContent.includes('found')")
    page.get_by_role("link", name="Inside").click()
    page.wait_for_selector(".slot >> visible=true")
    assert "(20), query" in page.inner_text("section:has(.slot)")


@pytest.fixture
def labelled(tiny, tmp_path):
    """A COCO file of the picture: an object that is found, and one where nothing is near."""
    found = tiny.detector.predict(tiny.picture)
    cut = found.clipped()
    shares = box_iou(found.boxes_xyxy, cut.boxes_xyxy)  # of boxes that reach beyond the picture
    first = cut[int(shares.argmax())]
    objects = [(first.name, first.box_xyxy), ("square", (1, 1, 5, 5))]
    (tmp_path / "labels.json").write_text(json.dumps(coco_of(tiny.picture, objects, categories=NAMES)))
    return tmp_path / "labels.json"


def test_labels_beside_the_picture_are_matched(page, tiny, labelled):
    choose(page, tiny.picture, labelled)
    page.wait_for_selector("table")
    assert page.url.endswith("#matching")
    assert page.inner_text(".sentence").startswith("Objects: 2; found: 1; missed: 1;")
    notes = rows(page, "Objects").all_inner_texts()
    assert "found by query" in notes[0]
    assert "No query near it" in notes[1]
    assert "no query near it: the nearest, query" in page.inner_text("main")  # the missed one is shown first
    cells = page.locator("tbody tr").first.locator("td").all_inner_texts()
    class_cost, l1_cost, giou_cost, cost = map(float, cells[:4])
    assert cost == pytest.approx(class_cost + l1_cost + giou_cost, abs=0.015 + 1e-9)  # three were rounded to 0.01
    page.get_by_role("listbox", name="Objects").focus()
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    assert "found by query" in page.inner_text("main section:has(table)")
    page.locator("header select").select_option("zh")
    page.get_by_text(re.compile("附近没有查询：最近的查询 .* 与它的 IoU 为 0")).wait_for()
    page.locator("header select").select_option("en")
    set_slider(page, "Score threshold", 0.95)
    page.wait_for_function("() => document.querySelector('.sentence').textContent.includes('found: 0')")
    page.get_by_role("button", name="What query").click()
    page.wait_for_selector(".mosaic >> visible=true")


def test_false_alarms_are_walked_by_keys_where_a_missed_object_is_chosen(page, tiny):
    labels = json.dumps(coco_of(tiny.picture, [("square", (x, 1, x + 4, 5)) for x in (1, 21, 41)]))
    page.locator("input[type=file]").first.set_input_files([
        {"name": "noise.png", "mimeType": "image/png", "buffer": tiny.picture.read_bytes()}, file_of("a.json", labels),
    ])  # fmt: skip
    page.wait_for_selector("table")
    assert rows(page, "Objects").first.get_attribute("aria-selected") == "true"
    alarms = page.get_by_role("listbox", name="False alarms")
    alarms.focus()
    for number in range(3):
        page.keyboard.press("ArrowDown")
        at = rows(page, "False alarms").nth(number)
        assert alarms.get_attribute("aria-activedescendant") == at.get_attribute("id")
    page.keyboard.press("Enter")
    assert rows(page, "False alarms").nth(2).get_attribute("aria-selected") == "true"
    assert rows(page, "Objects").first.get_attribute("aria-selected") == "false"


GOOD = [("square", (10, 10, 60, 60))]
WRONG_LABELS = {
    "no JSON": ("labels.json", "{", "cannot be read as JSON"),
    "not COCO": ("labels.json", '{"a": 1}', "is no COCO file"),
    "another picture": ("labels.json", lambda p: json.dumps(coco_of(p, GOOD, "a.png") | TWO), "is called noise.png"),
    "another size": ("labels.json", lambda p: json.dumps(coco_of(p, GOOD)).replace("160", "320"), "320 × 120 pixels"),
    "no box": ("labels.json", lambda p: json.dumps(coco_of(p, GOOD)).replace("50]", '"x"]'), "is not a box"),
    "other classes": ("labels.json", lambda p: json.dumps(coco_of(p, GOOD)).replace("square", "dog"), "know: dog"),
    "a broken line": ("noise.txt", "1 0.5 0.5 0.1 0.1\n1 0.5 <b>half</b>", "noise.txt, line 2"),
    "no such class": ("noise.txt", "7 0.5 0.5 0.1 0.1", "has the class 7, but there are 3"),
    "no XML": ("noise.xml", "<annotation>", "cannot be read as XML"),
    "another XML": ("noise.xml", "<svg onload='alert(1)'/>", "expected <annotation>, got <svg>"),
    "names alone": ("classes.txt", "square", "names of classes only"),
}
TWO = {"images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}]}


def test_what_is_wrong_with_labels_is_said_in_one_sentence(page, tiny, wrong):
    opened(page, tiny)
    for name, text, sentence in WRONG_LABELS.values():
        content = text(tiny.picture) if callable(text) else text
        page.locator("input[type=file]").first.set_input_files([file_of(name, content)])
        page.wait_for_function("text => document.querySelector('#alarm').textContent.includes(text)", arg=sentence)
        assert page.inner_text("#alarm").count("\n") == 0
        assert page.url.endswith(("/", "#detect"))
    # What Chromium's parser says of broken XML is a document with a style, which the page's policy keeps off.
    assert all("inline style" in message for message in wrong)
    wrong.clear()


def test_yolo_and_voc_files_are_read(page, tiny):
    opened(page, tiny)
    voc = (
        "<annotation><size><width>160</width><height>120</height></size><object><name>star</name><bndbox><xmin>8</xmin>"
        "<ymin>6</ymin><xmax>80</xmax><ymax>60</ymax></bndbox></object><object><name>star</name><difficult>1</difficult>"
        "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
    )
    polygon = "0 0.05 0.05 0.5 0.05 0.5 0.5 0.05 0.5\n1 0.9 0.9 0.4 0.4\n"
    for files, names in (
        ([file_of("noise.txt", "0 0.275 0.275 0.45 0.45\n")], ["1. star"]),
        ([file_of("noise.txt", polygon), file_of("classes.txt", "square\nstar\n")], ["1. square", "2. star"]),
        ([file_of("noise.xml", voc)], ["1. star"]),
    ):
        page.locator("input[type=file]").first.set_input_files(files)
        page.wait_for_function(
            "names => [...document.querySelectorAll('.listing')[0]?.querySelectorAll('.text') ?? []].map((one) => "
            "one.textContent).join() === names", arg=",".join(names),
        )  # fmt: skip


def test_a_broken_picture_is_said_and_the_page_goes_on(page, tiny):
    broken = {"name": "<b>broken</b>\u202e.png", "mimeType": "image/png", "buffer": b"not a picture"}
    page.locator("input[type=file]").first.set_input_files([broken])
    page.wait_for_function("() => document.querySelector('#alarm').textContent.includes('is not a picture')")
    assert page.inner_text("#alarm").startswith("<b>broken</b>\\u202e.png is not a picture")  # as text, nothing hidden
    page.locator("input[type=file]").first.set_input_files([file_of("notes.pdf", "x")])
    page.wait_for_function(
        "() => document.querySelector('#alarm').textContent.includes('neither a picture nor labels')"
    )
    opened(page, tiny)
    assert page.inner_text("#alarm") == ""


def test_a_server_that_is_gone_and_comes_back(page, tiny):
    page.route("**/v1/detect*", lambda route: route.abort())
    page.route("**/healthz", lambda route: route.abort())
    choose(page, tiny.picture)
    page.wait_for_function("() => document.querySelector('#alarm').textContent.includes('does not answer')")
    page.unroute("**/v1/detect*")
    page.unroute("**/healthz")
    page.wait_for_selector(".listing li")  # asked again by itself
    assert page.inner_text("#alarm") == ""


def test_a_full_queue_is_tried_again(page, tiny):
    answers = [429, 503]

    def busy(route):
        if answers:
            route.fulfill(status=answers.pop(0), json={"error": "full"}, headers={"Retry-After": "0.01"})
        else:
            route.continue_()

    page.route("**/v1/detect*", busy)
    opened(page, tiny)
    assert answers == []


REFUSALS = {
    429: "queue stayed full", 503: "did not start again", 504: "did not finish in time",
    413: "larger than the server takes", 415: "cannot read this picture", 422: "422: <b>no</b>",
}  # fmt: skip


def test_every_refusal_is_one_clear_sentence(page, tiny):
    refusal = {"json": {"error": "<b>no</b>"}, "headers": {"Retry-After": "0.01"}}
    page.route("**/v1/detect*", lambda route: route.fulfill(**refusal))
    for status, sentence in REFUSALS.items():
        refusal["status"] = status
        choose(page, tiny.picture)
        page.wait_for_function("text => document.querySelector('#alarm').textContent.includes(text)", arg=sentence)
        assert page.locator("#alarm b").count() == 0


def test_a_key_is_asked_for(page, tiny):
    def guarded(route):
        right = route.request.headers.get("authorization") == "Bearer open sesame"
        route.continue_() if right else route.fulfill(status=401, json={"error": "no key"})

    page.route("**/v1/detect*", guarded)
    choose(page, tiny.picture)
    page.get_by_label("This server asks for its API key:").fill("open sesame")
    page.get_by_role("button", name="Use it").click()
    page.wait_for_selector(".listing li")


def test_a_model_that_cannot_be_looked_into_says_so(page, tiny):
    facts = json.loads(page.evaluate("fetch('v1/model').then((answer) => answer.text())"))
    # as the server describes an exported file
    unknown = ("parameters", "num_queries", "encoder_layers", "decoder_layers", "heads", "focus", "costs", "strides")
    facts |= {"can_look": False, "query_source": None} | dict.fromkeys(unknown)
    page.route("**/v1/model", lambda route: route.fulfill(json=facts))
    page.route("**/v1/look", lambda route: pytest.fail("there is nothing to look at"))
    page.reload()
    opened(page, tiny)
    page.mouse.move(*at_box(page, tiny))
    rows(page).first.click()
    assert "without attention maps" in page.inner_text("main")
    page.get_by_role("button", name="About").click()
    assert "torch, fp32" in page.inner_text("dialog[open]")
    page.keyboard.press("Escape")
    for view in ("Inside", "Matching"):
        page.get_by_role("link", name=view).click()
        page.wait_for_function("() => document.querySelector('main').textContent.includes('without attention maps')")


def test_dropped_and_pasted_pictures_are_taken(page, tiny):
    send = """([type, bytes]) => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(bytes)], "sent.png", { type: "image/png" }));
      const event = type === "drop" ? new DragEvent(type, { dataTransfer: data, cancelable: true, bubbles: true })
        : new ClipboardEvent(type, { clipboardData: data, bubbles: true });
      document.body.dispatchEvent(event);
    }"""
    for kind in ("drop", "paste"):
        page.evaluate(send, [kind, list(tiny.picture.read_bytes())])
        page.wait_for_selector(".listing li")
        assert rows(page).count() == 4
        page.reload()


def test_the_camera_is_detected_in_live_and_its_frame_can_be_kept(page):
    page.get_by_role("button", name="Live camera").click()
    page.wait_for_function("() => /p95.*last [2-9]/.test(document.querySelector('main').textContent)")
    page.get_by_role("button", name="Keep this frame").click()
    page.wait_for_function("() => document.querySelector('#notice').textContent.includes('camera.jpg')")
    assert page.get_by_role("button", name="Live camera").is_visible()


FAKE_CAMERA = """() => {
  const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  globalThis.streams = [];
  navigator.mediaDevices.getUserMedia = async (wanted) => {
    globalThis.asked = (globalThis.asked ?? 0) + 1;
    const stream = await real(wanted);
    await (globalThis.gate ?? Promise.resolve());
    streams.push(stream);
    return stream;
  };
}"""
CAMERA_IS_OFF = "() => streams.length === 1 && streams[0].getTracks().every(({ readyState }) => readyState === 'ended')"


def test_a_picture_ends_the_live_camera_and_keeps_its_own_answer(page, tiny):
    page.evaluate(FAKE_CAMERA)
    page.get_by_role("button", name="Live camera").click()
    page.wait_for_function("() => /p95.*last [2-9]/.test(document.querySelector('main').textContent)")
    choose(page, tiny.picture)
    page.wait_for_function("() => document.querySelector('#notice').textContent.startsWith('noise.png: 4')")
    page.wait_for_function(CAMERA_IS_OFF)
    assert page.get_by_role("button", name="Live camera").get_attribute("aria-pressed") == "false"
    assert rows(page).count() == 4
    assert page.get_by_role("button", name="Copy JSON").is_enabled()


@pytest.mark.slow
def test_a_camera_that_starts_late_is_asked_once_and_ended_where_nobody_waits(page):
    page.evaluate(FAKE_CAMERA)
    page.evaluate("() => { globalThis.gate = new Promise((resolve) => { globalThis.open_gate = resolve; }); }")
    live = page.get_by_role("button", name="Live camera")
    live.click()
    live.evaluate("(button) => button.click()")  # Playwright waits for buttons that are marked as disabled
    assert page.evaluate("asked") == 1
    page.get_by_role("link", name="Inside").click()
    page.evaluate("open_gate()")
    page.wait_for_function(CAMERA_IS_OFF)


@pytest.mark.slow
def test_the_boxes_of_classes_stay_while_frames_come(page):
    page.get_by_role("button", name="Live camera").click()
    page.wait_for_function("() => / 1 frames/.test(document.querySelector('main').textContent)")
    page.evaluate("globalThis.box = document.querySelector('.classes input')")
    page.wait_for_function("() => /last [3-9] frames/.test(document.querySelector('main').textContent)")
    assert page.evaluate("box.isConnected")


SLOW = """() => {
  const real = createImageBitmap;
  globalThis.createImageBitmap = async (blob, ...rest) => {
    const made = await real(blob, ...rest);
    if (made.width === 320) await new Promise((resolve) => { globalThis.open_gate = resolve; });
    return made;
  };
}"""


def test_a_picture_that_is_decoded_late_does_not_replace_a_later_one(page, tiny, tmp_path):
    Image.open(tiny.picture).resize((320, 240)).save(tmp_path / "large.png")
    page.evaluate(SLOW)
    choose(page, tmp_path / "large.png", file_path(tmp_path, "large.json", coco_of(tmp_path / "large.png", GOOD)))
    page.wait_for_function("() => globalThis.open_gate")
    opened(page, tiny)
    page.evaluate("open_gate()")
    page.wait_for_function("() => document.querySelector('#notice').textContent === 'noise.png: 4 found.'")
    assert rows(page).count() == 4
    page.get_by_role("link", name="Matching").click()
    page.wait_for_selector("text=Labels of this picture")  # those of the other picture went nowhere


def test_labels_of_an_unreadable_picture_go_to_no_other(page, tiny):
    opened(page, tiny)
    broken = {"name": "broken.png", "mimeType": "image/png", "buffer": b"not a picture"}
    labels = file_of("a.json", json.dumps(coco_of(tiny.picture, GOOD)))
    page.locator("input[type=file]").first.set_input_files([broken, labels])
    page.wait_for_function("() => document.querySelector('#alarm').textContent.startsWith('broken.png is not')")
    page.get_by_role("link", name="Matching").click()
    page.wait_for_selector("text=Labels of this picture")


def file_path(folder: Path, name: str, content: dict) -> Path:
    (folder / name).write_text(json.dumps(content))
    return folder / name


def test_a_request_that_fails_while_the_server_answers_ends_with_a_sentence(page, tiny):
    page.route("**/v1/detect*", lambda route: route.abort())
    choose(page, tiny.picture)
    page.wait_for_function("() => document.querySelector('#alarm').textContent.includes('could not send')")


def test_a_working_message_stays_until_the_answer_comes(chromium, served, tiny, wrong):
    # A page of its own, since a clock that was installed stays.
    with chromium.new_page(locale="en-US") as page, watched(page, wrong):
        page.set_default_timeout(PATIENCE)
        page.clock.install()
        page.goto(served)
        page.wait_for_selector("nav")
        held = []
        page.route("**/v1/detect*", lambda route: held.append(route))
        choose(page, tiny.picture)
        page.wait_for_selector("main[aria-busy=true]")
        page.clock.run_for(60_000)
        assert page.inner_text("#notice").startswith("Detecting in noise.png")
        while not held:
            page.wait_for_timeout(10)
        held[0].continue_()
        page.wait_for_selector("main[aria-busy=false]")
        page.clock.run_for(60_000)
        assert page.inner_text("#notice") == ""
    assert not wrong


def test_a_copy_that_the_browser_has_no_place_for_is_said(page, tiny):
    opened(page, tiny)
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined, configurable: true })")
    page.get_by_role("button", name="Copy JSON").click()
    page.wait_for_function("() => document.querySelector('#alarm').textContent.includes('did not allow copying')")


def test_chinese_is_the_language_of_a_chinese_browser_and_can_be_changed(chromium, served):
    context = chromium.new_context(locale="zh-CN")
    page = context.new_page()
    page.goto(served)
    page.wait_for_selector("nav")
    assert page.get_by_role("link", name="检测").is_visible()
    assert page.evaluate("document.documentElement.lang") == "zh"
    page.locator("header select").select_option("en")
    assert page.get_by_role("link", name="Detect").is_visible()
    page.reload()
    page.get_by_role("link", name="Detect").wait_for()  # kept
    context.close()


@pytest.mark.parametrize(
    "looks",
    [
        pytest.param([(WIDE, "light"), (NARROW, "dark")], id="each once"),
        pytest.param([(WIDE, "dark"), (NARROW, "light")], id="the other way round", marks=pytest.mark.slow),
    ],
)
def test_every_view_is_accessible_and_fits(page, tiny, labelled, looks):
    """axe-core finds nothing, and nothing is wider than the window: wide and narrow, light and dark."""
    require_axe()

    def check(what):
        for size, theme in looks:  # what follows is done in the last, the narrow one
            page.set_viewport_size(size)
            page.emulate_media(color_scheme=theme)
            assert violations(page) == [], f"{what}, {size}, {theme}"
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{what}, {size}"

    check("empty")
    for view in ("Inside", "Matching"):
        page.get_by_role("link", name=view).click()
        check(f"empty {view}")
    page.get_by_role("link", name="Detect").click()
    opened(page, tiny)
    rows(page).first.click()
    check("detect")
    page.get_by_role("button", name="Look inside").click()
    page.wait_for_selector(".mosaic >> visible=true")
    check("inside")
    page.get_by_role("radio", name="Pixel sees").check()
    check("pixel")
    page.get_by_role("link", name="Matching").click()
    check("no labels")
    choose(page, labelled)
    page.wait_for_selector("table")
    check("matching")
    page.get_by_role("button", name="About").click()
    check("about")


def test_the_switch_changes_the_theme_and_it_is_kept(page):
    def ground():
        return page.evaluate("getComputedStyle(document.documentElement).backgroundColor")

    page.emulate_media(color_scheme="light")
    light = ground()
    page.get_by_role("button", name="Dark").click()
    assert ground() != light
    page.reload()
    page.wait_for_selector("nav")
    assert ground() != light
    page.get_by_role("button", name="Light").click()
    assert ground() == light


def test_the_page_is_small():
    """Bar 3: below 300 kB without model and runtime."""
    import opendetr.serving

    web = Path(opendetr.serving.__file__).parent / "web"
    assert sum(path.stat().st_size for path in web.rglob("*") if path.is_file()) < 300_000
