"""The rule of pixels: what a picture shows does not depend on how its file stores it."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from opendetr.data.transforms import Preprocessing
from opendetr.images import find_white_level, read_image

STEPS = np.arange(16 * 24) % 256
PIXELS = np.stack([STEPS, 255 - STEPS, STEPS * 7 % 256], 1).reshape(16, 24, 3).astype(np.uint8)  # 0..255, 256 colours
GREY = PIXELS[..., 0]
PICTURE = Image.fromarray(PIXELS)


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def turned(orientation):
    """As a camera held that way stores the picture."""
    stored = {2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1), 6: np.rot90,
              7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: lambda a: np.rot90(a, -1)}  # fmt: skip
    return Image.fromarray(np.ascontiguousarray(stored[orientation](PIXELS)))


def write_png(path, values, chunks=()):
    """A PNG of 16 bits with colours or alpha, which Pillow cannot write. `values`: [H, W, C]."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


def write_tiff(path, values, order):
    """An uncompressed TIFF of 16-bit RGB, in either byte order."""
    height, width, _ = values.shape
    data = values.astype(f"{order}u2").tobytes()
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 122), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 128),
            (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, len(data))]  # fmt: skip
    content = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    for number, kind, count, value in tags:
        stored = struct.pack(f"{order}HH", value, 0) if kind == 3 and count == 1 else struct.pack(f"{order}I", value)
        content += struct.pack(f"{order}HHI", number, kind, count) + stored
    content = (content + b"\0" * 4).ljust(122, b"\0") + struct.pack(f"{order}3H", 16, 16, 16)
    path.write_bytes(content + data)


SAVED = {  # name of the file -> picture and options of Pillow, all without loss
    "a.png": (PICTURE, {}), "a.bmp": (PICTURE, {}), "a.ppm": (PICTURE, {}), "a.tga": (PICTURE, {}),
    "a.pcx": (PICTURE, {}), "a.sgi": (PICTURE, {}), "a.qoi": (PICTURE, {}), "a.tif": (PICTURE, {}),
    "a.webp": (PICTURE, {"lossless": True}), "a.jp2": (PICTURE, {"irreversible": False}),
    "lzw.tiff": (PICTURE, {"compression": "tiff_lzw"}),
    "deflate.tiff": (PICTURE, {"compression": "tiff_adobe_deflate"}),
    "a.gif": (PICTURE.convert("P", palette=Image.Palette.ADAPTIVE), {}),
    "palette.png": (PICTURE.convert("P", palette=Image.Palette.ADAPTIVE), {}),
    "opaque.png": (PICTURE.convert("RGBA"), {}), "opaque.tif": (PICTURE.convert("RGBA"), {}),
    "a PNG.jpg": (PICTURE, {"format": "PNG"}), "a TIFF.png": (PICTURE, {"format": "TIFF"}),
    "pages.tif": (PICTURE, {"save_all": True, "append_images": [Image.new("RGB", (9, 9))]}),
    **{f"turned {n}.png": (turned(n), {"exif": exif(n)}) for n in range(2, 9)},
    **{f"turned {n}.tif": (turned(n), {"exif": exif(n)}) for n in (3, 6)},
    **{f"turned {n}.webp": (turned(n), {"exif": exif(n), "lossless": True}) for n in (5, 8)},
}  # fmt: skip


@pytest.mark.parametrize("name", SAVED)
def test_one_picture_in_many_files_without_loss(tmp_path, name):
    picture, options = SAVED[name]
    picture.save(tmp_path / name, **options)
    assert np.array_equal(np.asarray(read_image(tmp_path / name)), PIXELS)


@pytest.mark.parametrize(("largest", "scale"), [(255, 1.0), (4095, 4095 / 255), (65535, 257.0)])
def test_colours_of_8_12_and_16_bits_in_16_have_the_same_pixels(tmp_path, largest, scale):
    values = (PIXELS * scale).round().astype(np.uint16)
    opaque = np.full((16, 24, 1), largest, np.uint16)
    write_png(tmp_path / "a.png", values)
    write_png(tmp_path / "alpha.png", np.concatenate([values, opaque], 2))
    write_tiff(tmp_path / "little.tif", values, "<")
    write_tiff(tmp_path / "big.tif", values, ">")
    for name in ("a.png", "alpha.png", "little.tif", "big.tif"):
        assert np.array_equal(np.asarray(read_image(tmp_path / name)), PIXELS), name
        assert find_white_level([tmp_path / name]) == largest
    for name in ("grey.png", "grey.tif", "grey.pgm"):
        Image.fromarray(values[..., 0]).save(tmp_path / name)
        assert np.array_equal(np.asarray(read_image(tmp_path / name))[..., 0], GREY), name


