"""Which part of its fair share of the processor does opendetr use beside other programs?

Run `python benchmarks/contention.py`. It times steps of the recipe `fast` (8 pictures of 128x128) and of the recipe
`paper` (DETR-R50, 2 pictures of 256x320), and prediction with DETR-R50 (480x640) by PyTorch, ONNX Runtime and
OpenVINO, as far as they are installed. Each runs alone, beside one and two programs that keep a core busy, and beside a
PyTorch program that multiplies matrices with two threads. The two variants run in their own processes and take turns:

defaults  PyTorch's number of threads and the waiting of OpenMP and the engines: opendetr until 2026-11
ours      `set_waiting_policy`, a measured number of threads (`settle_threads`), which training measures again

The fair share of C cores is C / (C + busy threads of others). The figure is pictures per second, relative to the same
work alone with the defaults, divided by the fair share. The preparation of a turn (measuring threads, building an
engine) is not timed; the work of `observe` during the turn is.
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
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

HERE = Path(__file__).parent
BUSY = "while True: pass"
MATRICES = "import torch; torch.set_num_threads(2); a = torch.randn(512, 512)\nwhile True: a @ a"
COMPANY = {"alone": [], "1 busy program": [BUSY], "2 busy programs": [BUSY] * 2, "2 threads of PyTorch": [MATRICES]}
BUSY_THREADS = {"alone": 0, "1 busy program": 1, "2 busy programs": 2, "2 threads of PyTorch": 2}
WORK = ("fast", "paper", "predict", "onnxruntime", "openvino")
VARIANTS = ("defaults", "ours")
BAR, SEED, WARM_UP = 0.7, 0, 3


class Work(NamedTuple):
    """What is timed."""

    run: Callable[[], object]
    pictures: int  # of a run
    pixels: int
    is_watched: bool


def fast_step(folder: Path, graph: str) -> Work:
    import training_step as steps

    steps.FAST_HEIGHT = steps.FAST_WIDTH = 128
    return Work(steps.fast_side(folder, False, "fp32").step, steps.FAST_BATCH, steps.FAST_BATCH * 128 * 128, True)


def paper_step(folder: Path, graph: str) -> Work:
    import timm
    import torch
    import training_step as steps

    torch.manual_seed(SEED)
    torch.save(timm.create_model("resnet50.tv_in1k", pretrained=False).state_dict(), folder / "backbone.pt")
    values = {"model.backbone_weights": str(folder / "backbone.pt")}
    samples = steps.random_samples([(256, 320)] * 2, steps.PAPER_CLASSES)
    config = steps.paper_config().with_values(values, "this benchmark")
    return Work(steps.OurSide(config, samples, steps.PAPER_CLASSES, folder).step, 2, 2 * 256 * 320, True)


def make_checkpoint() -> Any:
    """DETR-R50 with random weights."""
    import torch

    from opendetr.checkpoints.native import Checkpoint
    from opendetr.checkpoints.origin import Origin
    from opendetr.data.transforms import Preprocessing
    from opendetr.labels import LabelMap
    from opendetr.model.build import build_model
    from opendetr.recipes.recipe import resolve_config

    torch.manual_seed(SEED)
    config = resolve_config(preset="detr-r50", options={"model.backbone_weights": "none"})
    classes = LabelMap(tuple(range(91)), tuple(map(str, range(91))))
    preprocessing = Preprocessing(480, 800, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return Checkpoint(build_model(config.model, config.loss, 91), config, classes, preprocessing, Origin(), Path("r50"))


def write_graph(path: Path) -> None:
    """The same model for the engines; nothing is certified: random weights say the same about every picture."""
    from opendetr.engines.file_kinds import write_file
    from opendetr.exporting.exported_file import metadata_of
    from opendetr.exporting.graph import export_program, to_onnx

    model = make_checkpoint()
    program = export_program(model, with_preprocessing=False, with_attention=False)
    write_file(to_onnx(program), path, metadata_of(model, "fp32", {"images": "float32"}))


def prediction(engine: str) -> Callable[[Path, str], Work]:
    def build(folder: Path, graph: str) -> Work:
        import numpy as np

        from opendetr.inference.detector import Detector

        if engine == "torch":
            detector = Detector.of_checkpoint(make_checkpoint(), "cpu")
        else:
            detector = Detector.load(graph, engine=engine)  # type: ignore[arg-type]
        picture = np.random.default_rng(SEED).integers(0, 256, (480, 640, 3), dtype=np.uint8)
        return Work(lambda: detector.predict(picture), 1, 480 * 640, False)

    return build


def leave_engines_alone() -> None:
    """Take back what our engines are told about waiting and about cores."""
    from opendetr.engines.engine import is_installed

    if is_installed("onnxruntime"):
        import onnxruntime

        onnxruntime.SessionOptions.add_session_config_entry = lambda *_: None
    if is_installed("openvino"):
        import openvino

        compile_model = openvino.Core.compile_model

        def compile_as_it_comes(core: Any, graph: Any, device: str, settings: dict[str, Any]) -> Any:
            del settings["ENABLE_CPU_PINNING"]
            return compile_model(core, graph, device, settings)

        openvino.Core.compile_model = compile_as_it_comes


BUILDERS = {
    "fast": fast_step,
    "paper": paper_step,
    "predict": prediction("torch"),
    "onnxruntime": prediction("onnxruntime"),
    "openvino": prediction("openvino"),
}


def serve(name: str, graph: str, *, ours: bool) -> None:
    """The life of a variant: whenever a number of seconds comes in, pictures per second and threads go out."""
    from opendetr.openmp import set_waiting_policy
    from opendetr.threads import settle_threads

    if ours:
        set_waiting_policy()
    else:
        leave_engines_alone()
    import torch

    usual, work = torch.get_num_threads(), None
    with tempfile.TemporaryDirectory() as folder:
        print("ready", flush=True)
        for line in sys.stdin:
            torch.set_num_threads(usual)  # every turn begins as a program does
            threads = settle_threads(measure=True) if ours else None
            if work is None or name in ("onnxruntime", "openvino"):  # they keep the number they are built with
                work = BUILDERS[name](Path(folder), graph)
            for _ in range(WARM_UP):
                work.run()
            begun, runs = time.perf_counter(), 0
            while time.perf_counter() - begun < float(line):
                before = time.perf_counter()
                work.run()
                runs += 1
                if threads is not None and work.is_watched:
                    threads.observe(time.perf_counter() - before, work.pixels)
            rate = runs * work.pictures / (time.perf_counter() - begun)
            print(json.dumps({"rate": rate, "threads": torch.get_num_threads()}), flush=True)


@contextmanager
def company(name: str) -> Iterator[None]:
    """Other programs that compute."""
    others = [subprocess.Popen([sys.executable, "-c", code]) for code in COMPANY[name]]
    try:
        if others:
            time.sleep(4)  # until they compute
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


class Variant:
    """A process that measures when it is asked."""

    def __init__(self, work: str, variant: str, graph: Path) -> None:
        command = [sys.executable, __file__, "--serve", work, "--graph", str(graph)]
        self.process = subprocess.Popen(
            command + ["--ours"] * (variant == "ours"), cwd=HERE, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.answer_after("ready")

    def answer_after(self, word: str) -> str:
        """The next line that begins so; what the work says is passed over."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(word):
                return line
        raise SystemExit(f"a measuring process ended with {self.process.wait()}")

    def measure(self, seconds: float) -> dict[str, float]:
        """`rate`, in pictures per second, and `threads`."""
        assert self.process.stdin is not None
        print(seconds, file=self.process.stdin, flush=True)
        found: dict[str, float] = json.loads(self.answer_after('{"rate"'))
        return found


