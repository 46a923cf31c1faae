"""Gallery, label review and learning in a real browser: with keys alone, with the mouse, undone, reloaded, narrow."""

import json
import re
import shutil
import time

import pytest
from axe import require_axe, violations
from tab import watched

from free_port import free_port
from review_server import HOSTILE, TRUE, add_lines, review_server, write_pictures, write_run


@pytest.fixture(scope="module")
def data_and_run(tmp_path_factory):
    """The data set and the run, which each test copies."""
    folder = tmp_path_factory.mktemp("review")
    write_pictures(folder / "data")
    write_run(folder / "run")
    return folder


@pytest.fixture(scope="module")
def port():
    """One for the servers of all tests, so that the browser need not begin anew."""
    return free_port()


@pytest.fixture
def served(chromium, data_and_run, port, tmp_path):
    shutil.copytree(data_and_run, tmp_path, dirs_exist_ok=True)
    with review_server(tmp_path, port=port) as served:
        yield served


@pytest.fixture
def visit(served, tab):
    """Opens a view."""

    def open_view(view):
        tab.goto(f"{served.address}#{view}")
        return tab

    yield open_view
    tab.goto(f"{served.address}types.js")  # a page that stays would ask the next test's server


def heading(page):
    return page.locator(".bench h2").first


def wait_for_queue(page):
    page.get_by_text("0 of 4 decided").wait_for()
    page.locator("li[role=option]").first.wait_for()


def corrected(served):
    return json.loads((served.data / "annotations" / "val.corrected.json").read_text())


def wait_until(holds):
    while not holds():
        time.sleep(0.02)


def test_the_gallery_sorts_by_mistakes_and_opens_a_picture_with_its_labels(visit):
    page = visit("gallery")
    page.get_by_text("The model has seen all 8 pictures.").wait_for()
    first = page.locator(".card").first
    first.get_by_text(re.compile("missed|false alarm")).wait_for()
    wait_names = page.locator(".card .name")
    assert wait_names.count() == len(TRUE)
    page.locator(".chips button").click()
    page.get_by_text("1 of 1 pictures").wait_for()
    assert HOSTILE in page.locator(".card .name").inner_text()
    page.locator(".card").focus()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("#matching"))
    page.get_by_role("heading", name="False alarms").wait_for()
    page.locator("li[role=option]").nth(1).wait_for()  # its second object


def test_arrow_keys_walk_through_the_gallery(visit):
    page = visit("gallery")
    page.get_by_text("The model has seen all 8 pictures.").wait_for()
    page.get_by_label("Sorted by").select_option("name")
    page.locator(".card .name", has_text="0.png").first.wait_for()
    cards = page.locator(".card")
    cards.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    focused = page.evaluate("document.activeElement.querySelector('.name').textContent")
    assert focused == cards.nth(2).locator(".name").inner_text()


def test_all_faults_are_mended_with_keys_alone(visit, served):
    page = visit("review")
    wait_for_queue(page)
    for decided in range(1, 5):
        page.keyboard.press("a")
        page.get_by_text(f"{decided} of 4 decided").wait_for()
    page.get_by_role("heading", name="Nothing is suspicious here").wait_for()
    wait_until(lambda: len(served.decisions()) == 4)
    wait_until(lambda: len(corrected(served)["annotations"]) == sum(map(len, TRUE)))
    assert all(line["accepted"] for line in served.decisions())


def test_undo_and_reload_keep_what_was_decided(visit, served):
    page = visit("review")
    wait_for_queue(page)
    title = heading(page).inner_text()
    page.keyboard.press("k")
    page.get_by_text("1 of 4 decided").wait_for()
    page.keyboard.press("a")
    page.get_by_text("2 of 4 decided").wait_for()
    page.keyboard.press("Control+z")
    page.get_by_text("1 of 4 decided").wait_for()
    page.reload()
    page.get_by_text("1 of 4 decided").wait_for()
    page.keyboard.press("u")
    page.get_by_text("0 of 4 decided").wait_for()
    page.get_by_role("heading", name=title).wait_for()
    assert ["undo" in line for line in served.decisions()] == [False, False, True, True]


