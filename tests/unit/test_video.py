import gc
import re
import socket
import struct
import subprocess
import sys
import time
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from opendetr.errors import UserError
from opendetr.inference import video as video_room
from opendetr.inference.video import Video, VideoDrawing, is_video

SIZE = (48, 64)  # height, width: not square, and blocks of 16 for the codecs
TOLERANCE = 12  # of a colour that was through a lossy codec, in the middle of an even area
IDENTITY = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)  # a QuickTime display matrix


def picture(k: int) -> Image.Image:
    """Orange left, a blue that grows with k to the right, dark noise in the middle so that frames take up bytes."""
    array = np.zeros((*SIZE, 3), dtype=np.uint8)
    array[:, :24], array[:, 40:] = (220, 120, 20), (10, 40, 10 * k)
    array[:, 24:40] = np.random.default_rng(k).integers(0, 60, (SIZE[0], 16, 3))
    return Image.fromarray(array)


def recorded(path, count=20, rate=10, codec="mpeg4", **options):
    """A video that was not made by the code under test."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = SIZE
        stream.bit_rate = 2_000_000
        if codec == "mjpeg":
            stream.pix_fmt = "yuvj420p"
        for k in range(count):
            container.mux(stream.encode(av.VideoFrame.from_image(picture(k))))
        container.mux(stream.encode(None))
    return path


def read(path, every=1):
    with Video.open(path, every) as video:
        return list(video)


def assert_shows(image, k):
    for x, colour in ((12, (220, 120, 20)), (52, (10, 40, 10 * k))):
        assert np.abs(np.subtract(image.getpixel((x, 24)), colour)).max() <= TOLERANCE


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("clip.mp4", True), ("a/b/CLIP.MOV", True), ("x.avi", True), ("x.mkv", True), ("x.webm", True), ("x.m4v", True),
        ("x.mpg", True), ("x.mpeg", True), ("x.wmv", True), ("x.flv", True), ("x.3gp", True), ("x.ASF", True),
        ("x.ts", True), ("webcam", True), ("webcam:1", True),
        ("rtsp://me:secret@10.0.0.7:554/live", True), ("http://camera/stream", True), ("https://host/live", True),
        ("http://camera/a.jpg", True),
        ("HTTPS://host/a.jpg?b=1", False), ("https://host/a.PNG#top", False),
        ("0", False), ("1", False), ("", False), ("webcam:", False), ("webcam:x", False), ("webcam2", False),
        ("a.jpg", False), ("folder", False), ("mp4", False), ("clips/*.mp4", False), ("ftp://host/a.jpg", False),
    ],
)  # fmt: skip
def test_what_is_named_like_a_video(source, expected):
    assert is_video(source) is expected


def test_what_is_there_decides_what_a_name_means(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures.mp4").mkdir()
    (tmp_path / "webcam").mkdir()
    (tmp_path / "take[1].mp4").touch()
    assert not is_video("pictures.mp4")
    assert not is_video("webcam")
    assert is_video("webcam:0")
    assert is_video("take[1].mp4")


@pytest.mark.parametrize(
    ("name", "codec", "known"),
    [("a.mp4", "mpeg4", 20), ("a.mov", "libx264", 20), ("a.avi", "mjpeg", 20), ("a.mkv", "libx264", 20),
     ("a.webm", "libvpx-vp9", 20), ("a.ts", "mpeg2video", 20), ("a.mpg", "mpeg1video", None)],
)  # fmt: skip
def test_frames_come_upright_in_order_and_in_rgb(tmp_path, name, codec, known):
    rate = 25 if codec.endswith(("1video", "2video")) else 10
    with Video.open(recorded(tmp_path / name, rate=rate, codec=codec)) as video:
        assert (video.name, video.frames_per_second, video.size, video.every) == (name, rate, SIZE, 1)
        assert known is None or video.num_frames == known
        frames = list(video)
    assert [number for number, _, _ in frames] == list(range(1, 21))
    assert [seconds for _, seconds, _ in frames] == pytest.approx([k / rate for k in range(20)], abs=0.002)
    for k, (_, _, image) in enumerate(frames):
        assert (image.mode, image.size) == ("RGB", SIZE[::-1])
        assert_shows(image, k)
    assert (video.damaged, video.problem) == (0, None)


def shown_at(path, codec, times, *, with_sound=False):
    """A video whose frames are shown from those seconds on, on the file's clock; with longer sound on request."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = SIZE
        stream.codec_context.time_base = Fraction(1, 1000)
        sound = container.add_stream("aac", rate=44100, layout="mono") if with_sound else None
        for k, seconds in enumerate(times):
            frame = av.VideoFrame.from_image(picture(k))
            frame.pts, frame.time_base = round(seconds * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            for _ in range(1200):  # 28 s
                samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                samples.sample_rate = 44100
                container.mux(sound.encode(samples))
            container.mux(sound.encode(None))
    return path


@pytest.mark.parametrize(
    "times",
    [[5 + k / 10 for k in range(20)], [0, 0.1, 0.2, 2, 2.1, 7, 7.1, 15], [3, 3.5, 9, 18]],
    ids=["starts at 5 s", "rates vary", "both"],
)
@pytest.mark.parametrize(
    ("name", "codec", "with_sound"),
    [("a.mp4", "libx264", False), ("a.mp4", "libx264", True), ("a.mkv", "libx264", False), ("a.mkv", "libx264", True),
     ("a.wmv", "wmv2", False), ("a.wmv", "wmv2", True), ("a.ts", "libx264", True), ("a.flv", "flv", False)],
)  # fmt: skip
def test_a_complete_video_does_not_break_off_whenever_its_frames_are_shown(tmp_path, name, codec, with_sound, times):
    with Video.open(shown_at(tmp_path / name, codec, times, with_sound=with_sound)) as video:
        shown = [seconds for _, seconds, _ in video]
    assert shown == pytest.approx([at - times[0] for at in times], abs=0.01)
    assert video.problem is None


def test_every_second_frame_keeps_its_number_and_time(tmp_path):
    frames = read(recorded(tmp_path / "a.mp4", count=7), every=2)
    assert [number for number, _, _ in frames] == [1, 3, 5, 7]
    assert [seconds for _, seconds, _ in frames] == pytest.approx([0, 0.2, 0.4, 0.6])
    for number, _, image in frames:
        assert_shows(image, number - 1)
    with pytest.raises(UserError, match="expected 1"):
        Video.open(tmp_path / "a.mp4", every=0)


def moved(x, y, matrix):
    a, b, c, d = matrix
    return a * x + c * y, b * x + d * y


@pytest.mark.parametrize(
    "matrix",
    [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0),
     (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)],
)  # fmt: skip
def test_a_turned_or_mirrored_video_is_shown_upright(tmp_path, matrix):
    path = recorded(tmp_path / "a.mp4", count=2)
    (stored,) = [image for number, _, image in read(path) if number == 2]
    content = path.read_bytes()
    place = content.index(IDENTITY, content.index(b"tkhd"))
    a, b, c, d = (value << 16 for value in matrix)
    turned = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content[:place] + turned + content[place + len(turned) :])
    with Video.open(path) as video:
        (shown,) = [image for number, _, image in video if number == 2]
    assert video.size == (shown.height, shown.width) == (SIZE if matrix[0] else SIZE[::-1])
    corners = [moved(x, y, matrix) for x in (0, 63) for y in (0, 47)]
    left, top = min(x for x, _ in corners), min(y for _, y in corners)
    for x, y in [(3, 5), (60, 5), (3, 40), (60, 40), (30, 20)]:
        to_x, to_y = moved(x, y, matrix)
        assert shown.getpixel((to_x - left, to_y - top)) == stored.getpixel((x, y))


