import inspect
import io

import numpy as np
import pytest
import torch
from PIL import Image

from opendetr.errors import UserError
from opendetr.images import check_image, read_image

UPRIGHT = np.kron(np.array([[20, 90, 160], [230, 60, 120]], dtype=np.uint8), np.ones((16, 16), dtype=np.uint8))
AS_STORED = {  # EXIF orientation -> what a camera that was held that way writes
    1: UPRIGHT,
    2: np.fliplr(UPRIGHT),
    3: np.rot90(UPRIGHT, 2),
    4: np.flipud(UPRIGHT),
    5: UPRIGHT.T,
    6: np.rot90(UPRIGHT, 1),
    7: np.rot90(UPRIGHT, 2).T,
    8: np.rot90(UPRIGHT, -1),
}


def saved(path, image, orientation=None):
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    image.save(path, exif=exif)
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", [None, *AS_STORED, 0, 9])
def test_exif_orientation_is_applied_and_the_checked_size_is_the_upright_one(tmp_path, orientation, suffix):
    stored = Image.fromarray(np.ascontiguousarray(AS_STORED.get(orientation, UPRIGHT))).convert("RGB")
    path = saved(tmp_path / f"a.{suffix}", stored, orientation)
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (48, 32))
    difference = np.abs(np.asarray(image).astype(int) - UPRIGHT[..., None])
    # Lossy formats blur where two greys meet.
    assert np.median(difference) <= 3 if suffix in ("jpg", "webp") else difference.max() == 0
    assert check_image(path) == (48, 32)


def test_a_pil_image_is_turned_upright_too(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(np.ascontiguousarray(AS_STORED[6])), 6)
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(read_image(image))[..., 0], UPRIGHT)


def palette_with_transparency() -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.putdata([0, 1])
    image.info["transparency"] = 0
    return image


def image_of(mode, *pixels):
    image = Image.new(mode, (len(pixels), 1))
    image.putdata(pixels)
    return image


MODES = {
    "grey": (image_of("L", 0, 77, 255), [(0, 0, 0), (77, 77, 77), (255, 255, 255)]),
    "one bit": (image_of("1", 0, 255), [(0, 0, 0), (255, 255, 255)]),
    "grey with alpha": (image_of("LA", (77, 255), (77, 0)), [(77, 77, 77), (255, 255, 255)]),
    "palette": (
        image_of("RGB", (9, 8, 7), (1, 2, 3)).convert("P", palette=Image.Palette.ADAPTIVE),
        [(9, 8, 7), (1, 2, 3)],
    ),
    "palette with transparency": (palette_with_transparency(), [(255, 255, 255), (200, 100, 50)]),
    "RGBA on white": (
        image_of("RGBA", (10, 20, 30, 255), (10, 20, 30, 0), (0, 100, 200, 51)),  # 51: a fifth
        [(10, 20, 30), (255, 255, 255), (204, 224, 244)],
    ),
    "CMYK": (
        image_of("CMYK", (0, 0, 0, 0), (0, 0, 0, 255), (255, 0, 0, 0)),
        [(255, 255, 255), (0, 0, 0), (0, 255, 255)],
    ),
    "16 bit": (
        Image.fromarray(np.array([[0, 257, 25700, 25900, 65535]], dtype=np.uint16)),
        [(0, 0, 0), (1, 1, 1), (100, 100, 100), (101, 101, 101), (255, 255, 255)],
    ),
}


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("from_file", [False, True])
def test_every_kind_becomes_rgb(tmp_path, name, from_file):
    image, expected = MODES[name]
    source = image
    if from_file:
        source = tmp_path / ("a.tif" if image.mode == "CMYK" else "a.png")
        image.save(source)
    read = read_image(source)
    assert read.mode == "RGB"
    assert [tuple(pixel) for pixel in np.asarray(read)[0].tolist()] == expected
    assert image.size == read.size
    if from_file:
        assert check_image(source) == read.size


RGB = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
OPAQUE = np.full((4, 5, 1), 255, dtype=np.uint8)


@pytest.mark.parametrize(
    ("array", "order", "expected"),
    [
        (RGB, "rgb", RGB),
        (RGB[..., ::-1], "bgr", RGB),
        (RGB[:, ::-1], "rgb", RGB[:, ::-1]),  # a view with negative strides
        (np.concatenate([RGB, OPAQUE], 2), "rgb", RGB),
        (np.concatenate([RGB[..., ::-1], OPAQUE], 2), "bgr", RGB),
        (np.concatenate([RGB, 0 * OPAQUE], 2), "rgb", np.full_like(RGB, 255)),
        (RGB[..., 0], "rgb", RGB[..., [0, 0, 0]]),
        (RGB[..., 0], "bgr", RGB[..., [0, 0, 0]]),
        (RGB[..., :1], "bgr", RGB[..., [0, 0, 0]]),
    ],
)
def test_arrays(array, order, expected):
    assert np.array_equal(np.asarray(read_image(array, order)), expected)


@pytest.mark.parametrize(
    "array",
    [RGB / 255, RGB.astype(np.int64), RGB[..., :2], RGB[None], RGB[0, :, 0], RGB > 9, RGB[:0], RGB[:, :0, 0]],
    ids=lambda array: f"{array.dtype} {array.shape}",
)
def test_an_array_that_is_no_picture(array):
    with pytest.raises(
        UserError, match=rf"shape \({array.shape[0]},.* type {array.dtype} is no picture; expected uint8"
    ):
        read_image(array)


