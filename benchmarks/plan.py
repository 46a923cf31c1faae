"""What a large run needs, from measured figures: operations, hours, loader throughput and gradient traffic.

Run `python benchmarks/plan.py`; every assumption is an option. It measures nothing: give it what was measured.
"""

import argparse
from typing import NamedTuple


class Work(NamedTuple):
    """A training, counted in pictures."""

    name: str
    pictures: int  # of the data set
    epochs: int

    @property
    def seen(self) -> int:
        """Pictures that pass through the model."""
        return self.pictures * self.epochs


# COCO train2017 with the paper's long schedule; Objects365 v1's training split with a schedule of equal kind.
WORKS = (Work("COCO, 500 epochs", 118_287, 500), Work("Objects365, 50 epochs", 608_606, 50))
GPUS = (1, 8, 64)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--gmac", type=float, default=81.2, help="billion multiply-adds of a picture, forward: R50 at 800x1066"
    )
    parser.add_argument("--passes", type=float, default=3.0, help="a training step in forward passes")
    parser.add_argument("--parameters", type=float, default=41.3e6, help="that are trained")
    parser.add_argument("--gradient-bytes", type=float, default=4.0, help="per parameter on the wire; bf16 would be 2")
    parser.add_argument("--hidden", type=float, default=2 / 3, help="of a step in which gradients can travel: backward")
    parser.add_argument("--batch", type=int, default=4, help="pictures per GPU and step")
    parser.add_argument("--tflops", type=float, default=100.0, help="of a GPU, its peak in the precision that is used")
    parser.add_argument("--utilisation", type=float, default=0.35, help="of the peak that a training reaches")
    parser.add_argument("--loader", type=float, default=45.0, help="pictures/s that one CPU core reads and transforms")
    return parser.parse_args()


def ring_bytes(size: float, gpus: int) -> float:
    """What every GPU sends in a ring all-reduce of `size` bytes: 2 (n - 1) / n of it."""
    return 2 * (gpus - 1) / gpus * size


def main() -> None:
    given = options()
    per_picture = given.gmac * 2e9 * given.passes
    rate = given.tflops * 1e12 * given.utilisation / per_picture  # pictures/s of a GPU
    step = given.batch / rate
    reached, milliseconds = f"{given.utilisation:.0%} of {given.tflops:.0f} TFLOP/s", f"{step * 1000:.0f} ms"
    print(f"A picture takes {per_picture / 1e9:.0f} GFLOP to learn from: {rate:.0f} pictures/s on a GPU that sustains")
    print(f"{reached}; a step of {given.batch} pictures takes {milliseconds}.\n")
    header = ["run", "GPUs", "FLOP", "hours", "pictures/s", "loader cores", "sent per step", "network"]
    print(f"| {' | '.join(header)} |\n{'|---' * len(header)}|")
    for work in WORKS:
        for gpus in GPUS:
            sent = ring_bytes(given.parameters * given.gradient_bytes, gpus)
            cells = [
                work.name, str(gpus), f"{work.seen * per_picture:.1e}", f"{work.seen / rate / gpus / 3600:.0f}",
                f"{rate * gpus:.0f}", f"{rate * gpus / given.loader:.0f}", f"{sent / 1e6:.0f} MB",
                f"{sent / (step * given.hidden) / 1e9:.1f} GB/s",
            ]  # fmt: skip
            print(f"| {' | '.join(cells)} |")
    print("\nNetwork: what every GPU must send and receive for the gradients to arrive during the backward pass.")


if __name__ == "__main__":
    main()
