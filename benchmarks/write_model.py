"""Writes a DETR-R50 to measure speed with: random weights, drawn so that queries and pictures differ (seed 0).

Run `python benchmarks/write_model.py r50.pth`; it needs the official code, tests/parity/official.py says where. Fresh
weights give all queries nearly the same answer, so that differences between engines would say nothing.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "parity"))  # official.py says where the official code is
import official

from opendetr.config import ModelConfig

NUM_CLASSES, SEED = 91, 0  # as in the released models
PICTURE_SIZES = [(480, 640), (640, 480)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="the .pth to write")
    given = parser.parse_args()
    config = ModelConfig()
    model = official.build_model(config, NUM_CLASSES, SEED)
    generator = torch.Generator().manual_seed(SEED)
    official.spread_answers(model, official.pad([torch.randn(3, *size, generator=generator) for size in PICTURE_SIZES]))
    torch.save({"model": model.state_dict(), "args": argparse.Namespace(dilation=False)}, given.output)


if __name__ == "__main__":
    main()
