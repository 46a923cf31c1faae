"""One training step (forward, matching, losses, backward, clipping, AdamW) on the CPU: ours against the official code.

Run `python benchmarks/training_step.py`; tests/parity/official.py says where the official code has to be. DETR-R50 with
the same random weights, batch norm and the first stage fixed as both fix them, the same pictures and targets. Ours is
the `TrainingStep` of the recipe `paper`; the official step is put together from its parts as its `engine.py` does it.
With `--recipe fast` it is the step of that recipe, which has no peer. `--compile` adds ours in fp32 with every
encoder and decoder layer compiled by `torch.compile`, and with the backbone too, and says after how many steps that has
paid.

Every side is a process of its own, and they step in turn: training lets the C library keep freed memory, which one
process cannot do for a part of itself. The official code is therefore measured twice, without that and with it.
"""

import argparse
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "parity"))  # official.py loads the official code
import official

from opendetr.checkpoints.adapt import train_mode
from opendetr.config import RunConfig
from opendetr.data.index import Record, index_of_records
from opendetr.data.loader import collate
from opendetr.devices import autocast, describe_machine, keep_freed_memory
from opendetr.labels import LabelMap
from opendetr.model.backbone import Backbone
from opendetr.model.decoder import DecoderLayer
from opendetr.model.encoder import EncoderLayer
from opendetr.progress import console
from opendetr.recipes.recipe import load_recipe
from opendetr.structures import Target
from opendetr.training.optim import set_learning_rates
from opendetr.training.setup import assemble

HEIGHT, WIDTH, PADDED_WIDTH = 480, 640, 512
PAPER_CLASSES, FAST_CLASSES, MOST_OBJECTS = 91, 3, 14
FAST_BATCH, FAST_HEIGHT, FAST_WIDTH = 8, 320, 416
SEED, WARM_UP_ROUNDS, ROUNDS = 0, 2, {"paper": 10, "fast": 30}
PLAIN, LAYERS = "opendetr fp32", (EncoderLayer, DecoderLayer)
COMPILED = {"layers compiled": LAYERS, "all compiled": (Backbone, *LAYERS)}
PARTS = ("forward", "losses", "backward", "update", "other")
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}  # of the loss of all weights and pictures, before the first step

Sample = tuple[Tensor, Target, Record]


class Stopwatch:
    """The seconds of a step, by what was done in them."""

    def start(self) -> None:
        """Begin a step."""
        self.parts, self.last = dict.fromkeys(PARTS, 0.0), time.perf_counter()

    def mark(self, part: str) -> None:
        """What has passed since the last mark was this."""
        now = time.perf_counter()
        self.parts[part] += now - self.last
        self.last = now


def paper_config() -> RunConfig:
    return load_recipe("paper").with_values({"train.device": "cpu"}, "this benchmark")


def random_samples(sizes: list[tuple[int, int]], num_classes: int) -> list[Sample]:
    """Pictures of noise, of these heights and widths, with random objects."""
    torch.manual_seed(SEED)
    samples = []
    for number, (height, width) in enumerate(sizes):
        count = int(torch.randint(1, MOST_OBJECTS + 1, ()))
        sides = 0.03 + 0.25 * torch.rand(count, 2)
        corners = torch.rand(count, 2) * (1 - sides)
        target = Target(torch.randint(num_classes, (count,)), torch.cat([corners + sides / 2, sides], 1))
        pixels = torch.cat([corners, corners + sides], 1) * torch.tensor([width, height] * 2)
        record = Record(number, Path(f"{number}.jpg"), width, height, target.labels.numpy(), pixels.numpy())
        samples.append((torch.randn(3, height, width), target, record))
    return samples


def paper_samples(padded: bool) -> list[Sample]:
    """With `padded` the second picture is narrower, as random sizes leave it."""
    return random_samples([(HEIGHT, WIDTH), (HEIGHT, PADDED_WIDTH if padded else WIDTH)], PAPER_CLASSES)


