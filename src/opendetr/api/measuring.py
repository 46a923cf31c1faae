"""The commands that measure and compare: `val`, `runs`, `benchmark`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from opendetr.benchmarking.benchmark import Benchmark, print_benchmark, write_benchmark
from opendetr.benchmarking.measure import run_benchmark
from opendetr.checkpoints.loading import is_exported, load_checkpoint
from opendetr.checkpoints.origin import Origin
from opendetr.data.check import account_of, left_out_in_words
from opendetr.data.door import load_index
from opendetr.data.source import DataRoots, DataSource, Renames
from opendetr.devices import resolve_device
from opendetr.errors import UserError
from opendetr.evaluation.analysis import AnalysedMetrics, analyse
from opendetr.evaluation.coco import read_results
from opendetr.evaluation.own_data import own_data, weights_in_words
from opendetr.evaluation.runner import evaluate_data
from opendetr.files import require_folder, write_json
from opendetr.inference.detector import Detector, computes_on
from opendetr.options import EngineName, OneEngine, PeerName, PrecisionName, require_batch_size, require_choice
from opendetr.progress import console, warn
from opendetr.threads import settle_threads
from opendetr.training.run_folder import read_metrics
from opendetr.training.run_table import ComparedRun, compare_runs
from opendetr.wording import counted


def val(
    model: str | Path,
    data: DataRoots | None = None,
    split: str | None = None,
    *,
    classes: str | Iterable[str] | None = None,
    rename: Renames | None = None,
    voc_origin: int = 0,
    image_size: int | None = None,
    batch_size: int = 4,
    engine: EngineName | None = None,
    precision: PrecisionName = "fp32",
    device: str = "auto",
    threads: int | str | None = None,
    strict: bool = False,
    report: str | Path | None = None,
    output: str | Path | None = None,
) -> AnalysedMetrics:
    """COCO metrics of a model, or of an exported file, on any split of a data set whose categories it knows.

    Which weights are measured on how many pictures is printed first.

    Args:
        model: any model that can be loaded, or an exported file; of a run its `best`, else its `last`.
        data: the data set's folder, or a list of several; by default what the run was trained on.
        classes: only these classes, by name; the objects of others are left out. None keeps all,
            without `data` those that the run was trained on.
        rename: other names for classes, as a mapping from old to new; classes of one name become one.
        voc_origin: the number of the first pixel in Pascal VOC's coordinates, 0 or 1.
        split: by default `val`; without `data` the one by which the run chose its best weights.
        image_size: another shorter side of pictures, in pixels, than the model's own; the longer one in proportion.
        batch_size: pictures at once, as far as they have one shape; the result does not depend on it.
        engine: what runs the model, as in `Detector.load`; by default PyTorch, and for a file the engine that it was
            exported for.
        precision: `fp32`, `bf16` or `int8`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: number of threads, or `auto`, the default: the fastest, measured.
        strict: stop at a picture that cannot be used; otherwise it is said, and its objects count as missed.
        report: a JSON file for what of the split is used, and every entry that is not, with the reason.
        output: a folder for the page `val.html`, its figures as PNG and `val.json`.

    Returns:
        The metrics, with the `analysis` of the same detections: intervals of AP, curves, the best thresholds,
        confusions and calibration.

    Raises:
        UserError: no such model, data set or split; no `data`, and the model does not say which are its own, or they
            are no longer there; or a category that the model lacks.
    """
    require_batch_size(batch_size)
    engine = ("auto" if is_exported(model) else "torch") if engine is None else engine
    require_choice("engine", engine, EngineName)
    require_choice("precision", precision, PrecisionName)
    _require_figures(output)
    if data is None:
        source, split = own_data(model, split)
        source = source.narrowed(classes, rename)
    else:
        source, split = DataSource.of(data, classes, rename, voc_origin), split or "val"
    settle_threads(threads, measure=True, device=computes_on(model, engine, device))
    index = load_index(source, split)
    detector = Detector.load(model, device, engine, precision, len(index), image_size)
    origin = Origin() if is_exported(model) else detector.checkpoint.origin
    for sentence in left_out_in_words(index):
        warn(sentence)
    if report is not None:
        write_json(Path(report), {split: account_of(index)})
    weights = model if is_exported(model) else weights_in_words(detector.checkpoint)
    pictures, side = counted(len(index), "picture"), detector.description.preprocessing.image_size
    how = f"in {detector.engine.precision} at {side} pixels"
    console.print(f"Measuring {weights} {how} on {pictures}: the split {split} of {source}.")
    metrics = evaluate_data(detector.engine, detector.description, origin, index, batch_size=batch_size, strict=strict)
    _write_figures(metrics, output, f"{pictures} of the split {split}, {how}.")
    return metrics


def val_files(detections: str | Path, annotations: str | Path, output: str | Path | None = None) -> AnalysedMetrics:
    """COCO metrics and analysis of a COCO results file against a COCO annotation file; `output` as of `val`."""
    _require_figures(output)
    truth, found = read_results(Path(detections), Path(annotations))
    metrics = analyse(truth, found)
    _write_figures(metrics, output, f"Detections in {counted(len(truth.image_ids), 'picture')} of a file.")
    return metrics


def _require_figures(output: str | Path | None) -> None:
    """Fail before the work where `output` is a file, or matplotlib is not installed."""
    if output is not None:
        require_folder(Path(output))
        from opendetr import _matplotlib  # noqa: F401


def _write_figures(metrics: AnalysedMetrics, output: str | Path | None, about: str) -> None:
    if output is not None:
        from opendetr.evaluation.analysis_plots import write_evaluation

        console.print(f"The figures are in {write_evaluation(metrics, Path(output), about)}")


def runs(folder: str | Path = "runs", output: str | Path | None = None) -> list[ComparedRun]:
    """Compare the runs in a folder: AP of their best weights on val, and the values by which their configs differ.

    Args:
        folder: with run folders in it, also some levels below; or a run.
        output: a folder for the learning curves of these runs as PNG: AP, losses, matching, learning rate, speed.

    Returns:
        The runs, the highest AP first.

    Raises:
        UserError: there is no run.
    """
    _require_figures(output)
    rows = compare_runs(Path(folder))
    if output is not None:
        from opendetr.training.run_plots import write_curves

        names = {row.run: Path(folder).resolve().name if row.run == "." else row.run for row in rows}
        write_curves({name: read_metrics(Path(folder) / run) for run, name in names.items()}, Path(output))
        console.print(f"The learning curves are in {output}")
    return rows


def benchmark(
    model: str | Path,
    *,
    against: PeerName | None = None,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    engines: Sequence[str] = (),
    precisions: Sequence[str] = (),
    seconds: float = 20.0,
    output: str | Path | None = None,
    memory: bool = True,
    device: str = "auto",
    threads: int | str | None = None,
) -> Benchmark:
    """Measure speed, agreement and memory of a model in every engine, in turn on this machine.

    Args:
        model: any model that can be loaded.
        against: also measure the official code or `transformers` with the same weights; ratios refer to it.
        size: height and width of the model's input; by default what its preprocessing makes of 480x640.
        batch: pictures at once.
        engines: `torch`, `openvino`, `onnxruntime`; all that are installed by default.
        precisions: `fp32`, `bf16`, `int8`; by default fp32, bf16 where it is faster here, int8 where it was prepared.
        seconds: of measuring per row.
        output: a folder for `benchmark.json` and `benchmark.md`.
        memory: whether to measure peak memory, in processes of their own.
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: number of threads, or `auto`, the default: the fastest, measured.

    Raises:
        UserError: an impossible request; the peer is not installed, or cannot run this model.
    """
    if batch < 1:
        raise UserError(f"--batch {batch}: expected 1 or more")
    if not seconds > 0:
        raise UserError(f"--seconds {seconds:g}: expected more than 0")
    for engine in engines:
        require_choice("engine", engine, OneEngine)
    for precision in precisions:
        require_choice("precision", precision, PrecisionName)
    if against is not None:
        require_choice("against", against, PeerName)
    if output is not None:
        require_folder(Path(output))
    settle_threads(threads, measure=True, device=resolve_device(device).type)
    found = run_benchmark(
        load_checkpoint(model), size=size, batch=batch, against=against, engines=engines,
        precisions=precisions, seconds=seconds, device=device, memory=memory,
    )  # fmt: skip
    print_benchmark(found)
    if output is not None:
        console.print(f"The tables are in {write_benchmark(found, Path(output))}")
    return found