def cut(path, kept=0.5):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    return path


BROKEN = {
    "cut JPEG": lambda folder: cut(saved(folder / "a.jpg", Image.fromarray(np.tile(RGB, (20, 20, 1))))),
    "cut PNG": lambda folder: cut(saved(folder / "a.png", Image.fromarray(np.tile(RGB, (20, 20, 1))))),
    "JPEG header": lambda folder: cut(saved(folder / "a.jpg", Image.fromarray(RGB)), 0.02),
}


@pytest.mark.parametrize("read", [read_image, check_image])
@pytest.mark.parametrize("kind", [*BROKEN, "text", "empty", "folder"])
def test_a_broken_file_is_named(tmp_path, read, kind):
    path = tmp_path / "a.jpg"
    if kind in BROKEN:
        path = BROKEN[kind](tmp_path)
    elif kind == "folder":
        path = tmp_path
    else:
        path.write_text("hello" if kind == "text" else "")
    with pytest.raises(UserError, match="cannot be read as a picture") as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("read", [read_image, check_image])
def test_a_missing_file_is_named(tmp_path, read):
    with pytest.raises(UserError, match="does not exist; expected a picture") as caught:
        read(tmp_path / "a.jpg")
    assert str(tmp_path / "a.jpg") in str(caught.value)


@pytest.mark.parametrize("size", [(1, 1), (7, 50), (50, 7), (64, 48), (333, 17)])
@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "ppm"])
def test_the_checked_size_is_the_size_that_is_read(tmp_path, size, suffix):
    Image.new("RGB", size).save(tmp_path / f"a.{suffix}")
    assert check_image(tmp_path / f"a.{suffix}") == read_image(tmp_path / f"a.{suffix}").size == size


PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "given",
    [
        torch.from_numpy(PIXELS).permute(2, 0, 1), torch.from_numpy(PIXELS).permute(2, 0, 1) / 255,
        (torch.from_numpy(PIXELS).permute(2, 0, 1).double() / 255).requires_grad_(),
        torch.from_numpy(PIXELS).permute(2, 0, 1) / 255 + 0.4 / 255,  # rounds to the same, up to 1.0016
    ],
)  # fmt: skip
def test_a_tensor_has_its_channels_first_and_two_ranges(given):
    assert np.array_equal(np.asarray(read_image(given)), PIXELS)
    assert np.array_equal(np.asarray(read_image(given, "bgr")), PIXELS[..., ::-1])


def test_a_grey_tensor_becomes_rgb():
    grey = torch.from_numpy(PIXELS[..., 0])[None]
    assert np.array_equal(np.asarray(read_image(grey)), PIXELS[..., :1].repeat(3, 2))


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.zeros(5, 7, 3), r"shape \(5, 7, 3\) and type torch.float32 is no picture; expected \(3 or 1, height, "
         r"width\), of uint8 in 0..255 or of floats in 0..1; permute\(2, 0, 1\) puts the channels first$"),
        (torch.zeros(5, 7), "is no picture"), (torch.zeros(3, 0, 7), "is no picture"),
        (torch.zeros(3, 5, 7, dtype=torch.int64), "type torch.int64 is no picture"),
        (torch.full((3, 5, 7), 255.0), "has values from 255 to 255; expected .* not normalised"),
        (torch.linspace(-2, 2, 105).view(3, 5, 7), "has values from -2 to 2"),
        (torch.full((3, 5, 7), torch.nan), "has values from nan to nan"),
    ],
)  # fmt: skip
def test_another_tensor_is_answered_with_layout_and_range(tensor, said):
    with pytest.raises(UserError, match=said):
        read_image(tensor)


def test_bytes_and_open_files_are_read_like_the_file(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    with path.open("rb") as file:
        for source in (path, path.read_bytes(), io.BytesIO(path.read_bytes()), file):
            assert np.array_equal(np.asarray(read_image(source)), PIXELS)
    with path.open(encoding="utf-8") as text, pytest.raises(UserError, match=r"a\.png is open in text mode; open it"):
        read_image(text)
    with pytest.raises(UserError, match="the open file is open in text mode"):
        read_image(io.StringIO("abc"))
    with pytest.raises(UserError, match=r"what was given \(3 bytes\) cannot be read as a picture"):
        read_image(b"abc")
    for nothing in (None, 5, {}):
        with pytest.raises(UserError, match="is no picture; expected a path, a PIL image"):
            inspect.unwrap(read_image)(nothing)  # without the tests' check of types


def test_what_is_saved_again_has_no_exif_and_no_comment(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "secret camera"
    exif[0x8825] = {1: "N", 2: (52.0, 31.0, 0.0)}
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg", exif=exif, comment=b"secret comment", icc_profile=b"profile")
    image = read_image(tmp_path / "a.jpg")
    assert image.info == {"icc_profile": b"profile"}
    for suffix in ("jpg", "png", "webp", "tiff"):
        image.crop((0, 0, 5, 5)).save(tmp_path / f"b.{suffix}")
        assert b"secret" not in (tmp_path / f"b.{suffix}").read_bytes()
        assert not Image.open(tmp_path / f"b.{suffix}").getexif().get_ifd(0x8825)