class OfficialSide:
    """The official model, criterion and optimiser."""

    def __init__(self, config: RunConfig, samples: list[Sample], folder: Path) -> None:
        """Build it, and write its weights for the others."""
        self.device, self.context = torch.device(config.train.device), nullcontext  # of the forward pass and the losses
        self.model = official.build_model(config.model, PAPER_CLASSES, SEED)
        official.spread_answers(self.model, official.pad([picture for picture, _, _ in samples]))
        layers = config.model.num_decoder_layers
        self.criterion = official.build_criterion(config.loss, PAPER_CLASSES, layers).to(self.device)
        weights, prefix = self.model.state_dict(), "backbone.0.body."
        torch.save({official.our_name(name): tensor for name, tensor in weights.items()}, folder / "model.pt")
        backbone = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        torch.save(backbone, folder / "backbone.pt")
        self.model.to(self.device)
        self.show(samples)

        trained = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        groups = [
            {"params": [p for name, p in trained if "backbone" not in name]},
            {"params": [p for name, p in trained if "backbone" in name], "lr": config.train.backbone_lr},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=config.train.lr, weight_decay=config.train.weight_decay)
        self.clip_norm = config.train.clip_norm
        with torch.no_grad():
            loss = float(official.total_loss(self.criterion, self.criterion(self.model(self.pictures), self.targets)))
        self.facts = {"loss": loss, "precision": "fp32", "trained": sum(p.numel() for _, p in trained), "chosen": []}
        self.model.train()
        self.criterion.train()

    def show(self, samples: list[Sample]) -> None:
        """The pictures of the next steps."""
        self.pictures = official.pad([picture for picture, _, _ in samples]).to(self.device)
        targets = official.to_dicts([target for _, target, _ in samples])
        self.targets = [{name: value.to(self.device) for name, value in target.items()} for target in targets]

    def step(self) -> dict[str, float]:
        """As train_one_epoch of its engine.py."""
        watch = Stopwatch()
        watch.start()
        with self.context():
            outputs = self.model(self.pictures)
            watch.mark("forward")
            losses = self.criterion(outputs, self.targets)
            total = official.total_loss(self.criterion, losses)
        watch.mark("losses")
        for value in losses.values():  # what it logs
            value.item()
        watch.mark("other")
        self.optimizer.zero_grad()
        total.backward()
        watch.mark("backward")
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        watch.mark("update")
        return watch.parts


class OurSide:
    """A `Trainer` as a run has it, over a data set whose pictures are never read."""

    def __init__(self, config: RunConfig, samples: list[Sample], num_classes: int, folder: Path) -> None:
        """Assemble it; a backbone with weights from a file is fixed in parts, as a pretrained one."""
        classes = LabelMap(tuple(range(num_classes)), tuple(f"class {number}" for number in range(num_classes)))
        index = index_of_records([record for _, _, record in samples], classes, Path("annotations.json"))
        with console.capture() as said:
            self.trainer = assemble(config, index, None, folder / "run", time.time())
        trainer, self.steps = self.trainer, 0
        self.model, self.optimizer = trainer.model, trainer.optimizer
        self.show(samples)
        if (folder / "model.pt").is_file():
            trainer.checkpoint.model.load_state_dict(torch.load(folder / "model.pt"), strict=True)
        trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        chosen = [line for line in said.get().splitlines() if line.startswith("chosen")]
        precision = trainer.config.train.precision
        loss = self.loss() if config.model.query_source == "learned" else 0.0
        self.facts = {"loss": loss, "precision": precision, "trained": trained, "chosen": chosen}
        train_mode(trainer.model)

        self.watch = watch = Stopwatch()
        trainer.model.register_forward_pre_hook(lambda *_: watch.mark("other"))
        trainer.model.register_forward_hook(lambda *_: watch.mark("forward"))
        trainer.accelerator.backward = self.timed(trainer.accelerator.backward, before="losses", part="backward")
        trainer.step.update_weights = self.timed(trainer.step.update_weights, before="other", part="update")

    def show(self, samples: list[Sample]) -> None:
        """The pictures of the next steps."""
        device, (batch, targets) = self.trainer.accelerator.device, collate(samples)
        self.micro_batches = [(batch.to(device), targets.to(device))]

    def timed(self, work: Callable[..., None], before: str, part: str) -> Callable[..., None]:
        """The same work, between two marks of the watch."""

        def timed(*arguments: Any) -> None:
            self.watch.mark(before)
            work(*arguments)
            self.watch.mark(part)

        return timed

    @torch.no_grad()
    def loss(self) -> float:
        """Without dropout, to be compared."""
        trainer, ((batch, targets),) = self.trainer, self.micro_batches
        with autocast(trainer.accelerator.device, trainer.config.train.precision):
            output = trainer.model.eval()(batch.images, batch.padding_mask)
        criterion = trainer.step.criterion
        return float(criterion(output, targets, None, criterion.normalisers(targets, None)).total)

    def step(self) -> dict[str, float]:
        """As `Trainer.train_epoch` steps, in the middle of a run."""
        trainer = self.trainer
        self.watch.start()
        set_learning_rates(trainer.optimizer, 0.5, trainer.config.train)
        trainer.step(self.micro_batches)
        self.watch.mark("other")
        self.steps += 1
        if trainer.averaged is not None:
            trainer.averaged.update(self.steps, 0.5)
            self.watch.mark("update")
        assert trainer.step.skipped == 0, "a gradient was not finite"
        return self.watch.parts


