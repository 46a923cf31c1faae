"""Matching, losses and backward of one step: ours against the official code, on the same tensors.

Run `python benchmarks/criterion.py`; tests/parity/official.py says where the official code has to be. Each side gets
the targets as its own data loader gives them, outside the clock; both also compute the figures they log.
"""

import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median

import scipy
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "parity"))  # official.py loads the official code
import official

from opendetr.config import LossConfig
from opendetr.loss.criterion import LossWeights, Normalisers, set_loss, statistics
from opendetr.loss.matcher import CostWeights, match
from opendetr.scoring import SoftmaxScoring
from opendetr.structures import DetrOutput, Target, Targets

NUM_LAYERS, NUM_PICTURES, NUM_QUERIES, NUM_CLASSES, MOST_OBJECTS = 6, 16, 100, 91, 19
SEED, WARM_UP_ROUNDS, ROUNDS = 0, 5, 40


def random_output() -> DetrOutput:
    shape = (NUM_LAYERS, NUM_PICTURES, NUM_QUERIES)
    logits, boxes = torch.randn(*shape, NUM_CLASSES + 1), torch.rand(*shape, 4)
    return DetrOutput(logits.requires_grad_(), boxes.requires_grad_())


def random_target() -> Target:
    count = int(torch.randint(1, MOST_OBJECTS + 1, ()))
    return Target(torch.randint(NUM_CLASSES, (count,)), torch.rand(count, 4) * 0.5 + 0.05)


def our_step(output: DetrOutput, targets: Targets) -> Tensor:
    scoring = SoftmaxScoring()
    matches = match(output, targets, scoring, CostWeights())
    normalisers = Normalisers.of_batch(targets, NUM_QUERIES, scoring)
    total = LossWeights().total(set_loss(output, targets, matches, scoring, normalisers))
    statistics(output, targets, matches, scoring)
    total.backward()
    return total


def official_step(criterion: torch.nn.Module, output: DetrOutput, targets: list[dict[str, Tensor]]) -> Tensor:
    total = official.total_loss(criterion, criterion(official.to_dict(output), targets))
    total.backward()
    return total


def milliseconds(step: Callable[[], Tensor], output: DetrOutput) -> float:
    for tensor in output:
        tensor.grad = None
    start = time.perf_counter()
    step()
    return (time.perf_counter() - start) * 1000


def main() -> None:
    torch.manual_seed(SEED)
    output, targets = random_output(), [random_target() for _ in range(NUM_PICTURES)]
    padded, dicts = Targets.stack(targets), official.to_dicts(targets)
    criterion = official.build_criterion(LossConfig(), NUM_CLASSES, NUM_LAYERS)
    steps = {
        "opendetr": lambda: our_step(output, padded),
        "official": lambda: official_step(criterion, output, dicts),
    }
    torch.testing.assert_close(*(step() for step in steps.values()))

    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(WARM_UP_ROUNDS + ROUNDS):
        for name, step in steps.items():  # in turn, so that what else the machine does falls on both
            taken = milliseconds(step, output)
            if turn >= WARM_UP_ROUNDS:
                times[name].append(taken)

    ours, theirs = median(times["opendetr"]), median(times["official"])
    print(f"matching, losses and backward: {NUM_LAYERS} layers, {NUM_QUERIES} queries, {NUM_CLASSES + 1} logits,")
    print(f"{NUM_PICTURES} pictures with 1 to {MOST_OBJECTS} boxes; medians of {ROUNDS} rounds, seed {SEED}")
    print(f"  opendetr {ours:6.1f} ms\n  official {theirs:6.1f} ms\n  ratio    {theirs / ours:6.1f}")
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, scipy {scipy.__version__}, {date.today()}")


if __name__ == "__main__":
    main()
