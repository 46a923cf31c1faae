"""From a config to a Trainer that is ready to run: reads the data, finds the weights, prints warnings."""

import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list

from opendetr.checkpoints.adapt import begin_with, freeze, labels_for
from opendetr.checkpoints.imagenet import build_pretrained_model
from opendetr.checkpoints.native import Checkpoint
from opendetr.checkpoints.origin import Origin
from opendetr.config import RunConfig
from opendetr.data.augmentation import OwnTransform
from opendetr.data.cache import build_cache
from opendetr.data.check import (
    check_pictures,
    describe,
    describe_classes,
    left_out_in_words,
    shared_pictures,
    warnings,
)
from opendetr.data.door import has_split, load_index
from opendetr.data.index import DatasetIndex
from opendetr.data.loader import DetectionDataset
from opendetr.data.source import DataSource
from opendetr.data.transforms import Preprocessing, training_transform
from opendetr.devices import default_workers, keep_freed_memory, place, resolve_device
from opendetr.errors import UserError
from opendetr.images import find_white_level
from opendetr.model.backbone import normalisation
from opendetr.model.detr import DETR
from opendetr.model.precision import fit_precision
from opendetr.progress import console, warn
from opendetr.threads import Threads
from opendetr.training.choices import ObjectSizes, fit_batch, fit_to_data, fit_to_time, measure_objects
from opendetr.training.free_folder import make_new_folder, require_free
from opendetr.training.loop import Trainer
from opendetr.training.manifest import transform_of
from opendetr.training.plan import Goal, Plan
from opendetr.training.processes import join_processes, of_first_process
from opendetr.training.resume import require_same_transform, resumed_model, seed_generators
from opendetr.training.run_folder import identity, is_unsaved
from opendetr.training.run_report import RunReport
from opendetr.training.sizing import Sizing
from opendetr.training.speed import Speed, expectations, fits_in_memory, look_at_speed, memory_problem
from opendetr.training.watch import Watch
from opendetr.wording import counted


def prepare_training(
    config: RunConfig,
    output: Path | None,
    started: float,
    resume: Path | None = None,
    *,
    trained: Checkpoint | None = None,
    fresh_minutes: bool = False,
    accept_data: bool = False,
    goal: Goal | None = None,
    threads: Threads | None = None,
    own_transform: OwnTransform | None = None,
) -> Trainer:
    """Read the data, build or restore the model, and prepare the run.

    Args:
        config: the resolved config.
        output: the run folder; must not hold another run. None makes one in `runs`, named like the data.
        started: `time.time()` when the time budget began.
        resume: a run to continue, with the same config but for the length of the run and the machine; it begins anew
            where it was ended before its first save.
        trained: the model that `config.train.init` names, to start from.
        accept_data: the pictures and boxes of a run that is continued may have changed.
        fresh_minutes: the config's minutes are for this session, instead of the whole run.
        goal: ends the run before its minutes are over.
        threads: their number may change during training.
        own_transform: of the user's, for training pictures.

    Raises:
        UserError: an error in data, weights, device or folders.
    """
    budget = config.train.minutes * 60
    require_free(output, resume)
    if resume is not None and is_unsaved(resume):
        require_same_transform(resume, transform_of(resume), "" if own_transform is None else own_transform.name)
        console.print(f"{resume} was ended before anything was saved: the run begins anew")
        resume = None
    train_index, val_index = read_splits(config, check_seconds=min(5.0, budget / 20) if budget else 5.0)
    if config.train.patience and val_index is None:
        raise UserError(
            f"--patience {config.train.patience} counts evaluations on val, but there is no val split without pictures "
            f"of training; give one by --val-split, or leave --patience out"
        )
    trainer = assemble(
        config, train_index, val_index, output, started, resume, trained=trained, fresh_minutes=fresh_minutes,
        accept_data=accept_data, goal=goal, threads=threads, own_transform=own_transform,
    )  # fmt: skip
    if trainer.accelerator.is_main_process:
        label_map = trainer.checkpoint.label_map
        of_val = None if val_index is None else val_index.under(label_map)
        trainer.watch = Watch(trainer.folder, train_index.under(label_map), of_val)
        trainer.report = RunReport(trainer.folder, train_index.under(label_map), of_val, trainer.watch.said)
        if resume is not None:
            trainer.report.restore(resume)
    say_what_to_expect(trainer)
    return trainer


