"""Does a training take more memory with every epoch? The resident memory of its process and of its loader processes.

Run `python benchmarks/memory_epochs.py DATA`. It starts `opendetr train` with two loader processes and no cache, and
looks at the memory of all its processes five times a second. A row is the end of an epoch: the median of the last looks
before its line in the log, in MiB, and its share of the end of the first epoch. Resident memory (RSS) counts pages that
processes share in each of them.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from opendetr.training.run_folder import read_metrics

LOOKS = 10  # whose median is the end of an epoch
SECONDS = 0.2  # between two looks


def memory(process: psutil.Process) -> list[float]:
    """RSS of a process and of all its children, in MiB."""
    found = [process.memory_info().rss]
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found.append(child.memory_info().rss)
    return [found[0] / 2**20, sum(found[1:]) / 2**20]


def main() -> None:
    """Train, look, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", help="a data set with the splits train and val")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=192)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run, log = Path(temporary) / "run", Path(temporary) / "log.txt"
        command = [
            sys.executable, "-m", "opendetr", "train", "--data", options.data, "--output", str(run), "--workers", "2",
            "--cache", "none", "--epochs", str(options.epochs), "--image-size", str(options.image_size), "--device",
            "cpu", "--precision", "fp32",
        ]  # fmt: skip
        with log.open("w") as output:
            training = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
            process, looks, ends = psutil.Process(training.pid), list[list[float]](), list[list[float]]()
            while training.poll() is None:
                with suppress(psutil.NoSuchProcess):
                    looks.append(memory(process))
                epochs = [line for line in read_metrics(run) if line["kind"] == "epoch"]
                if len(epochs) > len(ends):
                    ends.append([statistics.median(values) for values in zip(*looks[-LOOKS:], strict=True)])
                time.sleep(SECONDS)
        if training.returncode:
            raise SystemExit(log.read_text())
    print("| end of epoch | training | loaders | all, MiB | of the first |\n|---|---|---|---|---|")
    for number, (own, loaders) in enumerate(ends, 1):
        share = (own + loaders) / sum(ends[0])
        print(f"| {number} | {own:.0f} | {loaders:.0f} | {own + loaders:.0f} | {share:.3f} |")


if __name__ == "__main__":
    main()