def test_another_window_is_told_what_was_decided(visit, served, wrong):
    one = visit("review")
    with one.context.new_page() as other, watched(other, wrong):
        other.goto(one.url)
        for page in (one, other):
            wait_for_queue(page)
        one.keyboard.press("a")
        one.get_by_text("1 of 4 decided").wait_for()
        other.keyboard.press("d" if "Missing" not in heading(other).inner_text() else "a")
        other.get_by_role("alert").get_by_text("another window").wait_for()
        other.get_by_text("1 of 4 decided").wait_for()
    assert len(served.decisions()) == 1


def choose(page, kind):
    page.get_by_label("Kind").select_option(label=kind)
    page.get_by_role("heading", name=kind).wait_for()
    page.wait_for_function("() => document.querySelector('.stage canvas').width > 300")


def test_a_box_is_moved_with_arrow_keys(visit, served):
    page = visit("review")
    wait_for_queue(page)
    choose(page, "Badly placed")
    page.get_by_role("button", name=re.compile("Move")).first.wait_for()
    page.keyboard.press("m")
    page.get_by_text("Drag the box").wait_for()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Shift+ArrowRight", "Alt+ArrowUp"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    page.get_by_text("1 of 4 decided").wait_for()
    (line,) = served.decisions()
    assert (line["edit"], line["accepted"]) == ("move", False)
    assert line["bbox"] == pytest.approx([12, 1, 31, 30], abs=0.11)  # the proposal is 10, 10, 30, 30


def test_a_box_keeps_its_size_at_the_edge_and_is_there_still_when_it_could_not_be_saved(visit, served):
    page = visit("review")
    wait_for_queue(page)
    # Long before it is needed: a request right after `route` may still reach the server.
    page.route("**/decisions", lambda route: route.fulfill(status=503, json={"error": "another program writes"}))
    choose(page, "Badly placed")
    page.keyboard.press("m")
    page.get_by_text("Drag the box").wait_for()
    for _ in range(3):
        page.keyboard.press("Alt+ArrowUp")
    page.keyboard.press("Enter")
    page.get_by_role("alert").get_by_text("another program writes").wait_for()
    page.unroute("**/decisions")
    page.keyboard.press("Enter")
    page.get_by_text("1 of 4 decided").wait_for()
    (line,) = served.decisions()
    assert line["bbox"] == pytest.approx([10, 0, 30, 30], abs=0.06)