def measure_work(work: str, companies: list[str], graph: Path, seconds: float, rounds: int) -> Iterator[list[str]]:
    """Rows of the table."""
    from opendetr.cores import available_cores

    cores, variants, quiet = available_cores(), [Variant(work, variant, graph) for variant in VARIANTS], 0.0
    try:
        for name in companies:
            found: list[list[dict[str, float]]] = [[] for _ in variants]
            with company(name):
                for _ in range(rounds):
                    for variant, answers in zip(variants, found):
                        answers.append(variant.measure(seconds))
            before, after = (median(answer["rate"] for answer in answers) for answers in found)
            quiet = quiet or before
            fair = cores / (cores + BUSY_THREADS[name])
            threads = ", ".join(str(answer["threads"]) for answer in found[1])
            shares = [f"{rate / quiet / fair:.0%}" for rate in (before, after)]
            missed = "below the bar" if after / quiet / fair < BAR else ""
            yield [
                work, name, f"{fair:.2f}", f"{before:.2f}", shares[0], f"{after:.2f}", shares[1], threads, missed,
            ]  # fmt: skip
    finally:
        for variant in variants:
            variant.process.kill()
            variant.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=WORK, action="append", help="work (default: all that is installed)")
    parser.add_argument("--beside", choices=tuple(COMPANY), action="append", help="company (default: all)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a turn (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each variant (default %(default)s)")
    parser.add_argument("--serve", choices=WORK, help=argparse.SUPPRESS)
    parser.add_argument("--graph", default="", help=argparse.SUPPRESS)
    parser.add_argument("--ours", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.graph, ours=given.ours)
        return
    from opendetr.benchmarking.benchmark import provenance
    from opendetr.engines.engine import GRAPH_ENGINES, is_installed

    installed = [engine for engine in GRAPH_ENGINES if is_installed(engine)]
    wanted = given.only or [name for name in WORK if name not in GRAPH_ENGINES or name in installed]
    companies = list(dict.fromkeys(["alone", *(given.beside or COMPANY)]))  # shares refer to the first
    print("| work | beside | fair share | defaults, pictures/s | of the fair share | ours | of it | threads | |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "r50.onnx"
        if set(wanted) & set(GRAPH_ENGINES):
            write_graph(graph)
        for name in wanted:
            for row in measure_work(name, companies, graph, given.seconds, given.rounds):
                print(f"| {' | '.join(row)} |", flush=True)
    print(f"\nMedians of {given.rounds} turns of {given.seconds:g} s; seed {SEED}; {provenance(*installed)}")


if __name__ == "__main__":
    os.environ.pop("OMP_NUM_THREADS", None)  # it would settle the number
    main()
