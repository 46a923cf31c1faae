"""Whatever a decoder raises is one sentence, and what is used of a file is said once."""

import io
import random
import struct
import sys
import types

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from opendetr import decoding
from opendetr.decoding import decoder_errors_said, picture_suffixes
from opendetr.errors import UserError
from opendetr.images import check_image, read_image

PICTURE = Image.effect_mandelbrot((96, 80), (-2, -1, 1, 1), 50).convert("RGB")


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch):
    monkeypatch.setattr(decoding, "_said", set())


def encoded(kind, image=PICTURE, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_damaged_files_of_every_kind_end_in_a_sentence(tmp_path):
    draw, path = random.Random(0), tmp_path / "a"
    kinds = ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000", "TGA", "PPM", "ICO", "MPO", "QOI", "SGI"]
    sentences = []
    for content in [encoded(kind) for kind in kinds for _ in range(20)]:
        damaged = bytearray(content)
        for _ in range(draw.randint(1, 8)):
            damaged[draw.randrange(min(len(content), 400))] = draw.choice([0, 127, 128, 255])
        path.write_bytes(damaged[: draw.randint(1, len(content))] if draw.random() < 0.5 else damaged)
        for read in (read_image, check_image):
            try:
                read(path)
            except UserError as error:  # any other exception fails this test
                sentences.append(str(error))
    assert len(sentences) > 200
    assert all(str(path) in sentence and "\n" not in sentence for sentence in sentences)


@pytest.mark.parametrize("error", [struct.error("odd tag\nmore"), RuntimeError("odd tag"), TypeError("odd tag")])
def test_any_exception_is_one_line_that_names_the_file(error):
    said = r"^a\.jpg cannot be read as a picture \(odd tag\); replace or remove the file$"
    with pytest.raises(UserError, match=said), decoder_errors_said("a.jpg"):
        raise error
    with pytest.raises(KeyboardInterrupt), decoder_errors_said("a.jpg"):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("tag", "kind", "count", "value"),
    [(282, 10, 1, struct.pack("<ii", -1, 0)), (282, 2, 3, b"ab\0"), (271, 5, 1, struct.pack("<II", 1, 0)),
     (296, 1, 1, b"\2"), (700, 4, 2, struct.pack("<II", 1, 2)), (34853, 3, 2, struct.pack("<HH", 1, 2))],
    ids=["negative resolution", "resolution as text", "make as rational", "unit as byte", "XMP as longs", "odd GPS"],
)  # fmt: skip
def test_a_picture_with_an_odd_exif_tag_is_turned_all_the_same(tmp_path, tag, kind, count, value):
    entries = sorted([(274, 3, 1, struct.pack("<HH", 6, 0)), (tag, kind, count, value)])
    block, data = b"II*\0" + struct.pack("<IH", 8, 2), b""
    for number, kind_of, count_of, content in entries:
        if len(content) > 4:
            content, data = struct.pack("<I", 8 + 2 + 24 + 4), content
        block += struct.pack("<HHI", number, kind_of, count_of) + content.ljust(4, b"\0")
    for kind_of_file in ("JPEG", "PNG", "WEBP"):
        path = tmp_path / f"a.{kind_of_file}"
        path.write_bytes(encoded(kind_of_file, exif=b"Exif\0\0" + block + b"\0" * 4 + data))
        assert check_image(path) == read_image(path).size == (80, 96)


