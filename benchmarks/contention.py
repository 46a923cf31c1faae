"""How much of the processor that is fairly ours do we use beside other programs?

Run `python benchmarks/contention.py`. Work: steps of the recipe `fast` (8 pictures of 128x128) and of the recipe
`paper` (DETR-R50, 2 pictures of 256x320), and prediction with DETR-R50 (480x640). Company: none, one and two programs
that keep a core busy, and another PyTorch program that multiplies matrices with two threads. Every measurement is a
process of its own, which begins when its company is there already:

as it comes  PyTorch's number of threads, waiting as its OpenMP waits: opendetr until 2026-11
ours         `set_waiting_policy`, a number of threads that is measured (`settle_threads`) and, in training, watched

Of C cores, C / (C + busy threads of others) are fairly ours. The figure is the pictures per second, as a share of what
PyTorch as it comes does alone, over that share of the processor.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
BUSY = "while True: pass"
MATRICES = "import torch; torch.set_num_threads(2); a = torch.randn(512, 512)\nwhile True: a @ a"
COMPANY = {"alone": [], "1 busy program": [BUSY], "2 busy programs": [BUSY] * 2, "2 threads of PyTorch": [MATRICES]}
BUSY_THREADS = {"alone": 0, "1 busy program": 1, "2 busy programs": 2, "2 threads of PyTorch": 2}
WORK = ("fast", "paper", "predict")
VARIANTS = ("as it comes", "ours")
BAR = 0.7


def fast_step(folder: Path) -> tuple[Callable[[], None], int, int]:
    """A step, its pictures and its pixels."""
    import training_step as steps

    steps.FAST_HEIGHT = steps.FAST_WIDTH = 128
    side = steps.fast_side(folder, False, "fp32")
    return lambda: void(side.step()), steps.FAST_BATCH, steps.FAST_BATCH * 128 * 128


def paper_step(folder: Path) -> tuple[Callable[[], None], int, int]:
    """A step, its pictures and its pixels."""
    import timm
    import torch
    import training_step as steps

    torch.manual_seed(steps.SEED)
    torch.save(timm.create_model("resnet50.tv_in1k", pretrained=False).state_dict(), folder / "backbone.pt")
    values = {"model.backbone_weights": str(folder / "backbone.pt")}
    samples = steps.random_samples([(256, 320)] * 2, steps.PAPER_CLASSES)
    config = steps.paper_config().with_values(values, "this benchmark")
    side = steps.OurSide(config, samples, steps.PAPER_CLASSES, folder)
    return lambda: void(side.step()), 2, 2 * 256 * 320


def prediction(folder: Path) -> tuple[Callable[[], None], int, int]:
    """A prediction, its picture and its pixels."""
    import numpy as np
    import torch

    from opendetr.checkpoints.native import Checkpoint
    from opendetr.config import resolve_config
    from opendetr.data.transforms import Preprocessing
    from opendetr.inference.detector import Detector
    from opendetr.labels import LabelMap
    from opendetr.model.detr import build_model

    torch.manual_seed(0)
    config = resolve_config(preset="detr-r50", options={"model.backbone_weights": "none"})
    classes = LabelMap(tuple(range(91)), tuple(map(str, range(91))))
    preprocessing = Preprocessing(480, 800, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    model = build_model(config.model, config.loss, 91)
    detector = Detector.of_checkpoint(Checkpoint(model, config, classes, preprocessing, {}, folder), "cpu")
    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    return lambda: void(detector.predict(picture)), 1, 480 * 640


def void(result: object) -> None:
    """Nothing is done with it."""


def measure(work: str, ours: bool, seconds: float) -> None:
    """The life of a measuring process: print pictures per second and the number of threads."""
    from opendetr.threads import set_waiting_policy, settle_threads

    if ours:
        set_waiting_policy()
    import torch

    build = {"fast": fast_step, "paper": paper_step, "predict": prediction}[work]
    threads = settle_threads(measure=True) if ours else None
    with tempfile.TemporaryDirectory() as folder:
        step, pictures, pixels = build(Path(folder))
        for _ in range(3):
            step()
        begun, done = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            before = time.perf_counter()
            step()
            done += pictures
            if threads is not None and work != "predict":  # prediction settles it once
                threads.observe(time.perf_counter() - before, pixels)
        rate = done / (time.perf_counter() - begun)
    print("\n" + json.dumps({"rate": rate, "threads": torch.get_num_threads()}))


@contextmanager
def company(name: str) -> Iterator[None]:
    """Other programs that compute."""
    others = [subprocess.Popen([sys.executable, "-c", code]) for code in COMPANY[name]]
    try:
        if others:
            time.sleep(3)  # until they compute
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def rate_of(work: str, variant: str, seconds: float) -> tuple[float, int]:
    """Pictures per second and threads, of a process of its own."""
    command = [sys.executable, __file__, "--measure", work, "--seconds", str(seconds)]
    if variant == "ours":
        command.append("--ours")
    found = subprocess.run(command, capture_output=True, text=True, cwd=HERE)
    if found.returncode:
        raise SystemExit(found.stderr)
    line = json.loads(found.stdout.splitlines()[-1])
    return line["rate"], line["threads"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=WORK, action="append", help="work (default: all)")
    parser.add_argument("--beside", choices=tuple(COMPANY), action="append", help="company (default: all)")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--measure", choices=WORK, help=argparse.SUPPRESS)
    parser.add_argument("--ours", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.ours, arguments.seconds)
        return
    sys.path.insert(0, str(HERE))
    from opendetr.devices import describe_machine
    from opendetr.threads import available_cores

    cores = available_cores()
    print(f"{describe_machine()}; {date.today()}; {arguments.rounds} x {arguments.seconds:g} s, medians; seed 0\n")
    print("| work | beside | fair share | as it comes, pictures/s | of the fair share | ours | of it | threads |")
    print("|---|---|---|---|---|---|---|---|")
    missed = []
    for work in arguments.only or WORK:
        quiet = 0.0
        for name in dict.fromkeys(["alone", *(arguments.beside or COMPANY)]):
            rates: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
            threads = []
            with company(name):
                for _ in range(arguments.rounds):
                    for variant, found in rates.items():
                        rate, count = rate_of(work, variant, arguments.seconds)
                        found.append(rate)
                        threads += [count] if variant == "ours" else []
            before, after = (median(found) for found in rates.values())
            quiet = quiet or before
            fair = cores / (cores + BUSY_THREADS[name])
            shares = [rate / quiet / fair for rate in (before, after)]
            missed += [f"{work} beside {name}"] if shares[1] < BAR else []
            print(
                f"| {work} | {name} | {fair:.2f} | {before:.2f} | {shares[0]:.0%} | {after:.2f} | {shares[1]:.0%} | "
                f"{', '.join(map(str, threads))} |",
                flush=True,
            )
    print(f"\nBelow {BAR:.0%} of the fair share: {', '.join(missed) or 'nothing'}.")


if __name__ == "__main__":
    os.environ.pop("OMP_NUM_THREADS", None)  # it would settle the number
    main()
