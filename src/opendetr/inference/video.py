"""Video files, webcams and network streams: reading frames and writing a video of drawn frames, by PyAV (FFmpeg).

A little over 300 lines: reading and writing share the package, its clocks and its colours.
"""

import glob
import os
import re
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from opendetr.decoding import picture_suffixes
from opendetr.errors import UserError, first_line
from opendetr.inference.addresses import is_address
from opendetr.progress import console, warn

VIDEO_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".avi", ".divx", ".mkv", ".webm", ".flv", ".wmv", ".asf",
    ".mpg", ".mpeg", ".mpe", ".m1v", ".m2v", ".ts", ".mts", ".m2ts", ".vob", ".ogv", ".mxf", ".mjpg", ".mjpeg",
    ".dv", ".y4m", ".h264", ".h265", ".hevc", ".rm", ".rmvb",
})  # fmt: skip
STREAMS = ("rtsp://", "rtsps://", "rtmp://", "rtmps://", "http://", "https://")
ANSWER_SECONDS = 10.0  # longest wait for a stream, at its start and between frames; Ctrl-C waits for it too
H264, BT601 = "libx264", 6  # the encoder; FFmpeg's number of the colours
TICKS = 60000  # per second of a written video: whole numbers for 24, 25, 30, 50 and 60 frames and for 30000/1001


def is_video(source: str) -> bool:
    """Whether a source has the name of a video file, a webcam (`webcam`, `webcam:1`) or a stream (`rtsp://...`).

    Nothing is opened. A folder, a glob or an https address with the name of a picture is no video (an http one is that
    of a camera), and a file or folder that is called `webcam` is no webcam.
    """
    if source.lower().startswith("https://") and Path(re.split("[?#]", source)[0]).suffix.lower() in picture_suffixes():
        return False
    if source.lower().startswith(STREAMS) or _webcam_number(source) is not None:
        return True
    path = Path(source)
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir() and (path.exists() or not glob.has_magic(source))


def count_frames(source: str, every: int = 1) -> int:
    """How many frames of a video file are used, as far as it says; 0 for unknown, and for webcams and streams.

    Raises:
        UserError: the file is missing or no video.
    """
    if is_address(source) or _webcam_number(source) is not None:
        return 0
    with Video.open(source, every) as video:
        return (video.num_frames or 0) // every


