"""The commands that train, or look at a training: `train`, `ablate`, `doctor`, `replay`, `demo`."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.markdown import Markdown

from opendetr.api.launching import require_devices, train_in_processes
from opendetr.data.augmentation import augmentation_values
from opendetr.data.data_check import write_accounts
from opendetr.data.findings import Finding
from opendetr.data.source import DataRoots, DataSource, Renames, config_of
from opendetr.devices import resolve_device
from opendetr.errors import UserError
from opendetr.options import Augmentation, Cache, TrackerName, TrainingPrecision, require_batch_size, require_choice
from opendetr.progress import console
from opendetr.recipes.recipe import load_recipe, resolve_config
from opendetr.threads import settle_threads
from opendetr.training.captures import Replay, replay_capture
from opendetr.training.doctor import diagnose
from opendetr.training.start import run_training


def train(
    data: DataRoots | None = None,
    *,
    classes: str | Iterable[str] | None = None,
    rename: Renames | None = None,
    voc_origin: int | None = None,
    val_share: float | None = None,
    recipe: str | None = None,
    preset: str | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
    strict: bool | None = None,
    report: str | Path | None = None,
    output: str | Path | None = None,
    resume: str | Path | None = None,
    accept_data: bool = False,
    save_every: float | None = None,
    keep: int | None = None,
    log_to: TrackerName | None = None,
    augment: Augmentation | None = None,
    no_flip: bool = False,
    transform: str | None = None,
    balanced: bool | None = None,
    deterministic: bool = False,
    init: str | Path | None = None,
    new_head: bool = False,
    freeze: Sequence[str] = (),
    epochs: int | None = None,
    minutes: float | None = None,
    patience: int | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    backbone: str | None = None,
    backbone_weights: str | None = None,
    workers: int | None = None,
    cache: Cache | None = None,
    precision: TrainingPrecision | None = None,
    device: str | None = None,
    devices: int | None = None,
    threads: int | str | None = None,
    overrides: Sequence[str] = (),
    started: float | None = None,
) -> Path:
    """Train a DETR on a folder of pictures and boxes.

    None keeps the recipe's value. Ctrl-C ends the run cleanly, with everything written.

    Args:
        data: the data set's folder, zip archive or address, or a list of several; may be left out when resuming.
        classes: only these classes, by name; the objects of others are left out. None keeps all.
        rename: other names for classes, as a mapping from old to new; classes of one name become one.
        voc_origin: the number of the first pixel in Pascal VOC's coordinates, 0 or 1.
        val_share: the share of the training pictures that are val, where the data have none; near duplicates stay on
            one side.
        recipe: a shipped recipe or a TOML file.
        preset: a model section by name; replaces the recipe's.
        train_split: the split to learn from.
        val_split: the split that chooses the best weights.
        strict: stop at a picture that cannot be used, instead of leaving it out.
        report: a JSON file for what of the data is used, and every entry that is not, with the reason.
        output: the run folder; by default `runs/NAME-OF-DATA`, numbered where it exists.
        resume: a run folder to continue from its last written state; the run ends as if it had not been stopped.
            A run that `torchrun --max-restarts` starts again is continued without it.
        accept_data: with `resume`, pictures and boxes that have changed since are used, from the start of an epoch.
        save_every: minutes after which `last` is written within an epoch too; between epochs it is written anyway.
        keep: how many models of finished epochs stay in the run's `checkpoints`, evenly spread; by default none.
        log_to: `tensorboard`, `wandb`, `mlflow` or `trackio`, which gets every line of `metrics.jsonl`; a resumed run
            goes on there.
        augment: how much training pictures are changed: `none`, `light` or `strong`; None keeps the recipe's values.
        no_flip: never show pictures mirrored or upside down.
        transform: `module:name` of a torchvision v2 transform of the user's, for training pictures, before the recipe's
            own. No config keeps it: a run that is resumed needs it again.
        balanced: show pictures of rare classes more often.
        deterministic: only operations that give the same bits again, in fp32 where no precision is given; the length
            must be in epochs.
        init: a model to start from: a run folder, an official `.pth`, a released name, a Hugging Face folder or id.
        new_head: with `init`, new class heads for the classes of the data.
        freeze: parts that are not trained: `backbone`, `input_proj`, `encoder`, `decoder`, `heads`.
        epochs: number of passes over the training split.
        minutes: a wall-clock budget instead of epochs; of this call when resuming.
        patience: number of evaluations on val without a better AP after which the run ends, and keeps `best`; those of
            the first half of its schedule do not count while learning rates are still to fall.
        seed: random seed of weights, order and augmentation.
        batch_size: pictures per process and step.
        image_size: the shorter side at evaluation; scales all sizes of the recipe.
        backbone: a timm network.
        backbone_weights: `auto`, `none` or a file.
        workers: loader processes.
        cache: `ram` or `disk`: pictures are decoded once, for this run or for later ones too; or `none`.
        precision: `auto`, `fp32` or `bf16`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        devices: number of processes that train together on this machine, each on a GPU of its own, or on the CPU; one
            by default. Not within `torchrun` or `accelerate launch`, which say it themselves.
        threads: number of threads, or `auto`: the fastest, measured at the start and when steps become slower. By
            default `auto` with minutes, and PyTorch's own number with epochs.
        overrides: `section.key=value` strings; they win over everything.
        started: when the budget of `minutes` began, as of `time.time()`; now by default.

    Returns:
        The run folder, with `last`, the page `report.html` and, where a val split could choose it, `best`.

    Raises:
        UserError: bad input of any kind; nothing has been written then.
    """
    asked = locals() | {"devices": None, "started": started or time.time()}
    if devices is not None:
        require_devices(devices, device or "auto")
        if devices > 1:
            return train_in_processes(devices, asked)
    if minutes is not None and not minutes > 0:
        raise UserError(f"--minutes must be above 0, got {minutes}")
    require_batch_size(batch_size)
    if epochs is not None and minutes is not None:
        raise UserError("--epochs and --minutes exclude each other: give the one that ends the run")
    if new_head and resume is None and init is None and not (recipe and load_recipe(recipe).train.init):
        raise UserError("--num-classes-from data gives a trained model new class heads: name the model by --init MODEL")
    if accept_data and resume is None:
        raise UserError("--accept-data is for the data of a run that is continued: give --resume RUN too")
    if augment is not None:
        require_choice("augment", augment, Augmentation)
    if resume is not None and (augment is not None or no_flip):
        raise UserError("--resume continues a run with its own augmentation: leave out --augment and --no-flip")
    if resume is not None and any(option is not None for option in (recipe, preset, image_size, init)):
        raise UserError(
            "--resume continues a run with its own config: leave out --recipe, --preset, --init and --image-size"
        )
    options = {
        **config_of(data, classes, rename), "data.voc_origin": voc_origin,
        "data.val_share": val_share, "data.train_split": train_split, "data.val_split": val_split,
        "data.strict": strict, "data.cache": cache, "model.backbone": backbone,
        "model.backbone_weights": backbone_weights, "train.epochs": epochs,
        "train.minutes": 0.0 if epochs is not None else minutes, "train.patience": patience, "train.seed": seed,
        "data.balanced": balanced, "train.deterministic": deterministic or None,
        "train.save_every": save_every, "train.keep": keep, "train.log_to": log_to,
        "train.batch_size": batch_size, "train.workers": workers, "train.precision": precision, "train.device": device,
        "train.init": None if init is None else str(init), "train.new_head": new_head or None,
        "train.freeze": tuple(freeze) or None,
    }  # fmt: skip
    given = {name: value for name, value in options.items() if value is not None}
    given = augmentation_values(augment, no_flip=no_flip) | given
    return run_training(
        given, recipe, preset, image_size, overrides, None if output is None else Path(output),
        None if resume is None else Path(resume), started or time.time(), threads,
        None if report is None else Path(report), transform, accept_data=accept_data,
    )  # fmt: skip


def ablate(
    study: str | None = None,
    data: DataRoots | None = None,
    output: str | Path | None = None,
    *,
    classes: str | Iterable[str] | None = None,
    rename: Renames | None = None,
    recipe: str = "fast",
    split: str = "val",
    seeds: int = 2,
    epochs: int | None = None,
    minutes: float | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
    threads: int | str | None = None,
) -> Path:
    """Run one of the paper's studies, or one's own, as small trainings, and compare the rows in a table.

    The same call continues an interrupted study: a finished row is never run twice.

    Args:
        study: a shipped study; None makes a study of `overrides`.
        data: the data set's folder, or a list of several; None writes digit scenes.
        classes: only these classes, by name; the objects of others are left out. None keeps all.
        rename: other names for classes, as a mapping from old to new; classes of one name become one.
        output: the study's folder; by default `runs/ablate-STUDY`.
        recipe: the recipe that the rows change.
        split: the split to measure on.
        seeds: runs per row.
        epochs: of each run; by default 3 on digit scenes and 20 on other data.
        minutes: of each run, instead of epochs.
        overrides: `section.key=value` for all rows; without a study, `section.key=VALUE,VALUE` are its rows.
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: number of threads, or `auto`: the fastest, measured at the start. By default `auto` with minutes, and
            PyTorch's own number with epochs.

    Returns:
        The table as Markdown; CSV and a plot lie beside it.

    Raises:
        UserError: no such study, data or key, or a folder with another study.
    """
    from opendetr.ablation.run import run_study
    from opendetr.ablation.study import Settings, choose_study

    if epochs is not None and minutes is not None:
        raise UserError("--epochs and --minutes exclude each other: give the one that ends each run")
    if seeds < 1 or (epochs is not None and epochs < 1) or (minutes is not None and not minutes > 0):
        raise UserError("--seeds, --epochs and --minutes must be above 0")
    chosen, fixed = choose_study(study, overrides)
    folder = Path("runs") / f"ablate-{chosen.name}" if output is None else Path(output)
    if data is None and split not in ("val", "test"):
        raise UserError(f"--split {split}: digit scenes are measured on val or test")
    if data is not None and chosen.measure == "instances":
        raise UserError("the study 'instances' counts digits on a canvas of its own making: leave out --data")
    if minutes is None:
        epochs = epochs or (3 if data is None else 20)
    chosen_data = config_of(folder / "digits" if data is None else data, classes, rename)
    root = chosen_data.pop("data.root")
    fixed |= {name: list(values) for name, values in chosen_data.items() if values}
    settings = Settings(root, recipe, split, epochs, minutes, fixed, digits=data is None)
    settle_threads(threads, measure=minutes is not None, device=resolve_device(device).type)
    table = run_study(chosen, settings, folder, seeds, device)
    text = table.read_text(encoding="utf-8")
    console.print(Markdown(text) if console.is_terminal else f"\n{text}")
    console.print(f"The table is {table}; study.csv and study.png lie beside it.")
    return table


def replay(capture: str | Path) -> Replay:
    """Repeat a training step whose gradient was not finite, and find where its numbers stop being finite.

    Args:
        capture: a file that `train` wrote: `RUN/captures/step-N.pt`. It is computed on the CPU.

    Returns:
        Where: in the weights, a picture, the forward pass, the loss or the gradient; with the name of the first module.

    Raises:
        UserError: no such file, or it holds something else.
    """
    found = replay_capture(Path(capture))
    console.print(found.in_words())
    return found


def doctor(
    data: DataRoots,
    *,
    classes: str | Iterable[str] | None = None,
    rename: Renames | None = None,
    voc_origin: int = 0,
    train_split: str = "train",
    recipe: str | None = None,
    image_size: int | None = None,
    seconds: float = 45.0,
    device: str | None = None,
    threads: int | str | None = None,
    report: str | Path | None = None,
) -> list[Finding]:
    """Check a data set for training and say what to change: its files, and what short trainings on eight pictures find.

    Args:
        data: the data set's folder, or a list of several.
        classes: only these classes, by name; the objects of others are left out. None keeps all.
        rename: other names for classes, as a mapping from old to new; classes of one name become one.
        voc_origin: the number of the first pixel in Pascal VOC's coordinates, 0 or 1.
        train_split: the training split to check.
        recipe: a shipped recipe or a TOML file, as in `train`.
        image_size: the shorter side; by default chosen by the recipe.
        seconds: for overfitting eight pictures; half as many follow for a learning rate range test.
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: number of threads, or `auto`, the default: the fastest, measured.
        report: a JSON file for what of the data is used, and every entry that is not, with the reason.

    Returns:
        The findings, the most important first.

    Raises:
        UserError: the data cannot be read at all.
    """
    settle_threads(threads, measure=True, device=resolve_device(device or "auto").type)
    source = DataSource.of(data, classes, rename, voc_origin)
    options = {**source.to_config(), "data.train_split": train_split, "train.device": device}
    given = {name: value for name, value in options.items() if value is not None}
    config = resolve_config(recipe, None, given, image_size)
    if report is not None:
        write_accounts(Path(report), source, (train_split, "val"))
    return diagnose(config, source, seconds)


def demo(
    output: str | Path = "runs/demo",
    *,
    compare: bool = False,
    threads: int | str | None = None,
    started: float | None = None,
) -> Path:
    """Run the demo: write digit scenes, train until AP50 is high enough, measure on 100 others, write a report.

    Args:
        output: folder for the data, the runs and the report.
        compare: spend the same minutes again on the recipe `paper-small`; the report shows both.
        threads: number of threads, or `auto`, the default: the fastest, measured.
        started: when the demo began, as of `time.time()`; now by default.

    Returns:
        The report, one HTML file that needs no network.
    """
    from opendetr.demonstration import run_demo

    settled = settle_threads(threads, measure=True, device=resolve_device("auto").type)
    return run_demo(Path(output), started or time.time(), compare=compare, threads=settled)
