"""Part of `cuda.py`: training steps and prediction of DETR-R50 beside the official code and transformers.

All sides hold the same random weights, see the same pictures and take turns. `fp32` forbids TF32, `tf32` allows it in
matrix products and convolutions, `bf16` is autocast, with TF32 allowed for what stays in fp32.
"""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import timm
import torch
from torch import Tensor
from training_step import PAPER_CLASSES, SEED, OfficialSide, OurSide, Sample, random_samples

from opendetr.benchmarking.peers import load_peer
from opendetr.benchmarking.sides import write_for_peer
from opendetr.checkpoints.huggingface import save_huggingface
from opendetr.config import RunConfig
from opendetr.engines.engine import TorchEngine
from opendetr.errors import first_line
from opendetr.loss.matcher import match

SETTINGS = ("fp32", "tf32", "bf16")
OURS, OFFICIAL, HUGGING_FACE = "opendetr", "official code", "transformers"
PEERS = {OFFICIAL: "official", HUGGING_FACE: "huggingface"}  # what `opendetr benchmark` calls them
IN_A_TURN = 2  # timed calls
WHATS = ("training", "prediction")
TOLERANCE = 1e-3  # of the loss of the same weights, without dropout, relative

Precise = Callable[[], Any]  # makes the context of a setting


@dataclass(frozen=True)
class Timed:
    """Calls of one side: the median, and the most memory that tensors took meanwhile."""

    what: str  # training or prediction
    batch: int
    setting: str
    side: str
    milliseconds: float
    calls: int
    gigabytes: float | None  # 10^9 bytes, its weights and the state of its optimiser included; None on a CPU
    matching: float | None = None  # share of a training step, 0..1