def cut(path, kept):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    return path


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mpeg4"), ("a.mov", "libx264"), ("a.mkv", "libx264")])
def test_the_frames_before_the_end_of_a_cut_file_are_kept_and_it_is_said(tmp_path, name, codec):
    options = {"movflags": "faststart"} if name != "a.mkv" else {}  # the index comes first
    with Video.open(cut(recorded(tmp_path / name, codec=codec, **options), 0.7)) as video:
        assert video.problem is None
        frames = list(video)
    assert 5 < len(frames) < 20
    for number, _, image in frames[:-1]:
        assert_shows(image, number - 1)
    assert f"{name}: " in video.problem
    assert f"it breaks off after frame {len(frames)} (" in video.problem


@pytest.mark.parametrize("kept", [0, 40], ids=["nothing of it", "its first bytes"])
def test_a_damaged_frame_in_the_middle_is_counted_and_the_others_are_kept(tmp_path, kept):
    path = recorded(tmp_path / "a.mp4")
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        start, size = packets[12].pos, packets[12].size
    content = bytearray(path.read_bytes())
    content[start + kept : start + size] = b"\xff" * (size - kept)
    path.write_bytes(content)
    with Video.open(path) as video:
        frames = list(video)
    assert video.damaged >= 1
    assert re.fullmatch(r"a\.mp4: (1 damaged frame|\d+ damaged frames); what could be decoded is kept", video.problem)
    assert len(frames) >= 19
    for number, _, image in frames[:12]:
        assert_shows(image, number - 1)