def official_side(folder: Path, padded: bool, keep_memory: bool) -> OfficialSide:
    if keep_memory:
        keep_freed_memory()
    return OfficialSide(paper_config(), paper_samples(padded), folder)


def paper_side(folder: Path, padded: bool, precision: str) -> OurSide:
    values = {"model.backbone_weights": str(folder / "backbone.pt"), "train.precision": precision}
    return OurSide(paper_config().with_values(values, "this benchmark"), paper_samples(padded), PAPER_CLASSES, folder)


def fast_side(folder: Path, padded: bool, precision: str) -> OurSide:
    config = load_recipe("fast")
    torch.manual_seed(SEED)
    torch.save(timm.create_model(config.model.backbone, pretrained=False).state_dict(), folder / "backbone.pt")
    values = {
        "model.backbone_weights": str(folder / "backbone.pt"), "train.precision": precision, "train.device": "cpu",
        "train.batch_size": FAST_BATCH, "data.image_size": FAST_HEIGHT,
    }  # fmt: skip
    samples = random_samples([(FAST_HEIGHT, FAST_WIDTH)] * FAST_BATCH, FAST_CLASSES)
    return OurSide(config.with_values(values, "this benchmark"), samples, FAST_CLASSES, folder)


def compiled_side(build: Callable[..., OurSide], name: str, folder: Path, padded: bool) -> OurSide:
    """The same side, regions of it compiled when they are first run: forward and backward, for its shapes.

    Nothing that an earlier run compiled is used. Whether it computes the same is not compared: the loss that all sides
    are compared by is that of the regions as they are written.
    """
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / name.replace(" ", "-"))  # it quotes no spaces
    side = build(folder, padded)
    for module in side.trainer.model.modules():
        if isinstance(module, COMPILED[name]):
            module.compile()
    return side


SIDES: dict[str, dict[str, Callable[[Path, bool], OfficialSide | OurSide]]] = {
    "paper": {
        "official code": partial(official_side, keep_memory=False),
        "official, memory kept": partial(official_side, keep_memory=True),
        PLAIN: partial(paper_side, precision="fp32"),
        **{name: partial(compiled_side, partial(paper_side, precision="fp32"), name) for name in COMPILED},
        "opendetr bf16": partial(paper_side, precision="auto"),
    },
    "fast": {
        PLAIN: partial(fast_side, precision="fp32"),
        **{name: partial(compiled_side, partial(fast_side, precision="fp32"), name) for name in COMPILED},
        "opendetr bf16": partial(fast_side, precision="auto"),
    },
}


def serve(pipe: Connection, recipe: str, side: str, folder: Path, padded: bool) -> None:
    """The life of a side's process: build, then a step whenever asked, then its memory."""
    built = SIDES[recipe][side](folder, padded)
    pipe.send(built.facts | {"megabytes": peak_megabytes()})
    while pipe.recv() == "step":
        pipe.send(built.step())
    pipe.send(peak_megabytes())


def peak_megabytes() -> float:
    """The most memory this process has had (resident set), in 10^6 bytes."""
    import resource  # Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


@dataclass
class Remote:
    """A side in its own process."""

    pipe: Connection
    facts: dict[str, Any]
    warm_up: float = 0.0  # seconds
    steps: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def start(cls, *arguments: Any) -> "Remote":
        """Begin; arguments of `serve`. Returns when it is built."""
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        context.Process(target=serve, args=(there, *arguments), daemon=True).start()
        there.close()  # so that its end is noticed here
        return cls(here, here.recv())

    def ask(self, what: str) -> Any:
        """Its answer."""
        self.pipe.send(what)
        return self.pipe.recv()

    def milliseconds(self, part: str | None = None) -> float:
        """Median over the steps, of the whole step or a part."""
        return median(step[part] if part else sum(step.values()) for step in self.steps) * 1000