def assemble(
    config: RunConfig,
    train_index: DatasetIndex,
    val_index: DatasetIndex | None,
    output: Path | None,
    started: float,
    resume: Path | None = None,
    *,
    trained: Checkpoint | None = None,
    fresh_minutes: bool = False,
    accept_data: bool = False,
    goal: Goal | None = None,
    threads: Threads | None = None,
    objects: ObjectSizes | None = None,
    own_transform: OwnTransform | None = None,
) -> Trainer:
    """Build or restore the model and prepare the run on data that were read.

    Arguments as in `prepare_training`; sizes are chosen for `objects`, by default those of `train_index`.
    """
    device = resolve_device(config.train.device)
    if device.type == "cuda" and device.index is not None:
        if "LOCAL_RANK" in os.environ:
            reason = "names one GPU, but torchrun gives each process its own: leave out the number"
            raise UserError(f"--device {config.train.device} {reason}")
        torch.cuda.set_device(device)  # Accelerate takes the current one
    join_processes(device)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no", gradient_accumulation_steps=1)
    keep_freed_memory()
    torch.manual_seed(config.train.seed)
    budget = config.train.minutes * 60
    plan = Plan(total_steps=1, total_seconds=budget or None, started=started, goal=goal)
    objects, state, data = objects or measure_objects(train_index), None, config.data
    open_size = (data.image_size, data.max_size, data.train_sizes) == (0, 0, ())
    if resume is None:
        checkpoint, speed = new_model(config, train_index, accelerator.device, plan, trained, objects)
    else:
        seen = identity(resume)
        checkpoint, state = resumed_model(
            config, resume, train_index, accept_data=accept_data,
            transform="" if own_transform is None else own_transform.name,
        )  # fmt: skip
        model, config = on_device(checkpoint.model, config, accelerator.device)
        checkpoint = replace(checkpoint, model=model, config=config)
        speed = look_at_speed(checkpoint.config, checkpoint.model, accelerator.device, objects.in_a_picture)
    output = output or of_first_process(
        accelerator, lambda: make_new_folder(Path("runs", DataSource.of_config(data).name))
    )
    checkpoint, config = replace(checkpoint, source=output), checkpoint.config
    transform = training_transform(config.data, checkpoint.preprocessing)
    level = checkpoint.preprocessing.white_level
    cache = build_cache(config.data, train_index.sizes, config.train.workers, level)
    dataset = DetectionDataset(
        train_index.under(checkpoint.label_map),
        transform,
        config.train.seed,
        cache,
        level,
        not config.data.strict,
        own_transform,
    )
    sizing = Sizing(objects, len(train_index), speed, is_open=open_size and budget > 0 and goal is None)
    trainer = Trainer(checkpoint, dataset, val_index, plan, accelerator, output, sizing, threads)
    plan.total_steps = config.train.epochs * trainer.pictures.steps_per_epoch
    seed_generators(config.train.seed + accelerator.process_index)  # other random numbers in each process
    trainer.state.transform = "" if own_transform is None else own_transform.name
    if state is not None and resume is not None:
        plan.spent, plan.began = state["spent"], state["began"]
        if budget:
            plan.total_seconds = plan.spent + budget if fresh_minutes else state["total_seconds"] or budget
            if not fresh_minutes:  # it ends where it would have ended; with others it makes a step at least
                vars(plan).update(state.get("pace", {}))
        trainer.restore(state, resume)
        trainer.folder.seen = seen
    if (processes := accelerator.num_processes) > 1:
        pictures = config.train.batch_size * config.train.accumulate * processes
        console.print(f"{processes} processes: every step sees {pictures} pictures")
    return trainer


def say_what_to_expect(trainer: Trainer) -> None:
    """Print a forecast of the run, and a warning where a step probably does not fit into memory."""
    plan, accelerator, sizing = trainer.plan, trainer.accelerator, trainer.sizing
    objects, speed = sizing.objects, sizing.speed
    if plan.goal is None:  # a run with a goal prints its own forecast after some steps
        left = None if plan.total_seconds is None else plan.remaining()
        forecast, shortness = expectations(
            trainer.config, objects, sizing.pictures, speed, left, accelerator.num_processes, trainer.state.epoch
        )
        if forecast:
            console.print(forecast)
        if shortness:
            warn(shortness)
    if problem := memory_problem(trainer.config, objects, speed, trainer.checkpoint.model):
        warn(problem)


