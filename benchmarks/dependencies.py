"""Prints what each dependency weighs and under which licence it is: `python benchmarks/dependencies.py`.

Measured in the environment that runs it: the sizes of the files that each package lists, in MB of 10^6 bytes, alone
and with what it alone brings. docs/reference/dependencies.md has the table.
"""

import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution, metadata, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def needed_by(text: str) -> list[str]:
    """The names of the packages that a requirement, such as `opendetr[serve]`, asks for directly."""
    asked = Requirement(text)
    try:
        found = [Requirement(line) for line in requires(asked.name) or []]
    except PackageNotFoundError:
        return []
    wanted = [{"extra": extra} for extra in ("", *asked.extras)]
    return [str(one) for one in found if one.marker is None or any(map(one.marker.evaluate, wanted))]


def brought_by(texts: list[str]) -> set[str]:
    """All installed packages that requirements bring, by their normal names."""
    found, seen, waiting = set(), set(), list(texts)
    while waiting:
        text = waiting.pop()
        one = Requirement(text)
        key = (canonicalize_name(one.name), *sorted(one.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            distribution(one.name)
        except PackageNotFoundError:
            continue
        found.add(key[0])
        waiting += needed_by(text)
    return found


def megabytes(names: set[str]) -> float:
    """What the files of packages take on the disk, without compiled Python."""
    paths: set[Path] = set()
    for name in names:
        package: Distribution = distribution(name)
        paths |= {Path(str(package.locate_file(file))) for file in package.files or [] if file.suffix != ".pyc"}
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def licence(name: str) -> str:
    """As the package's metadata say it."""
    about = metadata(name)
    said = about.get("License-Expression") or about.get("License") or ""
    classified = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier", []) if line.startswith("License")]
    return said if said and len(said) < 100 else ", ".join(classified) or said.splitlines()[0]


def main() -> None:
    """Print a table of the requirements of opendetr, or of the extras that are named."""
    extras = sys.argv[1:]
    core = needed_by("opendetr")
    everything = brought_by(core)
    direct = core if not extras else [one for one in needed_by(f"opendetr[{','.join(extras)}]") if one not in core]
    print(f"the core: {len(core)} requirements, {len(everything)} packages, {megabytes(everything):.0f} MB")
    print(f"{'package':22}{'version':12}{'MB':>7}{'alone':>7}  licence")
    for text in direct:
        name = canonicalize_name(Requirement(text).name)
        others = brought_by([one for one in direct if one != text] + ([] if not extras else core))
        own = brought_by([text]) - others
        print(
            f"{name:22}{distribution(name).version:12}{megabytes({name}):7.1f}{megabytes(own):7.1f}  {licence(name)}"
            f"{'  brings ' + ', '.join(sorted(own - {name})) if own - {name} else ''}"
        )


if __name__ == "__main__":
    main()
