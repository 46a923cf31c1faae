"""A machine with a GPU, judged in at most four minutes: does it compute the same, how fast, and does it learn?

Run `python benchmarks/cuda.py` at the repository's root; it prints a report and writes `docs/results/gpu.md` and
`gpu.json` (`--output DIR` elsewhere). First a training step of DETR-R50 and of the recipe `fast` is compared with the
CPU's (`cuda_agreement.py`), then training and prediction of DETR-R50 at 800x1066 are timed beside the official code and
transformers (`cuda_timing.py`), then the recipe `fast` learns digit scenes and, where OPENDETR_TEST_DATA names a folder
with `bccd`, blood cells. What is missing, and what there was no time for, is said. `--small` does all that with tiny
models in seconds, on a CPU too.

opendetr need not be installed: it is taken from the repository, and what else the machine lacks from the folder
`.carry` there (benchmarks/README.md says how to fill it).
"""

if __name__ == "__main__":
    import sys
    import time

    begun, here = time.monotonic(), sys.path.pop(0)
    import torch  # noqa: F401 # it imports NVIDIA's package `cuda`, and would find this file where this folder is searched

    sys.path.append(here)
    import cuda_report

    cuda_report.BEGUN = begun
    cuda_report.main()