def read_splits(config: RunConfig, check_seconds: float) -> tuple[DatasetIndex, DatasetIndex | None]:
    """The training split, and the split that chooses `best`, None where there can be none; prints what it finds."""
    data, source = config.data, DataSource.of_config(config.data)
    train_index = load_index(source, data.train_split)
    console.print(f"{source}: read as {train_index.layout}")
    console.print(f"{data.train_split}: {describe(train_index)}; {describe_classes(train_index.label_map)}")
    for warning in warnings(train_index, config.model.num_queries):
        warn(warning)
    check_pictures(train_index, check_seconds, strict=data.strict)
    if not has_split(source, data.val_split):
        kept = "only the last weights are kept."
        if data.val_split == "none":
            console.print(f"No val split is used: {kept}")
        else:
            warn(f"{source} has no split '{data.val_split}' to choose the best weights by: {kept}")
        return train_index, None
    val_index = load_index(source, data.val_split).with_ids_of(train_index.label_map)
    train_index.label_map.require_same_categories(val_index.label_map, str(val_index.source))
    console.print(f"{data.val_split}: {describe(val_index)}")
    for sentence in left_out_in_words(val_index):
        warn(sentence)
    check_pictures(val_index, check_seconds, strict=data.strict)
    if shared := shared_pictures(val_index, train_index):
        warn(
            f"{counted(len(shared), 'picture')} of '{data.val_split}' {'is' if len(shared) == 1 else 'are'} in "
            f"'{data.train_split}' too, first {shared[0]}: '{data.val_split}' cannot choose the best weights, so only "
            f"the last are kept."
        )
        return train_index, None
    return train_index, val_index


def new_model(
    config: RunConfig,
    index: DatasetIndex,
    device: torch.device,
    plan: Plan,
    trained: Checkpoint | None,
    objects: ObjectSizes,
) -> tuple[Checkpoint, Speed]:
    """The model to train, trained or with a pretrained backbone, and the speed; chooses what the config leaves open."""
    config, choices = fit_to_data(config, index)
    label_map, new_head = index.label_map, config.train.new_head
    if trained is not None:
        label_map = labels_for(trained, label_map, str(index.source), new_head=new_head)
        model, remarks = begin_with(trained, config, label_map, new_head=new_head)
        weights_from = config.train.init
        mean, std = trained.preprocessing.mean, trained.preprocessing.std
        for remark in (f"starting from {weights_from}", *remarks):
            console.print(remark)
    else:
        model, weights_from = build_pretrained_model(config.model, config.loss, label_map.num_classes)
        console.print(f"backbone {config.model.backbone}: {weights_from}")
        mean, std = normalisation(model.backbone.body)
    model, config = on_device(model, config, device)
    processes = PartialState().num_processes
    seconds = plan.remaining() * processes if plan.total_seconds else None
    speed = look_at_speed(config, model, device, objects.in_a_picture)
    config, more = fit_to_time(config, objects, len(index), speed.seconds_per_pixel, seconds)
    choices += more
    if config.train.batch_size == 0:
        config, choice = fit_batch(config, processes, partial(fits_in_memory, objects, speed, model))
        choices.append(choice)
    for choice in choices:
        console.print(f"chosen: {choice}")
    (config,) = broadcast_object_list([config])  # processes measure differently: the first one decides
    data = config.data
    white_level = find_white_level(record.path for record in index.records)
    if white_level is not None:
        console.print(f"chosen: {white_level} is the white of the 16-bit pictures, as their largest value says")
    elif trained is not None:
        white_level = trained.preprocessing.white_level
    preprocessing = Preprocessing(data.image_size, data.max_size, mean, std, data.multiple_of, white_level)
    origin = Origin(
        data=str(DataSource.of_config(data)), train_split=data.train_split, backbone_weights=weights_from,
        created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    )  # fmt: skip
    return Checkpoint(model, config, label_map, preprocessing, origin, Path()), speed


def fixed_parts(config: RunConfig) -> tuple[str, ...]:
    """The parts of the model that are not trained; UserError if their weights would be random."""
    train, model = config.train, config.model
    backbone = ("backbone",) if train.backbone_lr == 0 else ()  # not trained at all, as in the official code
    parts = tuple(dict.fromkeys((*train.freeze, *backbone)))
    for part in parts if not train.init else ():
        if part != "backbone" or model.backbone_weights == "none":
            asked = f"--freeze {part}" if part in train.freeze else "train.backbone_lr = 0"
            raise UserError(f"{asked} would fix random weights: start from a trained model by --init, or leave it out")
    return parts


def on_device(model: DETR, config: RunConfig, device: torch.device) -> tuple[DETR, RunConfig]:
    """The model on the device, its frozen parts fixed; the config with precision and loader processes chosen."""
    freeze(model, fixed_parts(config))
    model = place(model, device)
    asked = config.train.precision
    precision, reason = fit_precision(model, device, asked, training=True)
    if asked != "fp32":
        console.print(f"chosen: {reason}")
    measured = [precision, model.backbone.in_full_precision]  # by each process: the first one decides
    precision, model.backbone.in_full_precision = broadcast_object_list(measured)
    workers = config.train.workers if config.train.workers >= 0 else default_workers(device)
    return model, config.with_values({"train.precision": precision, "train.workers": workers}, "this machine")
