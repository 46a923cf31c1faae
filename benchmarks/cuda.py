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

if __name__ == "__main__":  # torch imports a package called cuda, and scripts of this folder find this file instead
    import sys

    sys.path.append(sys.path.pop(0))  # behind that package, where it is installed
    from cuda_report import main

    main()