@contextmanager
def setting(name: str) -> Iterator[None]:
    """TF32 forbidden or allowed; autocast is each side's own affair."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest" if name == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = name != "fp32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def autocast_of(name: str, device: torch.device) -> Precise:
    """The context of a setting for code that knows no precisions."""
    return partial(torch.autocast, device.type, torch.bfloat16) if name == "bf16" else nullcontext


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class HuggingFaceSide:
    """`DetrForObjectDetection` with its own loss, and the optimiser of its `Trainer`."""

    def __init__(self, ours: OurSide, samples: list[Sample], folder: Path) -> None:
        """Build it from our weights."""
        import transformers

        config, self.device, self.context = ours.trainer.config, ours.trainer.accelerator.device, nullcontext
        written = save_huggingface(ours.trainer.checkpoint, folder / "huggingface")
        transformers.utils.logging.disable_progress_bar()
        model = transformers.DetrForObjectDetection.from_pretrained(written, auxiliary_loss=True)
        self.model, self.clip_norm = model.float().to(self.device), config.train.clip_norm
        trained = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        groups = [
            {"params": [p for name, p in trained if "backbone" not in name]},
            {"params": [p for name, p in trained if "backbone" in name], "lr": config.train.backbone_lr},
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=config.train.lr, weight_decay=config.train.weight_decay, fused=True
        )
        self.show(samples)
        with torch.no_grad():
            self.facts = {"loss": float(self.loss())}
        self.model.train()

    def show(self, samples: list[Sample]) -> None:
        """The pictures of the next steps."""
        self.pictures = torch.stack([picture for picture, _, _ in samples]).to(self.device)
        self.labels = [
            {"class_labels": target.labels.to(self.device), "boxes": target.boxes_cxcywh.to(self.device)}
            for _, target, _ in samples
        ]

    def loss(self) -> Tensor:
        """Of the pictures shown."""
        with self.context():
            return self.model(pixel_values=self.pictures, labels=self.labels).loss

    def step(self) -> None:
        """As its `Trainer` steps."""
        self.loss().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Sides:
    """Whoever is there, with the same weights."""

    def __init__(self, config: RunConfig, size: tuple[int, int], folder: Path, left_out: list[str]) -> None:
        """Build them.

        Args:
            config: of the model and its training; its device counts for all.
            size: of the pictures, height and width.
            folder: for what they write for each other.
            left_out: told who is missing, and why.
        """
        self.size, samples, peers = size, random_samples([size] * 2, PAPER_CLASSES), dict[str, Any]()
        try:
            peers[OFFICIAL] = OfficialSide(config, samples, folder)
        except Exception as error:  # whatever keeps one side away, the others are worth being timed; here and below
            left_out.append(f"{OFFICIAL}: {first_line(error)}")
            torch.save(timm.create_model(config.model.backbone, pretrained=False).state_dict(), folder / "backbone.pt")
        weights = {"model.backbone_weights": str(folder / "backbone.pt")}
        ours = OurSide(config.with_values(weights, "this benchmark"), samples, PAPER_CLASSES, folder)
        try:
            peers[HUGGING_FACE] = HuggingFaceSide(ours, samples, folder)
        except Exception as error:
            left_out.append(f"{HUGGING_FACE}: {first_line(error)}")
        self.device, self.training = ours.trainer.accelerator.device, {OURS: ours, **peers}
        # With auxiliary losses transformers also normalises between decoder layers: as much work, but another loss.
        if OFFICIAL in peers:
            theirs, wanted = peers[OFFICIAL].facts["loss"], ours.facts["loss"]
            if abs(theirs - wanted) > TOLERANCE * wanted:
                left_out.append(
                    f"that the official code does the same work: its loss is {theirs:.5f}, ours {wanted:.5f}"
                )
        checkpoint = ours.trainer.checkpoint
        self.model = copy.deepcopy(checkpoint.model).eval()
        self.predicting = {}
        for name in peers:
            try:
                written = write_for_peer(checkpoint, PEERS[name], folder / PEERS[name])
                self.predicting[name] = load_peer(PEERS[name], written, self.device)
            except Exception as error:
                left_out.append(f"{name}, predicting: {first_line(error)}")

    def calls(self, what: str, batch: int, name: str) -> dict[str, Callable[[], object]]:
        """A training step of every side in a setting, or what its model says, of so many pictures."""
        context, precision = autocast_of(name, self.device), "bf16" if name == "bf16" else "fp32"
        if what == "prediction":
            images = torch.randn(batch, 3, *self.size, generator=torch.Generator().manual_seed(SEED)).to(self.device)
            ours = partial(TorchEngine(self.model, self.device, precision), images)
            return {OURS: ours} | {
                who: partial(_answer, peer, images, context) for who, peer in self.predicting.items()
            }
        samples = random_samples([self.size] * batch, PAPER_CLASSES)
        for side in self.training.values():
            side.show(samples)
            side.context = context
        self.training[OURS].trainer.step.precision = precision
        return {who: side.step for who, side in self.training.items()}

    def bytes_kept(self, what: str, who: str) -> int:
        """What a side holds on the device between calls."""
        if what == "prediction":
            model, states = self.model if who == OURS else self.predicting[who].model, []
        else:
            side = self.training[who]
            model, states = side.model, [value for state in side.optimizer.state.values() for value in state.values()]
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        kept = [*model.parameters(), *model.buffers(), *gradients, *states]
        return sum(tensor.nbytes for tensor in kept if isinstance(tensor, Tensor))


def _answer(peer: Any, images: Tensor, context: Precise) -> None:
    with context():
        peer.answer(images)


def measure(
    sides: Sides,
    batches: tuple[int, ...],
    settings: tuple[str, ...],
    turns: int,
    seconds: float,
    left: Callable[[], float],
    left_out: list[str],
) -> Iterator[Timed]:
    """All rows there is time for.

    Args:
        sides: to be compared.
        batches: pictures at once.
        settings: of `SETTINGS`.
        turns: of every side, at least; before them as many calls to warm up.
        seconds: of calls, for each side in each setting.
        left: seconds until everything must be done.
        left_out: told what there was no time or no memory for.
    """
    for batch in batches:
        for name in settings:
            for what in WHATS:
                if left() < 0:
                    left_out.append(f"{what} in {name} at batch {batch}, and whatever comes after it: time was up")
                    return
                try:
                    yield from _measure(sides, what, batch, name, turns, seconds)
                except Exception as error:  # for one, too little memory
                    left_out.append(f"{what} in {name} at batch {batch}: {type(error).__name__}: {first_line(error)}")
                    torch.cuda.empty_cache()


def _measure(sides: Sides, what: str, batch: int, name: str, turns: int, seconds: float) -> Iterator[Timed]:
    with setting(name):
        calls = sides.calls(what, batch, name)
        taken = in_turn(calls, turns, seconds, sides.device)
        for who, call in calls.items():
            peak = peak_bytes(call, sides.bytes_kept(what, who), sides.device)
            typical = median(taken[who])
            share = None
            if what == "training" and who == OURS:
                share = seconds_of_matching(call, turns, sides.device) / typical
            gigabytes = None if peak is None else peak / 1e9
            yield Timed(what, batch, name, who, typical * 1000, len(taken[who]), gigabytes, share)


def in_turn(
    calls: dict[str, Callable[[], object]], turns: int, seconds: float, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of every call, until all together have taken so many each; the first call of a turn is not timed."""
    taken: dict[str, list[float]] = {who: [] for who in calls}
    for _ in range(turns):
        for call in calls.values():
            call()
    started = time.perf_counter()
    while len(next(iter(taken.values()))) < turns * IN_A_TURN or time.perf_counter() - started < seconds * len(calls):
        for who, call in calls.items():
            call()
            for _ in range(IN_A_TURN):
                wait_for(device)
                begun = time.perf_counter()
                call()
                wait_for(device)
                taken[who].append(time.perf_counter() - begun)
    return taken


def peak_bytes(call: Callable[[], object], kept: int, device: torch.device) -> int | None:
    """The most memory that tensors of the side take in a call; what other sides hold meanwhile is not counted."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before + kept


def seconds_of_matching(step: Callable[[], object], steps: int, device: torch.device) -> float:
    """Of a training step of ours: the costs, their copy to the host, the assignment, and the copy back."""
    taken = []

    def timed(*arguments: Any) -> Any:
        wait_for(device)
        begun = time.perf_counter()
        matches = match(*arguments)
        wait_for(device)
        taken.append(time.perf_counter() - begun)
        return matches

    with mock.patch("opendetr.loss.criterion.match", timed):
        for _ in range(steps):
            step()
    return median(taken)
