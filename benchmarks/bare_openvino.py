"""How much of OpenVINO is left: a bare loop over the exported graph against ours, from picture to `Detections`.

Run `python benchmarks/bare_openvino.py MODEL --size 800x1066`. Both use the same graph, fixed size, precision and
number of threads, one picture at a time, in turn. The bare side gets its tensor ready-made; ours begins with a decoded
picture: it resizes and normalises it, runs the graph, and makes boxes, scores and classes of what it says.
"""

import argparse
from statistics import median

import numpy as np
import openvino
import torch
from PIL import Image

from opendetr.benchmarking.benchmark import provenance
from opendetr.benchmarking.timing import Clock, take_turns
from opendetr.engines.openvino_engine import OpenVinoEngine
from opendetr.inference.detector import Detector

SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a model folder or a checkpoint")
    parser.add_argument("--size", default="480x640", help="HEIGHTxWIDTH of the picture (default %(default)s)")
    parser.add_argument("--precision", default="fp32", help="fp32, bf16 or int8 (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of measuring for each side (default %(default)s)")
    given = parser.parse_args()
    height, width = map(int, given.size.split("x"))
    detector = Detector.load(given.model, engine="openvino", precision=given.precision)
    engine = detector.engine
    assert isinstance(engine, OpenVinoEngine)
    picture = Image.fromarray(np.random.default_rng(SEED).integers(0, 255, (height, width, 3), dtype=np.uint8))
    images = detector.prepare(picture)[None].contiguous()
    mask = torch.zeros(1, *images.shape[2:], dtype=torch.bool)

    core = openvino.Core()
    graph = engine.graph.clone()
    graph.reshape({"images": list(images.shape), "padding_mask": list(mask.shape)})
    compiled = core.compile_model(
        graph, "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "f32" if given.precision == "fp32" else "bf16",
        },
    )  # fmt: skip
    request = compiled.create_infer_request()
    inputs = {"images": images.numpy(), "padding_mask": mask.numpy()}
    bare = Clock({"bare": lambda: request.infer(inputs, share_inputs=True)})
    ours = Clock({"ours": lambda: detector.predict(picture)})
    for _ in range(engine.OFTEN):  # a size that comes so often has a graph of its own
        detector.predict(picture)
    others = take_turns([bare, ours], given.seconds)

    milliseconds = {name: median(c.seconds[name]) * 1000 for c, name in ((bare, "bare"), (ours, "ours"))}
    print(
        f"\nA picture of {height}x{width}, seen by the model at {images.shape[2]}x{images.shape[3]}, {given.precision};"
    )
    print(f"medians of {len(bare.seconds['bare'])} and {len(ours.seconds['ours'])} calls in turn\n")
    print("| | ms | of the bare run's speed |\n|---|---|---|")
    print(f"| bare OpenVINO, tensor to tensors | {milliseconds['bare']:.1f} | |")
    share = milliseconds["bare"] / milliseconds["ours"]
    print(f"| opendetr, picture to detections | {milliseconds['ours']:.1f} | {share:.0%} |")
    if others is not None:
        print(f"\nOther programs took {others:.0%} of the processors meanwhile.")
    print(provenance("openvino"))


if __name__ == "__main__":
    main()