def test_a_tiff_with_odd_xmp_is_turned_all_the_same(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[700] = 4  # XMP is text; here it is whole numbers
    tags[274], tags[700] = 6, (1, 2)
    (tmp_path / "a.tif").write_bytes(encoded("TIFF", tiffinfo=tags))
    assert check_image(tmp_path / "a.tif") == read_image(tmp_path / "a.tif").size == (80, 96)


def test_a_jpeg_without_its_last_bytes_is_used_and_one_without_its_half_is_not(tmp_path, capsys):
    content, path = encoded("JPEG", quality=95), tmp_path / "a.jpg"
    whole = np.asarray(Image.open(io.BytesIO(content)))
    for kept in (len(content) - 2, int(len(content) * 0.95)):
        path.write_bytes(content[:kept])
        read = np.asarray(read_image(path))
        assert np.array_equal(read[:56], whole[:56])
        assert check_image(path) == (96, 80)
    assert capsys.readouterr().out.count("is cut short and used: what is missing of such a JPEG is grey.") == 1
    path.write_bytes(content[: len(content) // 2])
    for read in (read_image, check_image):
        with pytest.raises(UserError, match=r"a\.jpg cannot be read as .* \(it is cut short: \d\d% of it is there\)"):
            read(path)


def test_a_picture_that_is_too_large_is_sent_to_tiles(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    PICTURE.save(tmp_path / "map.png")
    with pytest.raises(UserError, match=r"map\.png is too large to be read at once \(.* pixels\); predict --tile 1024"):
        read_image(tmp_path / "map.png")


def test_several_pages_and_deep_values_are_said_once_for_each_kind(tmp_path, capsys):
    for name in ("a.gif", "b.gif", "c.tif"):
        PICTURE.save(tmp_path / name, save_all=True, append_images=[PICTURE.rotate(90)])
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((4, 4), 999, np.uint16)).save(tmp_path / name)
    for path in sorted(tmp_path.iterdir()):
        read_image(path)
    said = capsys.readouterr().out
    assert said.count("several pages or frames") == 2
    assert "a.gif has several pages or frames; the first of such files is used." in said
    assert (
        said.count("has more than 8 bits: the values of such pictures are scaled, 16 bits by 255, 4095 or 65535") == 1
    )


def test_channels_that_cannot_be_shown_are_counted(tmp_path):
    path, content = tmp_path / "a.tif", encoded("TIFF")
    place = content.index(struct.pack("=HHI", 277, 3, 1)) + 8  # samples per pixel
    path.write_bytes(content[:place] + struct.pack("=H", 5) + content[place + 2 :])
    with pytest.raises(UserError, match=r"\(a TIFF of 5 channels of 8 bits\); expected 1 channel \(grey\), 3 \(RGB\)"):
        read_image(path)


HEIC = struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic"


def test_heic_needs_its_plugin_whatever_the_suffix(tmp_path, monkeypatch):
    path = tmp_path / "IMG_1.jpg"
    path.write_bytes(HEIC)
    monkeypatch.setattr(decoding, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"IMG_1\.jpg is a HEIC picture; pip install pillow-heif makes it readable"):
        read_image(path)
    plugin = types.ModuleType("pillow_heif")  # stands for the real one: opens what begins like HEIC
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    accepts = lambda start: start[4:12] == b"ftypheic"  # noqa: E731
    plugin.register_heif_opener = lambda: Image.register_open("HEIF", lambda file, name: PICTURE.copy(), accepts)
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    monkeypatch.setattr(decoding, "find_spec", lambda name: name)
    assert read_image(path).size == (96, 80)


def test_known_suffixes_are_those_of_pictures():
    assert {".jpg", ".jfif", ".jpe", ".mpo", ".avif", ".jp2", ".webp", ".tiff", ".pgm"} <= picture_suffixes()
    assert not {".pdf", ".eps", ".mpg", ".h5", ".txt", ""} & picture_suffixes()


@pytest.mark.parametrize(("kind", "suffix"), [("JPEG", "jpg"), ("AVIF", "avif"), ("WEBP", "webp"), ("JPEG2000", "jp2")])
def test_lossy_copies_are_nearly_the_same(tmp_path, kind, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(encoded(kind))
    difference = np.abs(np.asarray(read_image(path)).astype(int) - np.asarray(PICTURE))
    assert difference.mean() < 6  # of 255; this picture has sharp edges, which blur