def describe_compiling(plain: Remote, compiled: Remote) -> str:
    """What compiling cost, and when it pays."""
    cost = compiled.warm_up - plain.warm_up
    gain = (plain.milliseconds() - compiled.milliseconds()) / 1000
    effect = f"less: it pays after {cost / gain:.0f} steps" if gain > 0 else "more: it never pays"
    return f"compiling took {cost:.1f} s of the first steps; each later one takes {abs(gain) * 1000:.1f} ms {effect}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", choices=("paper", "fast"), default="paper")
    parser.add_argument("--rounds", type=int, help=f"steps of each side (default {ROUNDS})")
    parser.add_argument("--padded", action="store_true", help="paper: one of the two pictures is narrower")
    parser.add_argument("--compile", action="store_true", help="also ours with compiled regions")
    options = parser.parse_args()
    recipe, rounds = options.recipe, options.rounds or ROUNDS[options.recipe]
    if options.padded and recipe == "fast":
        parser.error("--padded: the recipe fast never pads")

    sides: dict[str, Remote] = {}
    remarks = []
    with tempfile.TemporaryDirectory() as folder:
        for name in SIDES[recipe]:
            if name in COMPILED and not options.compile:
                continue
            side = Remote.start(recipe, name, Path(folder), options.padded)
            if name.endswith("bf16") and side.facts["precision"] != "bf16":
                remarks.append("no bf16 here; " + next(line for line in side.facts["chosen"] if "precision" in line))
                side.ask("end")
            else:
                sides[name] = side
        first = next(iter(sides.values())).facts
        for side in sides.values():  # the same work
            assert side.facts["trained"] == first["trained"]
            torch.testing.assert_close(
                side.facts["loss"], first["loss"], rtol=TOLERANCE[side.facts["precision"]], atol=0
            )
        for turn in range(WARM_UP_ROUNDS + rounds):
            for side in sides.values():  # in turn, so that what else the machine does falls on all
                parts = side.ask("step")
                if turn >= WARM_UP_ROUNDS:
                    side.steps.append(parts)
                else:
                    side.warm_up += sum(parts.values())
        memory = {name: side.ask("end") for name, side in sides.items()}

    if recipe == "fast":
        pictures, shapes = FAST_BATCH, f"{FAST_WIDTH}x{FAST_HEIGHT}, {FAST_CLASSES} classes"
    else:
        other = f" and {PADDED_WIDTH}x{HEIGHT}" if options.padded else ""
        pictures, shapes = 2, f"{WIDTH}x{HEIGHT}{other}, {PAPER_CLASSES} classes"
    print(f"a training step of the recipe {recipe}: {pictures} pictures of {shapes},")
    print(f"{first['trained'] / 1e6:.1f} million weights trained; medians of {rounds} rounds, seed {SEED}")
    print(f"  milliseconds{'step':>18}{'ratio':>7}{'pictures/s':>12}" + "".join(f"{part:>10}" for part in PARTS))
    peer = next(iter(sides.values()))
    for name, side in sides.items():
        ratio = f"{peer.milliseconds() / side.milliseconds():7.2f}" if recipe == "paper" else " " * 7
        parts = "".join(f"{side.milliseconds(part):10.1f}" for part in PARTS)
        print(f"  {name:22}{side.milliseconds():8.1f}{ratio}{pictures / side.milliseconds() * 1000:12.2f}{parts}")
    print("losses: with matching; update: clipping, AdamW, averaging; other: figures to log, denoising queries")
    print(f"  {'megabytes':22}{'peak':>8}{'before the first step':>24}")
    for name, side in sides.items():
        print(f"  {name:22}{memory[name]:8.0f}{side.facts['megabytes']:24.0f}")
    if options.compile:
        remarks += [f"{name}: {describe_compiling(sides[PLAIN], sides[name])}" for name in COMPILED]
    print("\n".join(remarks + list(sides.values())[-1].facts["chosen"]))
    print(f"{describe_machine()}, {platform.platform()}, {os.cpu_count()} CPUs")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__},")
    print(f"timm {timm.__version__}, {date.today()}")


if __name__ == "__main__":
    main()
