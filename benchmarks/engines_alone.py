"""The model only, every engine in a process of its own, against the official code: each as it runs by itself.

Run `python benchmarks/engines_alone.py MODEL --size 800x1066`; tests/parity/official.py says where the official code
has to be. `opendetr benchmark` compares in one process, whose memory the sides share: pages that one has touched come
cheaper to the next, and the official code spends a third of its time on getting them. The sides take turns. Leave the
sides in bf16 out (`--sides`) where the processor has none.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "parity"))  # official.py says where the official code is
import official

from opendetr.benchmarking.benchmark import provenance
from opendetr.benchmarking.peers import load_peer
from opendetr.benchmarking.sides import OwnSide, Side, write_for_peer
from opendetr.benchmarking.timing import Clock
from opendetr.checkpoints.loading import load_checkpoint

SIDES = ("official fp32", "torch fp32", "torch bf16", "onnxruntime fp32", "openvino fp32", "openvino bf16")
SEED, WARM_UP_ROUNDS = 0, 2


def build(side: str, model: str, written: Path) -> Side:
    engine, precision = side.split()
    if engine == "official":
        return load_peer(engine, written, torch.device("cpu"))
    checkpoint = load_checkpoint(model)
    return OwnSide(checkpoint, checkpoint.preprocessing, engine, precision, "cpu")


def serve(pipe: Connection, side: str, model: str, written: Path, height: int, width: int) -> None:
    """The life of a side's process: build, then a turn whenever asked."""
    built = build(side, model, written)
    torch.manual_seed(SEED)
    images = torch.randn(1, 3, height, width)
    pipe.send("ready")
    while pipe.recv() == "turn":
        clock = Clock({"answer": partial(built.answer, images)})
        clock.tick()
        pipe.send(clock.seconds["answer"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a checkpoint of the paper's model")
    parser.add_argument("--size", default="800x1066", help="HEIGHTxWIDTH of the model's input (default %(default)s)")
    parser.add_argument(
        "--sides", nargs="+", choices=SIDES, default=SIDES, help="by default all; ratios refer to the first"
    )
    parser.add_argument("--rounds", type=int, default=20, help="turns of each side (default %(default)s)")
    given = parser.parse_args()
    height, width = map(int, given.size.split("x"))
    os.environ.setdefault("OPENDETR_PEERS", str(official.folder()))
    context, pipes = multiprocessing.get_context("spawn"), {}
    with tempfile.TemporaryDirectory() as folder:
        written = write_for_peer(load_checkpoint(given.model), "official", Path(folder) / "official")
        for side in given.sides:
            pipes[side], there = context.Pipe()
            context.Process(target=serve, args=(there, side, given.model, written, height, width), daemon=True).start()
            there.close()  # so that its end is noticed here
            assert pipes[side].recv() == "ready"
        seconds: dict[str, list[float]] = {side: [] for side in given.sides}
        for turn in range(WARM_UP_ROUNDS + given.rounds):
            for side, pipe in pipes.items():  # in turn, so that what else the machine does falls on all
                pipe.send("turn")
                taken = pipe.recv()
                seconds[side] += taken if turn >= WARM_UP_ROUNDS else []
        for pipe in pipes.values():
            pipe.send("end")

    peer = median(seconds[given.sides[0]])
    print(f"\n{height}x{width}, batch 1, medians of {len(seconds[given.sides[0]])} calls\n")
    print(f"| | ms | times {given.sides[0]} |\n|---|---|---|")
    for side, taken in seconds.items():
        print(f"| {side} | {median(taken) * 1000:.0f} | {peer / median(taken):.2f} |")
    print(f"\n{provenance('openvino', 'onnxruntime')}")


if __name__ == "__main__":
    main()