def test_transparency_of_16_bits_is_white(tmp_path):
    values = np.array([[[65535, 0, 25700, 65535], [65535, 0, 25700, 0]]], np.uint16)
    write_png(tmp_path / "a.png", values)
    assert np.asarray(read_image(tmp_path / "a.png")).tolist() == [[[255, 0, 100], [255, 255, 255]]]
    colour = (b"tRNS", struct.pack(">3H", 65535, 0, 25700))  # this colour stands for transparent
    write_png(tmp_path / "b.png", np.array([[[65535, 0, 25700], [65535, 0, 25701]]], np.uint16), [colour])
    assert np.asarray(read_image(tmp_path / "b.png")).tolist() == [[[255, 255, 255], [255, 0, 100]]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (GREY / np.float32(255), GREY), (GREY.astype(np.float32), GREY), (GREY.astype(np.int32), GREY),
        (GREY.astype(np.float32) * 257 - 9, GREY), (GREY.astype(np.int32) * 100_000 - 7, GREY),
        (np.float32([[0.2, 0.4]]), [[51, 102]]),  # within 0..1: not stretched
        (np.float32([[0, 1e-6]]), [[0, 255]]),  # which would be black
        (np.float32([[0, np.nan, 1, np.inf, -np.inf]]), [[0, 0, 255, 255, 0]]),
        (np.float32([[np.nan, np.nan]]), [[0, 0]]), (np.int32([[0, 0]]), [[0, 0]]), (np.int32([[7, 7]]), [[128, 128]]),
    ],
)  # fmt: skip
def test_floats_and_32_bits_are_scaled_by_their_range(tmp_path, values, expected):
    Image.fromarray(values).save(tmp_path / "a.tif")
    for source in (tmp_path / "a.tif", Image.fromarray(values)):
        assert np.asarray(read_image(source))[..., 0].tolist() == np.asarray(expected).tolist()


def test_a_data_set_has_one_white_level(tmp_path):
    dark, bright, eight = tmp_path / "dark.png", tmp_path / "bright.png", tmp_path / "eight.png"
    Image.fromarray(np.uint16([[0, 200]])).save(dark)
    Image.fromarray(np.uint16([[0, 4000]])).save(bright)
    Image.new("L", (2, 1), 9).save(eight)
    (tmp_path / "broken.png").write_text("no picture")
    level = find_white_level([tmp_path / "broken.png", eight, dark, bright])
    assert level == 4095
    assert find_white_level([eight]) is None
    shown = {path: np.asarray(read_image(path, white_level=level)).max() for path in (dark, bright, eight)}
    assert shown == {dark: 12, bright: 249, eight: 9}
    assert np.asarray(read_image(dark)).max() == 200  # by itself


@pytest.mark.parametrize(("largest", "level"), [(5000, 4095), (120, 65535)], ids=["would be white", "would be black"])
def test_a_file_that_the_data_sets_level_would_spoil_has_its_own(largest, level):
    image = Image.fromarray(np.uint16([[0, largest]]))
    assert np.array_equal(np.asarray(read_image(image, white_level=level)), np.asarray(read_image(image)))


def test_the_white_level_is_stored_and_old_files_have_none():
    old = Preprocessing(64, 64, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    assert "white_level" not in old.to_json()
    assert Preprocessing.from_json(old.to_json()) == old
    new = Preprocessing(64, 64, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), white_level=4095)
    assert Preprocessing.from_json(new.to_json()) == new
    with pytest.raises(ValueError, match="white_level must be one of 255, 4095, 65535, got 12"):
        Preprocessing.from_json({**new.to_json(), "white_level": 12})
