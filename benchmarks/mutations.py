"""Do the tests notice when a line is wrong? Sampled mutations of the modules that everything else rests on.

Run `pip install cosmic-ray`, then `python benchmarks/mutations.py`. Each mutant is a copy of the package in which one
operator of one line is another, a number is one larger, a condition is reversed, and so on (Cosmic Ray's operators).
Tests of the module run on it; the mutant is killed if one of them fails. The table says how many were killed; the
mutants that survived are printed before it, as a line of the file and what it became. Every mutant is tested in a
child forked from this process, which has the libraries loaded, so that one takes seconds.

Left out are `|`, which here is part of types only, and names replaced by other names.
"""

import argparse
import difflib
import importlib
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import hypothesis
import pytest
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[1]
LIBRARIES = ("torch", "torchvision", "timm", "transformers", "scipy.optimize", "accelerate", "hotcoco")
TESTED_BY = {
    "loss/criterion.py": (
        "tests/unit/test_criterion.py", "tests/unit/test_helping_losses.py", "tests/parity/test_official_loss.py",
    ),
    "loss/matcher.py": ("tests/unit/test_matcher.py", "tests/parity/test_official_loss.py"),
    "boxes.py": ("tests/unit/test_boxes.py",),
    "labels.py": ("tests/unit/test_labels.py",),
    "training/resume.py": (
        "tests/unit/test_resume.py", "tests/unit/test_run_folder.py", "tests/integration/test_resumed_model.py",
    ),
}  # fmt: skip
LEFT_OUT = ("BitOr", "VariableReplacer", "VariableInserter")
# A mutant whose tests take longer is killed: it never ends. By the processor's time, since other programs may run.
SECONDS, WAITED = 300, 1800


def mutants(source: str) -> Iterator[str]:
    """Every mutant of a source."""
    for name in operator_names():
        if not any(part in name for part in LEFT_OUT):
            for occurrence in range(10_000):
                mutant = mutate_code(source, get_operator(name)(), occurrence)
                if mutant is None:
                    break
                if mutant != source:
                    yield mutant


def tests_pass(package: Path, tests: tuple[str, ...], log: Path) -> bool:
    """Whether the tests pass on a copy of the package, in a child of this process."""
    pid = os.fork()
    if not pid:
        with log.open("w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        os.setpgrp()
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
        sys.path.insert(0, str(package.parent))
        os.environ["PYTHONPATH"] = str(package.parent)
        no_shrinking = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        hypothesis.settings.register_profile("mutants", phases=no_shrinking, database=None, deadline=None)
        hypothesis.settings.load_profile("mutants")
        code = 1
        with suppress(BaseException):
            code = pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", *(str(ROOT / test) for test in tests)])
        os._exit(code)
    begun = time.time()
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        if time.time() - begun > WAITED:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return False
        time.sleep(0.05)


def main() -> None:
    """Print the survivors and the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", choices=TESTED_BY, default=list(TESTED_BY))
    parser.add_argument("--sample", type=int, default=40, help="mutants of each module")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.chdir(ROOT)
    for name in LIBRARIES:
        importlib.import_module(name)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        package, log = Path(temporary) / "src" / "opendetr", Path(temporary) / "log.txt"
        shutil.copytree(ROOT / "src" / "opendetr", package)
        for module in options.only:
            path, tests = package / module, TESTED_BY[module]
            source = path.read_text()
            if not tests_pass(package, tests, log):
                raise SystemExit(f"the tests of {module} fail without a mutation:\n{log.read_text()[-2000:]}")
            found = sorted(set(mutants(source)))
            sample = random.Random(options.seed).sample(found, min(options.sample, len(found)))
            killed = 0
            for number, mutant in enumerate(sample):
                print(f"{module}: {killed} of {number} killed", end="\r", file=sys.stderr, flush=True)
                path.write_text(mutant)
                survives = tests_pass(package, tests, log)
                killed += not survives
                if survives:
                    changes = difflib.unified_diff(source.splitlines(), mutant.splitlines(), module, "", "", "", n=0)
                    print("\n".join(list(changes)[2:]), flush=True)
            path.write_text(source)
            rows.append((module, len(found), len(sample), killed))
            print(f"{module}: {killed} of {len(sample)} killed", flush=True)
    print("\n| module | mutants | sampled | killed | share |\n|---|---|---|---|---|")
    for module, count, sampled, killed in (*rows, ("all", *(sum(row[at] for row in rows) for at in (1, 2, 3)))):
        print(f"| {module} | {count} | {sampled} | {killed} | {killed / sampled:.0%} |")


if __name__ == "__main__":
    main()