class Video:
    """The frames of a video, one at a time: memory does not grow with its length.

    Iterating (once) yields `(number, seconds, image)` of each `every`-th frame: its number in the video, from 1; its
    time since the first frame; the upright RGB picture. What comes before damage or a stream's end is kept.

    Example:
        >>> with Video.open("street.mp4", every=5) as video:
        ...     for number, seconds, image in video: ...

    Attributes:
        name: for results: the file's name, or the address without password and query.
        every: 1 for all frames, n for the first of each n.
        frames_per_second: of the video itself, whatever `every` is; 25 where it does not say.
        num_frames: of the video itself, as its header or its duration promises; None where neither does.
        size: (height, width) of an upright frame, in pixels.
        live: whether it is a webcam or a stream.
        has_sound: whether there is sound, which is not read.
        damaged: frames met so far that could not be decoded (left out), or only in part (kept).
    """

    def __init__(self, container: Any, name: str, every: int) -> None:
        stream = container.streams.best("video")
        if stream is None:
            raise UserError(f"{name} holds no moving pictures; expected a video")
        self.name, self.every, self.damaged = name, every, 0
        self.frames_per_second = float(stream.average_rate or stream.guessed_rate or 25)
        self.live, self.has_sound = False, bool(container.streams.audio)
        self._container, self._stream, self._read, self._broken_off = container, stream, 0, ""
        self._has_index = stream.frames > 0  # of all frames, as MP4 and AVI have
        self._promised = self._promise()
        counts = [stream.frames, round(self._promised * self.frames_per_second)]  # the first counts trimmed frames too
        self.num_frames = min(filter(None, counts), default=None)
        frames = self._decode()
        first = next(frames, None)  # a video counts as open when a frame was decoded
        if first is None:
            raise UserError(f"{name} holds no frame that can be decoded; convert it to another kind of video")
        self._frames = chain([first], frames)
        # Of the first frame only: this makes a reference cycle, which keeps a frame's pixels until garbage collection.
        self._display_matrix = first.side_data.get("DISPLAYMATRIX")
        self.size = self._upright(first).size[::-1]

    @classmethod
    def open(cls, source: str | Path, every: int = 1) -> "Video":
        """Open a source for which `is_video` is true.

        Raises:
            UserError: the file is missing or no video; there is no such webcam; the stream does not answer.
        """
        av, source = _import_av(), str(source)
        if every < 1:
            raise UserError(f"each {every}-th frame cannot be taken; expected 1 (all frames) or more")
        name, webcam = Path(source).name, _webcam_number(source)
        try:
            if webcam is not None:
                said, advice = f"webcam {webcam} does not answer", "is it connected, allowed and not in use?"
                container = _open_webcam(av, webcam)
            elif source.lower().startswith(STREAMS):
                name = re.sub(r"//[^/]*@", "//", source).split("?")[0]
                said, advice = f"{name} does not answer with a video", "check the address and that the sender is on"
                # TCP, since frames with lost packets are damaged.
                options = {"rtsp_transport": "tcp"} if source.lower().startswith("rtsp") else {}
                container = av.open(source, timeout=ANSWER_SECONDS, options=options)
            elif not Path(source).exists():
                raise UserError(f"{source} does not exist; expected a video")
            else:
                said, advice = f"{source} cannot be decoded as a video", "is it complete? convert or replace it"
                container = av.open(str(Path(source).absolute()))  # FFmpeg takes "a:b.mp4" for an address
        except (av.FFmpegError, OSError, LookupError, ValueError) as error:
            raise UserError(f"{said} ({_reason(error)}); {advice}") from None
        video = cls(container, name, every)
        video.live = webcam is not None or source.lower().startswith(STREAMS)
        return video

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *error: object) -> None:
        self._container.close()

    def say_drawn(self, target: Path) -> None:
        """Print where the drawn video is, and that it has no sound where this one has."""
        console.print(f"the drawn video: {target}" + (", without the sound of the original" if self.has_sound else ""))

    def _promise(self) -> float:
        """How many seconds the pictures last by the header; 0 where it does not say that of the pictures alone."""
        stream, container = self._stream, self._container
        if len(container.streams) > 1 and not self._has_index:  # it may be how long the sound lasts
            return 0.0
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        return (container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0

    def __iter__(self) -> Iterator[tuple[int, float, Image.Image]]:
        interval = 1 / self.frames_per_second
        start, end, last, longest = None, 0.0, 0.0, 2 * interval
        for frame in self._frames:
            self._read += 1
            clock = (self._read - 1) * interval if frame.time is None else frame.time
            start = clock if start is None else start
            lasts = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else interval
            end, longest, last = max(end, clock - start + lasts), max(longest, clock - start - last), clock - start
            if (self._read - 1) % self.every == 0:
                yield self._read, clock - start, self._upright(frame)
        # A cut file often just ends. Headers are rounded, and some do not say how long the last frame lasts. Kinds
        # without an index of all frames may count from 0 on the file's clock, whenever the first frame is shown.
        reached = end if self._has_index else end + max(0.0, start or 0.0)
        if not self._broken_off and reached < self._promised - max(longest, 0.01 * self._promised):
            self._broken_off = f"{end:.1f} of {self._promised - reached + end:.1f} s"

    @property
    def problem(self) -> str | None:
        """One sentence on the damage so far, None without any."""
        damaged = f"{self.damaged} damaged frame{'s' if self.damaged > 1 else ''}" if self.damaged else ""
        early = f"it breaks off after frame {self._read} ({self._broken_off})" if self._broken_off else ""
        said = " and ".join(filter(None, [damaged, early]))
        return f"{self.name}: {said}; what could be decoded is kept" if said else None

    def _upright(self, frame: Any) -> Image.Image:
        """The frame as RGB, turned and mirrored as the file says, which FFmpeg's libraries leave to their callers."""
        image: Image.Image = frame.to_image()
        if self._display_matrix is not None:  # (x, y) is shown at (ax + cy, bx + dy)
            a, b, c, d = np.frombuffer(self._display_matrix, np.int32)[[0, 1, 3, 4]].tolist()
            image = image.transpose(Image.Transpose.TRANSPOSE) if abs(b) > abs(a) else image
            image = ImageOps.mirror(image) if a + c < 0 else image
            image = ImageOps.flip(image) if b + d < 0 else image
        return image

    def _decode(self) -> Iterator[Any]:
        """All frames as they are stored, up to an error."""
        av = _import_av()
        while True:
            try:
                for packet in self._container.demux(self._stream):
                    try:
                        frames = self._stream.decode(packet)
                    except av.FFmpegError:
                        self.damaged += 1
                        continue
                    for frame in frames:
                        self.damaged += frame.is_corrupt
                        yield frame
                return
            except av.BlockingIOError:  # a webcam of macOS between two frames
                time.sleep(0.005)
            except av.FFmpegError as error:
                self._broken_off = _reason(error)
                return


class VideoDrawing:
    """Writes pictures as an .mp4 without sound, each at its time, in the size of the first made even.

    The codec is H.264 with 4:2:0 colours and the index comes first, so that browsers play it and can begin before all
    is there. A PyAV without libx264 (its wheels on PyPI have it) writes MPEG-4, which is said.

    The file has a hidden temporary name beside `path` until its end. On Ctrl-C, the only end of a webcam, it is kept;
    on any other exception it is removed and `path` stays as it was. Without a picture there is no file.

    Args:
        path: of the file; its folder is made.
        frames_per_second: the nominal rate, also the duration of the last picture.
    """

    def __init__(self, path: Path, frames_per_second: float = 25) -> None:
        self.path, self._rate = path, Fraction(frames_per_second).limit_denominator(1001)
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._container: Any = None
        self._last = -1

    def __enter__(self) -> "VideoDrawing":
        return self

    def write(self, image: Image.Image, seconds: float) -> None:
        """Append an RGB picture, shown from `seconds` on; a time that is not after the last one's is moved there."""
        av = _import_av()
        if self._container is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._open(av, *image.size)
        even = np.pad(np.asarray(image), ((0, image.height % 2), (0, image.width % 2), (0, 0)), "edge")
        frame = av.VideoFrame.from_ndarray(even).reformat(self._stream.width, self._stream.height, "yuv420p")
        self._last = max(round(seconds * TICKS), self._last + 1)
        frame.pts, frame.time_base = self._last, Fraction(1, TICKS)
        self._container.mux(self._stream.encode(frame))

    def _open(self, av: Any, width: int, height: int) -> None:
        options = {"movflags": "faststart"}
        self._container = av.open(str(self._partial.absolute()), "w", format="mp4", options=options)
        try:
            self._stream = self._container.add_stream(
                H264, rate=self._rate, options={"preset": "veryfast", "crf": "20"}
            )
        except ValueError:
            warn(
                f"this PyAV has no {H264}: {self.path} is MPEG-4, which browsers do not play; "
                "pip install --force-reinstall av brings it."
            )
            # Steady quality instead of the codec's own bit rate, which blurs large pictures.
            self._stream = self._container.add_stream(
                "mpeg4", rate=self._rate, options={"flags": "+qscale", "qmin": "3"}
            )
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        context = self._stream.codec_context
        context.pix_fmt, context.time_base = "yuv420p", Fraction(1, TICKS)
        # How FFmpeg converts RGB (BT.601): without a word players take large pictures for BT.709.
        context.colorspace = context.color_primaries = context.color_trc = BT601

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._container is None:
            return
        keep = kind is None or issubclass(kind, KeyboardInterrupt)
        try:
            if keep:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            if keep:
                self._partial.replace(self.path)
        finally:
            self._partial.unlink(missing_ok=True)


def _import_av() -> Any:
    try:
        import av
    except ModuleNotFoundError:
        raise UserError("videos need PyAV; install it with pip install 'av>=17'") from None
    return av


def _webcam_number(source: str) -> int | None:
    match = re.fullmatch(r"webcam(?::(\d+))?", source)
    return int(match[1] or 0) if match and not Path(source).exists() else None


def _open_webcam(av: Any, number: int) -> Any:
    """The n-th camera in the system's own order: Linux counts in /dev/video, macOS and Windows in a list."""
    if sys.platform == "darwin":
        return av.open(f"{number}:none", format="avfoundation", options={"framerate": "30"})
    if sys.platform == "win32":
        cameras = [device.name for device in av.enumerate_input_devices("dshow") if "video" in device.media_types]
        return av.open(f"video={cameras[number]}", format="dshow")
    return av.open(f"/dev/video{number}", format="v4l2")


def _reason(error: Exception) -> str:
    if type(error).__name__ == "ExitError":  # our own timeout
        return f"no answer within {ANSWER_SECONDS:g} s"
    return getattr(error, "strerror", None) or first_line(error)
