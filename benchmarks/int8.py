"""How fast int8 is: OpenVINO with a quantized graph against the same graph in fp32 and bf16.

Run `python benchmarks/int8.py MODEL DATA --size 800x1066`. The graph is quantized as by `opendetr export`, on pictures
of the split `val` of DATA, and int8 is not certified: speed can be measured with random weights and classes of other
data, of which no certificate could be made. One ready-made tensor at a time, all sides in turn.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

import openvino
import torch

from opendetr.benchmarking.benchmark import provenance
from opendetr.benchmarking.timing import Clock, take_turns
from opendetr.checkpoints.loading import load_checkpoint
from opendetr.data.door import load_index
from opendetr.engines.openvino_engine import OpenVinoEngine
from opendetr.exporting.comparison import largest_differences
from opendetr.exporting.fastest_engine import choose_engine
from opendetr.exporting.quantization import quantize
from opendetr.model.selection import SelectedQueries

SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a model folder or a checkpoint")
    parser.add_argument("data", help="a data set: the pictures of its split `val` calibrate")
    parser.add_argument("--size", default="800x1066", help="HEIGHTxWIDTH of the model's input (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of measuring for each side (default %(default)s)")
    given = parser.parse_args()
    height, width = map(int, given.size.split("x"))
    checkpoint = load_checkpoint(given.model)
    fp32 = choose_engine(checkpoint, "openvino", "fp32")
    assert isinstance(fp32, OpenVinoEngine)
    torch.manual_seed(SEED)
    images = torch.randn(1, 3, height, width)
    with tempfile.TemporaryDirectory() as folder:
        path, quantized = Path(folder) / "fp32.xml", Path(folder) / "int8.xml"
        openvino.save_model(fp32.graph, path, compress_to_fp16=False)
        graph = quantize(openvino.Core().read_model(path), checkpoint, load_index(Path(given.data), "val"))
        openvino.save_model(graph, quantized, compress_to_fp16=False)
        engines = {"fp32": fp32, "bf16": OpenVinoEngine(path, "bf16"), "int8": OpenVinoEngine(quantized, "int8")}
        expected, boxes = fp32(images), dict[str, float]()
        paired = isinstance(checkpoint.model.query_embed, SelectedQueries)
        for name, engine in engines.items():
            for _ in range(engine.OFTEN):  # a size that comes so often has a graph of its own
                engine(images)
            _, boxes[name] = largest_differences(expected, engine(images), paired=paired)
        clocks = {name: Clock({name: partial(engine, images)}) for name, engine in engines.items()}
        take_turns(list(clocks.values()), given.seconds)

    milliseconds = {name: median(clock.seconds[name]) * 1000 for name, clock in clocks.items()}
    print("| | ms | times fp32 | boxes differ by |\n|---|---|---|---|")
    for name, taken in milliseconds.items():
        print(f"| OpenVINO {name} | {taken:.1f} | {milliseconds['fp32'] / taken:.2f} | {boxes[name]:.0e} |")
    print(f"\n{provenance('openvino')}")


if __name__ == "__main__":
    main()