def test_a_frame_that_was_taken_is_freed_at_once(tmp_path):
    with Video.open(recorded(tmp_path / "a.mp4")) as video:
        gc.collect()
        gc.disable()
        try:
            for number, _, _ in video:
                if number == 18:
                    held = sum(type(item) is av.VideoFrame for item in gc.get_objects())
        finally:
            gc.enable()
    assert held < 8


def test_who_stops_early_hears_of_no_problem(tmp_path):
    with Video.open(recorded(tmp_path / "a.mp4")) as video:
        for number, _, _ in video:
            if number == 3:
                break
    assert video.problem is None


def text(path):
    path.write_text("hello, I am no video\n" * 100)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path, "does not exist; expected a video"),
        (text, "cannot be decoded as a video (Invalid data"),
        (lambda path: path.touch() or path, "cannot be decoded as a video"),
        (lambda path: cut(recorded(path), 0.7), "cannot be decoded as a video"),  # its index was at the end
    ],
    ids=["missing", "text", "empty", "cut"],
)
def test_what_is_no_video_is_named_and_nothing_else_is_printed(tmp_path, capfd, make, message):
    path = make(tmp_path / "a.mp4")
    with pytest.raises(UserError) as caught:
        Video.open(path)
    assert str(caught.value).startswith(f"{path} ")
    assert message in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(UserError, match=r"a\.mp4 holds no moving pictures"):
        Video.open(tmp_path / "a.mp4")


def test_a_webcam_that_is_not_there_is_named_at_once_and_quietly(capfd):
    start = time.monotonic()
    with pytest.raises(UserError, match=r"webcam 97 does not answer \(.+\); is it connected"):
        Video.open("webcam:97")
    assert time.monotonic() - start < 5
    assert capfd.readouterr() == ("", "")


def test_a_stream_that_is_silent_is_given_up_and_its_password_is_not_shown(monkeypatch):
    monkeypatch.setattr(video_room, "ANSWER_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        address = f"127.0.0.1:{silent.getsockname()[1]}/live"
        with pytest.raises(UserError) as caught:
            Video.open(f"http://me:secret@{address}?token=secret")
    assert str(caught.value).startswith(f"http://{address} does not answer with a video (no answer within 0.3 s)")
    assert "secret" not in str(caught.value)


class Camera:
    """A recording that behaves like a camera: not always ready, without an end that is known, unplugged at last."""

    def __init__(self, path):
        self.recording = av.open(str(path))
        self.streams, self.duration = self.recording.streams, None
        packets = [packet for packet in self.recording.demux(video=0) if packet.size]
        busy, lost = av.BlockingIOError(11, "not yet"), av.OSError(19, "No such device")
        self.answers = iter([busy, packets[0], busy, busy, packets[1], packets[2], lost])

    def demux(self, stream):
        for answer in self.answers:
            if isinstance(answer, Exception):
                raise answer
            yield answer

    def close(self):
        self.recording.close()


def test_a_webcam_is_asked_until_it_is_lost(tmp_path, monkeypatch):
    camera = Camera(recorded(tmp_path / "a.mp4", count=5))
    monkeypatch.setattr(video_room, "_open_webcam", lambda av, number: camera)
    with Video.open("webcam:1") as video:
        assert video.name == "webcam:1"
        assert [number for number, _, _ in video] == [1, 2, 3]
    assert video.problem == "webcam:1: it breaks off after frame 3 (No such device); what could be decoded is kept"


def test_a_trimmed_video_is_neither_longer_nor_broken(tmp_path):
    path = recorded(tmp_path / "a.mp4")
    content = bytearray(path.read_bytes())
    place = content.index(b"elst") + 12  # after version, flags and the number of edits: duration, start
    content[place : place + 8] = struct.pack(">ii", 1000, 5120)  # the second of two seconds, in ticks of each header
    path.write_bytes(content)
    with Video.open(path) as video:
        frames = list(video)
    assert len(frames) == video.num_frames == 10
    assert video.problem is None
    assert_shows(frames[0][2], 5)


@pytest.mark.parametrize("size", [(64, 48), (63, 47), (9, 7)])
@pytest.mark.parametrize("rate", [10, 30000 / 1001, 0.2])
def test_a_drawn_video_returns_what_was_written(tmp_path, size, rate):
    path = tmp_path / "new folder" / "drawn.mp4"
    with VideoDrawing(path, rate) as drawing:
        for k in range(6):
            drawing.write(Image.new("RGB", size, (200, 20 * k, 30)), k / rate)
        assert not path.exists()
    assert [file.name for file in path.parent.iterdir()] == ["drawn.mp4"]
    with Video.open(path) as video:
        frames = list(video)
    even = tuple(side + side % 2 for side in size[::-1])
    assert (video.size, video.num_frames, video.problem) == (even, 6, None)
    assert video.frames_per_second == pytest.approx(rate, rel=1e-3)
    assert [seconds for _, seconds, _ in frames] == pytest.approx([k / rate for k in range(6)], abs=1e-4)
    for k, (_, _, image) in enumerate(frames):
        assert np.abs(np.subtract(image.getpixel((4, 3)), (200, 20 * k, 30))).max() <= TOLERANCE
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.codec_tag, context.pix_fmt, context.colorspace) == ("avc1", "yuv420p", 6)
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # a browser plays it while it loads


