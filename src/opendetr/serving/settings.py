"""What `opendetr serve` is asked for: plain values, which both processes get. No torch."""

from dataclasses import dataclass, field
from pathlib import Path

from opendetr.data.source import DataSource
from opendetr.options import EngineName, PrecisionName


@dataclass(frozen=True)
class ModelSettings:
    """What the process that computes loads, and the most that it takes."""

    model: str
    data: DataSource | None = None  # a data set to look at
    own_data: bool = True  # whether the run's own is opened where `data` names none
    device: str = "auto"
    engine: EngineName = "auto"
    precision: PrecisionName = "fp32"
    threads: int | str | None = None
    image_size: int | None = None
    threshold: float | None = None  # of requests that name none; None: the model's own of each class
    batch_size: int = 8  # most pictures that go through the model at once
    max_pixels: float = 50e6  # of a picture


@dataclass(frozen=True)
class Limits:
    """The most that the web process takes."""

    body_bytes: int = 64 * 2**20  # of a request
    bytes_at_once: int = 512 * 2**20  # of all requests that are being read or answered
    pictures: int = 16  # of a request
    waiting: int = 64  # pictures and other work that wait for the model
    deadline: float = 30.0  # seconds from reading a request to its answer
    reading: float = 60.0  # seconds in which the body of a request must arrive


@dataclass(frozen=True)
class LabelStudio:
    """The one server that pictures are fetched from, and the token that it wants."""

    origin: str  # scheme://host:port, without a path
    token: str = field(repr=False)


@dataclass(frozen=True)
class ServeSettings:
    """Everything that `opendetr serve` is asked for."""

    model: ModelSettings
    host: str = "127.0.0.1"
    port: int = 8000
    limits: Limits = Limits()
    api_key: str | None = field(default=None, repr=False)
    label_studio: LabelStudio | None = None
    public_name: str | None = None  # of the server with TLS before this one, in small letters and without a port
    review: Path | None = None  # the folder of a label review; None: beside the labels
