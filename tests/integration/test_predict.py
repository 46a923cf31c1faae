"""`predict` on many pictures: stopped and continued, in parts, in tiles, and on videos."""

import json
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from PIL import Image

from opendetr import api
from opendetr.data.door import load_index
from opendetr.errors import UserError
from opendetr.inference import prediction
from opendetr.inference.detector import Detector
from opendetr.inference.label_files import LabelFiles
from opendetr.inference.results import Results, Shard, pictures_left
from opendetr.inference.sources import SourcePicture, name_pictures
from opendetr.inference.video import Video, VideoDrawing, count_frames
from opendetr.structures import Detections


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(9):
        pixels = np.random.default_rng(number).integers(0, 255, (40 + 8 * (number % 2), 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def entries(path: Path) -> list[dict]:
    return json.loads(path.read_text())


def rounded(found: list[dict]) -> list[tuple]:
    return [(e["image_id"], e["category_id"], *(round(v, 2) for v in [*e["bbox"], e["score"]])) for e in found]


def test_work_that_was_stopped_goes_on(tiny_run, pictures, tmp_path, monkeypatch, capsys):
    whole = api.predict(tiny_run, [str(pictures)], tmp_path / "whole", threshold=0, batch_size=2)
    drawn, saved = Detections.plot, []

    def draw(detections, image):
        if len(saved) == 5:
            raise KeyboardInterrupt
        saved.append(detections.file_name)
        return drawn(detections, image)

    monkeypatch.setattr(Detections, "plot", draw)
    with pytest.raises(KeyboardInterrupt):
        api.predict(tiny_run, [str(pictures)], tmp_path / "out", threshold=0, batch_size=2)
    assert not (tmp_path / "out/detections.json").exists()
    journal = tmp_path / "out/.detections.json.journal"
    done = len(journal.read_bytes().splitlines()) - 1
    assert 0 < done <= 5
    journal.write_bytes(journal.read_bytes() + b'[7, [{"image_id"')  # killed while it wrote
    again = []
    monkeypatch.setattr(Detections, "plot", lambda found, image: again.append(found.file_name) or drawn(found, image))
    capsys.readouterr()
    result = api.predict(tiny_run, [str(pictures)], tmp_path / "out", threshold=0, batch_size=2)
    assert f"{done} pictures are done" in capsys.readouterr().out
    assert len(again) == 9 - done
    assert rounded(entries(result)) == rounded(entries(whole))
    assert not journal.exists()
    assert len(list((tmp_path / "out").glob("*.png"))) == 9


def test_other_settings_do_not_destroy_what_was_begun(tiny_run, pictures, tmp_path, monkeypatch):
    drawn, done = Detections.plot, []

    def stop(found, image):
        if done:
            raise KeyboardInterrupt
        done.append(found.file_name)
        return drawn(found, image)

    with monkeypatch.context() as patch:
        patch.setattr(Detections, "plot", stop)
        with pytest.raises(KeyboardInterrupt):
            api.predict(tiny_run, [str(pictures)], tmp_path / "out", threshold=0)
    journal = tmp_path / "out/.detections.json.journal"
    before = journal.read_bytes()
    with pytest.raises(UserError, match=r"\(precision, threshold differ\)"):
        api.predict(tiny_run, [str(pictures)], tmp_path / "out", threshold=0.1, engine="torch", precision="bf16")
    assert journal.read_bytes() == before
    journal.unlink()
    whole = entries(api.predict(tiny_run, [str(pictures)], tmp_path / "whole", threshold=0, drawn=False))
    middle = median(entry["score"] for entry in whole)
    result = api.predict(tiny_run, [str(pictures)], tmp_path / "out", threshold=middle)
    assert rounded(entries(result)) == rounded([entry for entry in whole if entry["score"] >= middle])


def test_a_journal_cut_before_its_last_newline_loses_that_line_only(tmp_path):
    with Results(tmp_path, Shard(), {"threshold": 0}) as results:
        for position in range(3):
            results.add(position, [{"image_id": position}], (40, 64))
    results.journal.write_bytes(results.journal.read_bytes()[:-1])
    with Results(tmp_path, Shard(), {"threshold": 0}) as results:
        assert list(results.offsets) == [0, 1]
        results.add(2, [{"image_id": 7}], (40, 64))
        results.finish()
        assert results._file.closed  # else Windows would not remove it
    assert [entry["image_id"] for entry in entries(results.path)] == [0, 1, 7]


def test_parts_make_the_whole(tiny_run, pictures, tmp_path, capsys):
    whole = api.predict(tiny_run, [str(pictures)], tmp_path / "whole", threshold=0)

    def part(number: int) -> Path:
        shards = f"{number}/3"
        return api.predict(tiny_run, [str(pictures)], tmp_path / "out", threshold=0, shards=shards, drawn=False)

    paths = [part(2), part(1), part(3)]
    assert [path.name for path in paths] == ["detections.2-of-3.json", "detections.1-of-3.json", "detections.json"]
    assert rounded(entries(paths[-1])) == rounded(entries(whole))
    assert not list((tmp_path / "out").glob("*.png"))
    capsys.readouterr()
    assert part(2).name == "detections.json"
    assert "part 2 of 3 is finished" in capsys.readouterr().out


def test_parts_of_other_settings_are_not_put_together(tiny_run, pictures, tmp_path):
    whole = entries(api.predict(tiny_run, [str(pictures)], tmp_path / "whole", threshold=0, drawn=False))
    middle = median(entry["score"] for entry in whole)
    for threshold, part in ((0.0, 1), (middle, 2), (middle, 1)):
        path = api.predict(
            tiny_run, [str(pictures)], tmp_path / "out", threshold=threshold, shards=f"{part}/2", drawn=False
        )
        assert (path.name == "detections.json") == ((threshold, part) == (middle, 1))
    assert rounded(entries(path)) == rounded([entry for entry in whole if entry["score"] >= middle])


def test_a_broken_picture_in_the_last_part_is_said_after_all_is_put_together(tiny_run, pictures, tmp_path):
    (pictures / "1.png").write_text("no picture")
    options = {"threshold": 0, "drawn": False}
    api.predict(tiny_run, [str(pictures)], tmp_path / "out", shards="1/2", **options)
    with pytest.raises(UserError, match=r"1\.png cannot be read"):
        api.predict(tiny_run, [str(pictures)], tmp_path / "out", shards="2/2", **options)
    assert {entry["image_id"] for entry in entries(tmp_path / "out/detections.json")} == {1, 3, 4, 5, 6, 7, 8, 9}
    with pytest.raises(UserError, match=r"1\.png cannot be read"):  # it may have been mended: it is tried again
        api.predict(tiny_run, [str(pictures)], tmp_path / "out", shards="2/2", **options)


def test_huge_pictures_are_read_only_in_tiles_and_cut_as_needed(tiny_run, tmp_path, monkeypatch):
    Image.new("RGB", (640, 320), "teal").save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match=r"too large to be read at once .* --tile 1024 reads it in tiles"):
        api.predict(tiny_run, [str(tmp_path / "huge.png")], tmp_path / "out")
    detector, cut, given = Detector.load(tiny_run), [], []
    cutting, detect = prediction._cut, Detector.detect
    monkeypatch.setattr(prediction, "_cut", lambda *of: cut.append(of) or cutting(*of))

    def watched(self, parts, threshold, batch_size):
        for answer in detect(self, parts, threshold, batch_size):
            given.append(answer)
            assert len(cut) - len(given) <= 16
            yield answer

    monkeypatch.setattr(Detector, "detect", watched)
    tiling = prediction.Tiling(32, 0.0)
    assert len(list(prediction.detect_pictures(detector, name_pictures([tmp_path / "huge.png"]), 0.5, 2, tiling))) == 1
    assert len(cut) == len(given) == 200
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_live_frames_are_answered_before_the_next_is_asked_for(tiny_run):
    asked = []

    def frames():
        for number in range(6):
            asked.append(number)
            yield SourcePicture(number, number, "", "", Image.new("RGB", (64, 48), (40 * number, 90, 200)))

    for found in prediction.detect_pictures(Detector.load(tiny_run), frames(), 0.5, 1, live=True):
        assert asked[-1] == found.picture.position


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0"])
def test_wrong_parts_are_said(text):
    with pytest.raises(UserError, match="expected I/N"):
        Shard.parse(text)


def test_a_picture_in_tiles_is_detected_tile_by_tile(tiny_run, tmp_path):
    """Of two tiles that share nothing each has the detections of its half, moved to its place."""
    halves = [np.random.default_rng(side).integers(0, 255, (64, 64, 3), dtype=np.uint8) for side in (0, 1)]
    Image.fromarray(np.concatenate(halves, 1)).save(tmp_path / "wide.png")
    detector = Detector.load(tiny_run)
    left, right = (detector.predict(half, threshold=0) for half in halves)
    whole = detector.predict(np.concatenate(halves, 1), threshold=0)
    tiling = prediction.Tiling(64, 0.0)
    ((_, _, found),) = prediction.detect_pictures(detector, name_pictures([tmp_path / "wide.png"]), 0.0, 4, tiling)
    assert found.image_size == (64, 128)
    # What meets at the seam may be one object: everything found comes from a half, with the same score.
    scores = {round(float(score), 5) for part in (left, right) for score in part.scores}
    assert {round(float(score), 5) for score in found.scores} <= scores
    assert len(found) > len(whole) / 2
    result = api.predict(tiny_run, [str(tmp_path / "wide.png")], tmp_path / "out", threshold=0, tile=64, overlap=0)
    assert len(entries(result)) == len(found)
    with pytest.raises(UserError, match="--overlap must be"):
        api.predict(tiny_run, [str(tmp_path / "wide.png")], tmp_path / "out", tile=64, overlap=1.5)


def test_a_video_gives_frames_with_their_times(tiny_run, tmp_path, capsys, monkeypatch):
    source = tmp_path / "film.mp4"
    with VideoDrawing(source, 10) as video:
        for number in range(6):
            video.write(Image.new("RGB", (64, 48), (40 * number, 90, 200)), number / 10)
    result = api.predict(tiny_run, [str(source)], tmp_path / "out", threshold=0, every=2)
    found = entries(result)
    assert {entry["image_id"] for entry in found} == {1, 3, 5}
    assert {entry["file_name"] for entry in found} == {"film.mp4"}
    assert {entry["seconds"] for entry in found} == {0.0, 0.2, 0.4}
    with Video.open(tmp_path / "out/film.mp4") as video:
        assert video.size == (8 * 48, 8 * 64)  # enlarged, so that labels can be read
    assert "without the sound" not in capsys.readouterr().out
    opening = Video.__init__

    def with_sound(video, *arguments):
        opening(video, *arguments)
        video.has_sound = True

    monkeypatch.setattr(Video, "__init__", with_sound)
    not_drawn = api.predict(tiny_run, [str(source)], tmp_path / "out2", threshold=0, every=2, drawn=False)
    assert entries(not_drawn) == found
    assert "sound" not in capsys.readouterr().out
    api.predict(tiny_run, [str(source)], tmp_path / "out", threshold=0, every=2)
    assert f"{tmp_path / 'out/film.mp4'}, without the sound of the original" in capsys.readouterr().out
    with pytest.raises(UserError, match="is a video: give it alone"):
        api.predict(tiny_run, [str(source), str(source)], tmp_path / "out")


def test_memory_does_not_grow_with_the_number_of_pictures(tiny_run, pictures):
    """Pictures are read a few ahead of what was detected, never all of them."""
    detector, read = Detector.load(tiny_run), []

    def many():
        for number in range(200):
            read.append(number)
            yield SourcePicture(number, number + 1, "", str(pictures / f"{number % 2}.png"))

    given = 0
    for _ in prediction.detect_pictures(detector, many(), 0.5, 2):
        given += 1
        assert len(read) - given < 40
    assert given == 200


ALL = {"save_txt": True, "save_csv": True, "save_coco": True, "save_crops": True}


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_label_files_agree_with_the_results_and_are_the_same_after_a_stop_and_of_shards(
    tiny_run, pictures, tmp_path, monkeypatch
):
    options = {"threshold": 0, "drawn": False, "batch_size": 1, **ALL}
    whole = api.predict(tiny_run, [str(pictures)], tmp_path / "whole", **options)
    written = tree(tmp_path / "whole")
    index = load_index(tmp_path / "whole/coco", "train")
    assert [record.path.name for record in index.records] == [f"{number}.png" for number in range(9)]
    assert [(record.width, record.height) for record in index.records] == [(64, 40 + 8 * (n % 2)) for n in range(9)]
    assert len(index.objects) == len(entries(whole))
    assert index.left_out == ()
    assert sum(name.startswith("crops/") for name in written) == len(entries(whole))
    assert sum(len(text.splitlines()) for name, text in written.items() if name.startswith("labels/")) == len(
        entries(whole)
    )
    assert written["detections.csv"].count(b"\n") == len(entries(whole)) + 1

    write, done = LabelFiles.write, []

    def stop(self, stem, *rest):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(stem)
        write(self, stem, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(LabelFiles, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            api.predict(tiny_run, [str(pictures)], tmp_path / "again", **options)
    assert not (tmp_path / "again/detections.csv").exists()
    api.predict(tiny_run, [str(pictures)], tmp_path / "again", **options)
    assert tree(tmp_path / "again") == written

    for number in (2, 1):
        assert not (tmp_path / "parts/detections.csv").exists()
        api.predict(tiny_run, [str(pictures)], tmp_path / "parts", shards=f"{number}/2", **options)
    parts = tree(tmp_path / "parts")
    assert {name: parts[name] for name in written} == written
    for shards in (None, "1/2"):
        for saving in ("txt", "crops"):
            others = {"threshold": 0.01, "drawn": False, "shards": shards, f"save_{saving}": True}
            with pytest.raises(UserError, match=rf"holds {'labels' if saving == 'txt' else saving} of earlier work"):
                api.predict(tiny_run, [str(pictures)], tmp_path / "whole", **others)
    assert tree(tmp_path / "whole") == written  # nothing was begun that locks the folder


def test_only_the_chosen_classes_are_reported(tiny_run, pictures, tmp_path):
    options = {"threshold": 0, "drawn": False}
    whole = entries(api.predict(tiny_run, [str(pictures)], tmp_path / "all", **options))
    names = {entry["name"] for entry in whole}
    others = [str(digit) for digit in range(10) if str(digit) not in names]
    assert names
    assert others  # after two epochs it knows few digits
    chosen = entries(api.predict(tiny_run, [str(pictures)], tmp_path / "same", classes=sorted(names), **options))
    assert rounded(chosen) == rounded(whole)
    one = whole[0]["name"]  # a text is one class, not one per letter
    only = entries(api.predict(tiny_run, [str(pictures)], tmp_path / "one", classes=one, **options))
    assert rounded(only) == rounded([entry for entry in whole if entry["name"] == one])
    with pytest.raises(UserError, match="no class '0 1'"):
        api.predict(tiny_run, [str(pictures)], tmp_path / "none", classes="0 1", **options)
    assert entries(api.predict(tiny_run, [str(pictures)], tmp_path / "other", classes=others, **options)) == []
    with pytest.raises(UserError, match=r"the model has no class 'zebra'; its classes are "):
        api.predict(tiny_run, [str(pictures)], tmp_path / "none", classes=["zebra"], **options)
    assert not (tmp_path / "none").exists()


def test_label_files_of_a_video_have_a_name_per_frame(tiny_run, tmp_path):
    with VideoDrawing(tmp_path / "street.mp4", 10) as drawing:
        for number in range(3):
            drawing.write(Image.new("RGB", (64, 48), (80 * number, 90, 10)), number / 10)
    found = api.predict(tiny_run, [str(tmp_path / "street.mp4")], tmp_path / "out", threshold=0, drawn=False, **ALL)
    stems = [f"street-{number:06}" for number in (1, 2, 3)]
    assert sorted(path.stem for path in (tmp_path / "out/labels").iterdir()) == stems
    assert [record.path.stem for record in load_index(tmp_path / "out/coco", "train").records] == stems
    lines = (tmp_path / "out/detections.csv").read_text().splitlines()
    assert lines[0].startswith("file_name,image_id,seconds,category_id,name")
    assert len(lines) == len(entries(found)) + 1


def test_ray_refuses_label_files(tiny_run, pictures, tmp_path):
    with pytest.raises(UserError, match="--engine ray writes Parquet tables: leave out --save-txt, --save-crops"):
        api.predict(tiny_run, [str(pictures)], tmp_path, engine="ray", save_txt=True, save_crops=True)


def test_tracks_of_a_video_are_listed_and_drawn(tiny_run, tmp_path, capsys):
    with VideoDrawing(tmp_path / "street.mp4", 10) as drawing:
        for number in range(4):
            drawing.write(Image.new("RGB", (64, 48), (80, 90, 10)), number / 10)
    path = api.track(tiny_run, str(tmp_path / "street.mp4"), tmp_path / "out", threshold=0, device="cpu")
    found = entries(path)
    assert path == tmp_path / "out/tracks.json"
    of_frame = [{e["track_id"] for e in found if e["image_id"] == number} for number in (1, 2, 3, 4)]
    assert of_frame[0] == set()
    assert of_frame[1] == of_frame[2] == of_frame[3] == set(range(1, len(of_frame[1]) + 1)) != set()
    assert [e["seconds"] for e in found if e["track_id"] == 1] == [0.1, 0.2, 0.3]
    rows = (tmp_path / "out/tracks.csv").read_text().splitlines()
    assert rows[0] == "file_name,image_id,seconds,track_id,category_id,name,score,x1,y1,x2,y2"
    assert len(rows) == len(found) + 1
    assert f"{len(of_frame[1])} objects in 4 frames of street.mp4" in capsys.readouterr().out
    with Video.open(tmp_path / "out/street.mp4") as video:
        assert len(list(video)) == 4
    assert not (tmp_path / "out/.tracks.json.journal").exists()


def test_only_videos_are_tracked(tiny_run, pictures, tmp_path):
    with pytest.raises(UserError, match=r"0\.png is no video; expected a video file, webcam"):
        api.track(tiny_run, str(pictures / "0.png"), tmp_path / "out")


def test_only_pictures_that_are_left_count_for_the_choice_of_an_engine(tmp_path):
    assert pictures_left(tmp_path, Shard(), 9) == 9
    with Results(tmp_path, Shard(), {}) as results:
        assert pictures_left(tmp_path, Shard(), 9) == 9
        for position in range(4):
            results.add(position, [], (4, 4))
        assert pictures_left(tmp_path, Shard(), 9) == 5
    with Results(tmp_path, Shard(2, 3), {}) as results:
        results.finish()
    assert pictures_left(tmp_path, Shard(2, 3), 3) == 0
    with VideoDrawing(tmp_path / "street.mp4", 10) as drawing:
        for number in range(6):
            drawing.write(Image.new("RGB", (64, 48)), number / 10)
    assert [count_frames(str(tmp_path / "street.mp4"), every) for every in (1, 2)] == [6, 3]
    assert count_frames("rtsp://nobody/live") == count_frames("webcam") == 0


def test_a_batch_of_no_pictures_is_refused(tiny_run):
    for call in (Detector.load(tiny_run).predict, Detector.load(tiny_run).stream):
        with pytest.raises(UserError, match="batch-size must be at least 1, got 0"):
            list(call([], batch_size=0))


def test_work_stopped_before_its_first_picture_does_not_lock_the_folder(tmp_path):
    with Results(tmp_path, Shard(), {"threshold": 0.5}):
        pass
    with Results(tmp_path, Shard(), {"threshold": 0.6}) as results:
        results.add(0, [], (4, 4))
    with pytest.raises(UserError, match="unfinished work with other settings"):
        Results(tmp_path, Shard(), {"threshold": 0.5})