def test_without_an_encoder_of_h264_the_video_is_another_and_that_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(video_room, "H264", "no-such-encoder")
    with VideoDrawing(tmp_path / "a.mp4", 10) as drawing:
        for k in range(3):
            drawing.write(picture(k), k / 10)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "a.mp4 is MPEG-4, which browsers do not play" in said
    for k, (_, _, image) in enumerate(read(tmp_path / "a.mp4")):
        assert_shows(image, k)


def test_a_video_knows_whether_it_has_sound(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream, sound = container.add_stream("mpeg4", rate=10), container.add_stream("aac", rate=44100, layout="mono")
        stream.height, stream.width = SIZE
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        samples.sample_rate = 44100
        for packets in (stream.encode(av.VideoFrame.from_image(picture(0))), sound.encode(samples)):
            container.mux(packets)
        for each in (stream, sound):
            container.mux(each.encode(None))
    with Video.open(path) as video:
        assert video.has_sound
    with Video.open(recorded(tmp_path / "silent.mp4", count=2)) as video:
        assert not video.has_sound


def test_times_that_stand_still_or_go_back_lose_no_frame(tmp_path):
    with VideoDrawing(tmp_path / "a.mp4") as drawing:
        for k, seconds in enumerate([0.0, 1.0, 1.0, 0.5, 2.0]):
            drawing.write(picture(k), seconds)
    frames = read(tmp_path / "a.mp4")
    assert [seconds for _, seconds, _ in frames] == pytest.approx([0, 1, 1, 1, 2], abs=1e-3)
    for k, (_, _, image) in enumerate(frames):
        assert_shows(image, k)


def test_a_frame_of_another_size_is_fitted(tmp_path):
    with VideoDrawing(tmp_path / "a.mp4") as drawing:
        drawing.write(picture(0), 0)
        drawing.write(picture(1).resize((128, 96)), 1)
    assert [image.size for _, _, image in read(tmp_path / "a.mp4")] == [SIZE[::-1]] * 2


def test_ctrl_c_leaves_a_video_that_plays(tmp_path):
    path = tmp_path / "a.mp4"

    def until_interrupted():
        with VideoDrawing(path, 10) as drawing:
            for k in range(100):
                drawing.write(picture(k), k / 10)
                if k == 4:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        until_interrupted()
    frames = read(path)
    assert len(frames) == 5
    for k, (_, _, image) in enumerate(frames):
        assert_shows(image, k)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("before", [None, b"the last run's"])
def test_an_error_leaves_what_was_there_before(tmp_path, before):
    path = tmp_path / "a.mp4"
    if before:
        path.write_bytes(before)

    def until_broken():
        with VideoDrawing(path) as drawing:
            drawing.write(picture(0), 0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        until_broken()
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([before] if before else [])


def test_without_a_picture_there_is_no_file(tmp_path):
    with VideoDrawing(tmp_path / "a.mp4"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_pyav_is_loaded_for_videos_only_and_its_absence_is_a_sentence(monkeypatch):
    code = "import sys, opendetr.inference.video as v; v.is_video('a.mp4'); assert 'av' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match="pip install 'av>=17'"):
        Video.open("webcam")
