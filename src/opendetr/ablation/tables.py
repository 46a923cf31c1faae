"""The results of a study: a table in Markdown, all numbers as CSV, and a plot."""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from opendetr.ablation.study import RowResults, Settings, Study
from opendetr.files import write_bytes, write_text

LEARNED = 0.5  # AP50 of the baseline below which a study draws no conclusion
CONFIDENCE = 0.95  # of a difference that is not put in brackets


def write_tables(
    study: Study, settings: Settings, results: RowResults, failed: Mapping[tuple[str, int], str], output: Path
) -> None:
    """Write `study.md`, `study.csv` and `study.png` into `output`, of the finished runs and of errors in `failed`."""
    lines = io.StringIO()
    rows = [_flat(result) for result in results.values()]
    writer = csv.DictWriter(lines, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(output / "study.csv", lines.getvalue())
    write_text(output / "study.md", "\n".join(markdown(study, settings, results, failed)) + "\n")
    write_bytes(output / "study.png", _plot(study, results))


def _flat(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result as one line of CSV; measures beside AP have columns of their own."""
    flat = {key: result[key] for key in ("row", "seed", "AP", "AP50", "AP75", "epochs", "seconds")}
    for layer, values in enumerate(result.get("layers", ()), start=1):
        flat |= {f"{name}, layer {layer}": value for name, value in values.items()}
    return flat | {f"found of {count}": share for count, share in result.get("instances", {}).items()}


def markdown(
    study: Study, settings: Settings, results: RowResults, failed: Mapping[tuple[str, int], str]
) -> Iterator[str]:
    """The lines of `study.md`."""
    by_row = {row.name: [r for (name, _), r in sorted(results.items()) if name == row.name] for row in study.rows}
    base = by_row[study.baseline]
    learned = bool(base) and float(np.mean([result["AP50"] for result in base])) >= LEARNED
    yield f"# {study.title}\n"
    length = f"{settings.epochs} epochs" if settings.minutes is None else f"{settings.minutes:g} minutes"
    set_here = {name for row in study.rows for name in {**settings.fixed, **row.values}}
    if set_here & {"train.epochs", "train.minutes"}:
        length = "as many epochs or minutes as each row says"
    yield f"{study.about} Recipe `{settings.recipe}`, {length} a run, on {settings.split} of {settings.data}.\n"
    if base and not learned:
        yield (
            f"**The baseline '{study.baseline}' has not learned (AP50 {np.mean([r['AP50'] for r in base]):.3f}, below "
            f"{LEARNED}): nothing can be concluded from these rows. Give the runs more epochs or minutes.**\n"
        )
    if failed and not base:
        yield f"**The baseline '{study.baseline}' could not be trained: there is nothing to compare with.**\n"
    with_paper = any(row.paper for row in study.rows)
    paper = " COCO, paper: AP | AP50 |" if with_paper else ""
    yield f"| row | seeds | AP | difference | AP50 | difference |{paper}"
    yield "|---|---|---|---|---|---|" + "---|---|" * with_paper
    chance = {key: _chance([[100 * r[key] for r in found] for found in by_row.values()]) for key in ("AP", "AP50")}
    for row in study.rows:
        found = by_row[row.name]
        cells = [row.name, str(len(found))]
        for key in ("AP", "AP50"):
            values = [100 * result[key] for result in found]
            cells.append(_mean_and_spread(values))
            compared = learned and found and row.name != study.baseline
            own = [100 * result[key] for result in base]
            cells.append(_difference(values, own, chance[key]) if compared else "-")
        if with_paper:
            cells += [f"{row.paper[key]:+.1f}" if key in row.paper else "-" for key in ("AP", "AP50")]
        yield "| " + " | ".join(cells) + " |"
    yield "\nAP in points (0 to 100): mean of the seeds ± the largest distance of a seed from it."
    if learned:
        yield (
            f"A difference in brackets may be chance (two-sided t-tests, each at {CONFIDENCE:.0%}, the variance of the "
            f"seeds pooled over the rows; of twenty rows that change nothing, one has no brackets by chance)."
        )
    if settings.minutes is not None:
        yield "Runs of equal minutes may differ in picture size and passes too: see config.toml of each run."
    for (name, seed), reason in failed.items():
        yield f"Failed: '{name}', seed {seed}: {reason}"
    for row in study.rows:
        for result in by_row[row.name]:
            yield from _extra(result)


def _extra(result: dict[str, Any]) -> Iterator[str]:
    """The measures of a study beside AP."""
    if "layers" in result:
        names = list(result["layers"][0])
        yield f"\n## By decoder layer, seed {result['seed']}\n"
        yield "| layer | " + " | ".join(names) + " |\n|---" + "|---" * len(names) + "|"
        for layer, values in enumerate(result["layers"], start=1):
            yield f"| {layer} | " + " | ".join(f"{100 * values[name]:.1f}" for name in names) + " |"
    if "instances" in result:
        yield f"\n## Share of digits found, by their number in a scene, seed {result['seed']}\n"
        yield "| digits | found |\n|---|---|"
        for count, share in result["instances"].items():
            yield f"| {count} | {share:.0%} |"


def _mean_and_spread(values: list[float]) -> str:
    if not values:
        return "-"
    mean = float(np.mean(values))
    return f"{mean:.1f}" + (f" ± {max(abs(value - mean) for value in values):.1f}" if len(values) > 1 else "")


def _chance(rows: list[list[float]]) -> float:
    """Largest difference of two equal runs by chance; for means of n and m runs times sqrt((1/n + 1/m) / 2)."""
    freedom = sum(len(values) - 1 for values in rows if values)
    if not freedom:
        return float("inf")
    variance = sum(float(np.var(values)) * len(values) for values in rows if values) / freedom
    return float(student.ppf((1 + CONFIDENCE) / 2, freedom) * np.sqrt(2 * variance))


def _difference(values: list[float], base: list[float], chance: float) -> str:
    """The difference of the means; in brackets where it may be chance."""
    difference = float(np.mean(values) - np.mean(base))
    certain = abs(difference) > chance * np.sqrt((1 / len(values) + 1 / len(base)) / 2)
    return f"{difference:+.1f}" if certain else f"({difference:+.1f})"


def _plot(study: Study, results: RowResults) -> bytes:
    """A bar per row with a dot per seed, or the study's curve."""
    from opendetr._matplotlib import Figure, png_of

    figure = Figure(figsize=(7, 0.45 * max(len(study.rows), 5) + 1), layout="constrained")
    axes = figure.subplots()
    if study.measure == "split":
        for place, row in enumerate(reversed(study.rows)):
            values = [result["AP"] for (name, _), result in results.items() if name == row.name]
            if values:
                axes.barh(place, float(np.mean(values)), color="0.8" if row.name != study.baseline else "tab:blue")
                axes.plot(values, [place] * len(values), "o", color="black", markersize=4)
        axes.set_yticks(range(len(study.rows)), [row.name for row in reversed(study.rows)], fontsize=8)
        axes.set(xlabel="AP", xlim=(0, None))
    for (_, seed), result in results.items():
        if study.measure == "layers":
            for name in result["layers"][0]:
                axes.plot([values[name] for values in result["layers"]], marker=".", label=f"{name}, seed {seed}")
            layers = len(result["layers"])
            axes.set_xticks(range(layers), [str(layer) for layer in range(1, layers + 1)])
            axes.set(xlabel="decoder layer", ylim=(0, 1))
        elif study.measure == "instances":
            counts, shares = zip(*((int(count), share) for count, share in result["instances"].items()))
            axes.plot(counts, shares, marker=".", label=f"seed {seed}")
            axes.set(xlabel="digits in the scene", ylabel="share found", ylim=(0, 1.02))
    if study.measure != "split":
        axes.legend(fontsize=7)
    axes.set_title(study.title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return png_of(figure)