def test_a_file_that_cannot_be_written_is_said_and_the_decision_is_kept(visit, served, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("opendetr.data.label_log.write_text", full)
    page = visit("review")
    wait_for_queue(page)
    page.keyboard.press("a")
    page.get_by_text("1 of 4 decided").wait_for()
    page.keyboard.press("a")
    page.get_by_text("2 of 4 decided").wait_for()
    page.get_by_text("No space left on device").wait_for()
    assert len(served.decisions()) == 2


def test_a_box_is_drawn_and_changed_with_the_mouse(visit, served):
    page = visit("review")
    wait_for_queue(page)
    choose(page, "Nothing there")
    canvas = page.locator(".stage canvas")
    page.get_by_role("button", name=re.compile("Close up")).click()
    page.locator(".class-row select").select_option(label="cat")
    page.keyboard.press("Escape")
    page.get_by_role("button", name=re.compile("Add a label")).click()
    page.get_by_text("Draw the new box").wait_for()
    shown = page.locator(".editing .digits")
    box = canvas.bounding_box()
    before = shown.inner_text()

    def drag(begin, end):
        page.mouse.move(box["x"] + begin[0] * box["width"], box["y"] + begin[1] * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + end[0] * box["width"], box["y"] + end[1] * box["height"], steps=3)
        page.mouse.up()

    drag((0.05, 0.05), (0.25, 0.3))
    drawn = shown.inner_text()
    assert drawn != before
    drag((0.25, 0.3), (0.3, 0.35))  # its corner
    larger = shown.inner_text()
    assert larger != drawn
    page.keyboard.press("Enter")
    page.get_by_text("1 corrections are in").wait_for()
    (line,) = served.decisions()
    assert line["edit"] == "add"
    assert line["category_id"] == 3
    assert [f"{value:.1f}" for value in line["bbox"]] == larger.split()


def test_a_class_is_chosen_with_keys(visit, served):
    page = visit("review")
    wait_for_queue(page)
    choose(page, "Wrong class")
    page.keyboard.press("c")
    page.wait_for_function("() => document.activeElement.matches('.class-row select')")
    page.keyboard.press("Enter")
    page.get_by_text("1 of 4 decided").wait_for()
    (line,) = served.decisions()
    assert (line["edit"], line["category_id"]) == ("class", 3)


def test_labels_that_cannot_be_written_are_said(visit, served, monkeypatch, tmp_path):
    (tmp_path / "blocked").write_text("")
    monkeypatch.setattr(
        "opendetr.data.reviewed_labels.corrected_file", lambda root, found: tmp_path / "blocked" / "a" / "val.json"
    )
    page = visit("review")
    page.get_by_text("--review DIR").wait_for()
    assert not page.locator(".bench").is_visible()


def test_a_picture_through_time_and_curves_while_the_run_goes_on(visit, served):
    page = visit("learning")
    page.get_by_text("epoch 2", exact=True).wait_for()
    page.locator("li[role=option]").first.wait_for()
    page.get_by_label("Model after").press("ArrowLeft")
    page.get_by_text("epoch 1", exact=True).wait_for()
    page.get_by_text("Epoch 1.00, step 10").wait_for()
    add_lines(served.run, [{"kind": "val", "epoch": 2.0, "step": 20, "seconds": 9.0, "val_AP": 0.25, "val_AP50": 0.5}])
    page.get_by_text("Epoch 2.00, step 20").wait_for()
    page.get_by_text("AP on val", exact=True).wait_for()


def test_a_new_checkpoint_enlarges_the_slider_and_leaves_a_half_typed_number(visit, served):
    page = visit("learning")
    page.get_by_text("epoch 2", exact=True).wait_for()
    page.locator("li[role=option]").first.wait_for()
    page.get_by_label("Picture number").fill("7")
    shutil.copytree(served.run / "checkpoints" / "epoch-0002", served.run / "checkpoints" / "epoch-0003")
    page.get_by_text("epoch 3", exact=True).wait_for()
    assert page.get_by_label("Picture number").input_value() == "7"
    assert page.evaluate("document.activeElement.type") == "number"


def test_a_run_without_a_model_shows_its_curves_until_it_has_one(visit, served):
    facts, served.compute.facts = served.compute.facts, {}
    page = visit("learning")
    page.get_by_text("The training has not saved a model yet.").wait_for()
    page.get_by_text("Epoch 1.00, step 10").wait_for()
    served.compute.facts = facts
    page.get_by_role("link", name="Learning").wait_for()


@pytest.mark.parametrize("themes", [("light", "dark"), pytest.param(("dark", "light"), marks=pytest.mark.slow)])
def test_the_views_are_accessible(visit, themes):
    """axe-core finds nothing, and nothing is wider than the window: wide, and narrow in Chinese, in two themes."""
    require_axe()
    page = visit("gallery")
    page.emulate_media(color_scheme=themes[0])

    def check(what):
        for view, ready in {"gallery": ".card", "review": "li[role=option]", "learning": "li[role=option]"}.items():
            page.evaluate("view => { location.hash = view; }", view)
            page.locator(f"main.view-{view} {ready}").first.wait_for()
            assert violations(page) == [], f"{view}, {what}, {themes}"
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{view}, {what}"

    check("wide")
    page.emulate_media(color_scheme=themes[1])
    page.set_viewport_size({"width": 360, "height": 800})
    page.locator("header select").select_option("zh")
    page.wait_for_function("() => document.documentElement.lang === 'zh'")
    check("narrow")
