import pytest
from PIL import Image

from opendetr import decoding
from opendetr.errors import UserError
from opendetr.inference.folders import pictures_in
from opendetr.inference.sources import expand_sources


@pytest.fixture
def folder(tmp_path):
    """Pictures of several kinds, beside files that are none."""
    photos = tmp_path / "photos"
    for name in ("a.jpg", "b.JFIF", "c.avif", "d.jp2", "sub/e.mpo", "f.jpe"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(photos / name, "JPEG")
    return photos


def names(pictures, folder):
    return [path.relative_to(folder).as_posix() for path in pictures]


def test_every_suffix_that_is_decoded_is_taken(folder):
    assert names(pictures_in(folder), folder) == ["a.jpg", "b.JFIF", "c.avif", "d.jp2", "f.jpe", "sub/e.mpo"]


def test_what_is_left_out_is_counted_in_one_line(folder, capsys, monkeypatch):
    monkeypatch.setattr(decoding, "find_spec", lambda name: None)
    decoding.picture_suffixes.cache_clear()
    for name in ("1.txt", "2.txt", "IMG.HEIC", "film.mp4", "README"):
        (folder / name).write_text("x")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    found = pictures_in(folder)
    decoding.picture_suffixes.cache_clear()
    assert len(found) == 6
    assert capsys.readouterr().out == (
        f"left out of {folder}: 1 .heic (pip install pillow-heif makes them readable), 1 .mp4 (videos are given "
        f"one at a time), 2 .txt, 1 links to nothing, 1 without suffix\n"
    )


def test_hidden_files_and_folders_are_passed_over(folder, capsys):
    (folder / "._a.jpg").write_text("of macOS")
    (folder / ".ipynb_checkpoints").mkdir()
    Image.new("RGB", (8, 8)).save(folder / ".ipynb_checkpoints" / "a.jpg")
    assert len(pictures_in(folder)) == 6
    assert capsys.readouterr().out == ""


def test_linked_folders_are_followed_and_visited_once(folder, tmp_path):
    far = tmp_path / "far"
    far.mkdir()
    Image.new("RGB", (8, 8)).save(far / "g.png")
    (folder / "another").symlink_to(far)  # two links to one folder
    (folder / "more").symlink_to(far)
    (folder / "sub" / "loop").symlink_to(folder)
    (folder / "a link to sub").symlink_to(folder / "sub")  # which is found by its own name
    found = names(pictures_in(folder), folder)
    assert found == ["a.jpg", "another/g.png", "b.JFIF", "c.avif", "d.jp2", "f.jpe", "sub/e.mpo"]


def test_the_output_in_the_folder_is_no_source_and_is_not_counted(folder, capsys):
    output = folder / "found"
    output.mkdir()
    (output / "detections.json").write_text("[]")
    Image.new("RGB", (8, 8)).save(output / "a.jpg")
    assert len(expand_sources([str(folder)], output)) == 6
    assert expand_sources([str(output)], output) == expand_sources([str(folder)], folder) == []
    assert capsys.readouterr().out == ""


def test_a_folder_without_pictures_is_told_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"holds no pictures; known kinds are .* \(left out: 1 \.txt\)$"):
        pictures_in(tmp_path)
    for name in ("b.wmv", "a.3gp"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"holds no pictures, but 2 videos: give one at a time, such as .*a\.3gp$"):
        pictures_in(tmp_path)
