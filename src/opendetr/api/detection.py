"""The commands that detect, and the one that explains: `predict`, `track`, `explain`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from opendetr.checkpoints.loading import load_checkpoint
from opendetr.data.source import DataRoots, DataSource, Renames
from opendetr.data.transforms import WITHOUT_PADDING
from opendetr.devices import resolve_device
from opendetr.errors import UserError
from opendetr.files import require_folder
from opendetr.inference.detector import Detector, computes_on
from opendetr.inference.distributed import Job, predict_distributed
from opendetr.inference.label_files import Saving
from opendetr.inference.prediction import Tiling, predict_pictures, predict_video
from opendetr.inference.results import Shard, pictures_left
from opendetr.inference.sources import expand_sources
from opendetr.inference.tracking import require_trackers, track_video
from opendetr.inference.video import count_frames, is_video
from opendetr.options import EngineName, PrecisionName, PredictEngine, require_batch_size, require_choice, require_score
from opendetr.threads import settle_threads

WORTH_MEASURING = 32  # pictures: measuring the best number of threads takes longer than it saves on fewer


def predict(
    model: str | Path,
    sources: Sequence[str],
    output: str | Path,
    *,
    threshold: float | None = None,
    batch_size: int = 4,
    tile: int | None = None,
    overlap: float = 0.2,
    every: int = 1,
    image_size: int | None = None,
    shards: str | None = None,
    classes: str | int | Sequence[str | int] | None = None,
    drawn: bool = True,
    save_txt: bool = False,
    save_csv: bool = False,
    save_coco: bool = False,
    save_crops: bool = False,
    engine: PredictEngine = "auto",
    workers: int | None = None,
    precision: PrecisionName = "fp32",
    device: str = "auto",
    threads: int | str | None = None,
) -> Path | str:
    """Detect objects in files, folders, globs, videos, webcams and streams.

    Results are written one by one, and the same call continues after a stop. Pictures that cannot be read are left out;
    the others are written before this is reported.

    Args:
        model: any model that can be loaded, or an exported file.
        sources: pictures, folders, globs, video files, `webcam`, `webcam:1`, `rtsp://...`; `https://...` of a picture,
            which is downloaded into `downloaded/` of the output.
        output: the folder for drawn pictures and videos and for `detections.json`.
        threshold: the lowest score that is reported; None: the model's own of each class, which training has fitted on
            val, else 0.5.
        batch_size: pictures at once, as far as they have one shape; the result does not depend on it.
        tile: cut pictures into tiles of this side in pixels, for objects that are small in huge pictures.
        overlap: smallest overlap of neighbouring tiles, as a share of their side.
        every: use every N-th frame of a video.
        image_size: another shorter side of pictures, in pixels, than the model's own; the longer one in proportion.
        shards: `I/N`: only part I of N of the pictures; the last part to finish writes `detections.json` of all.
        classes: names or raw category ids of the classes that are reported; None for all.
        drawn: whether to write the pictures with their detections drawn.
        save_txt: whether to write YOLO labels, `labels/NAME.txt` for every picture, and `classes.txt`.
        save_csv: whether to write `detections.csv`, a line per detection.
        save_coco: whether to write `coco/`, a data set of the pictures and detections to start labelling from.
        save_crops: whether to write the part of the picture in each box, `crops/CLASS/NAME-01.jpg`. In these four files
            boxes are clipped to their picture.
        engine: what runs the model, as in `Detector.load`; or `ray`: workers on this machine or a cluster, each with
            the engine that `auto` chooses. Sources may then be addresses (`s3://...`) and Parquet tables, and `output`
            an address; results are Parquet files, in a local folder `detections.json` too, and nothing is drawn.
        workers: with `ray`, the number of models that work at once.
        precision: `fp32`, `bf16` or `int8`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: number of threads, or `auto`: the fastest, measured, which is the default for many
            pictures. With `ray` the most of a worker, by default its share of the processors.

    Returns:
        `detections.json`: COCO results with `file_name` and `name`. `image_id` is the data set's where all pictures
        belong to one, else the number of the picture, from 1; in a video the number of the frame, with its time in
        `seconds`. Of a part, its own file; at an address, that of the Parquet files.

    Raises:
        UserError: no such model or source; or pictures that could not be read, after the others were written.
    """
    require_score("--threshold", threshold)
    require_batch_size(batch_size)
    require_choice("engine", engine, PredictEngine)
    require_choice("precision", precision, PrecisionName)
    folder, shard = Path(output), Shard.parse(shards)
    tiling, saving = None if tile is None else Tiling(tile, overlap), Saving(save_txt, save_csv, save_coco, save_crops)
    videos = [source for source in sources if is_video(source)]
    named = _named(classes)
    if engine == "ray":
        if saving.names:
            raise UserError(f"--engine ray writes Parquet tables: leave out {', '.join(saving.names)}")
        if videos or shard.count > 1:
            raise UserError("--engine ray works on pictures and shares them itself: leave out videos and --shards")
        settle_threads(threads, measure=False, device=resolve_device(device).type)
        job = Job(str(model), "auto", precision, device, str(output), threshold, batch_size, tiling, named, image_size)
        return predict_distributed(job, list(sources), workers)
    if workers is not None:
        raise UserError("--workers belongs to --engine ray; other engines use all threads of one process")
    if videos and (len(sources) > 1 or shard.count > 1):
        raise UserError(f"{videos[0]} is a video: give it alone, without --shards")
    require_folder(folder)
    paths = [] if videos else expand_sources(list(sources), folder)
    if not videos and not paths:
        raise UserError(f"nothing to detect in: every source lies in --output {folder}; choose another folder")
    in_shard = len(range(shard.number - 1, len(paths), shard.count))
    todo = count_frames(videos[0], every) if videos else pictures_left(folder, shard, in_shard)
    many = bool(videos) or todo >= WORTH_MEASURING
    settle_threads(threads, measure=many, device=computes_on(model, engine, device))
    detector = Detector.load(model, device, engine, precision, todo, image_size)
    indices = None if named is None else detector.description.label_map.indices_of(named)
    if videos:
        return predict_video(
            detector, videos[0], folder, every, threshold, batch_size, tiling, drawn=drawn, classes=indices,
            saving=saving,
        )  # fmt: skip
    return predict_pictures(
        detector, paths, folder, shard, threshold, batch_size, tiling, drawn=drawn, classes=indices, saving=saving
    )


def _named(classes: str | int | Sequence[str | int] | None) -> tuple[str | int, ...] | None:
    """The classes as a tuple; one may be given by itself."""
    if classes is None:
        return None
    return (classes,) if isinstance(classes, str | int) else tuple(classes)


def track(
    model: str | Path,
    video: str,
    output: str | Path,
    *,
    threshold: float | None = None,
    every: int = 1,
    image_size: int | None = None,
    classes: str | int | Sequence[str | int] | None = None,
    drawn: bool = True,
    engine: EngineName = "auto",
    precision: PrecisionName = "fp32",
    device: str = "auto",
    threads: int | str | None = None,
) -> Path:
    """Follow objects through a video, webcam or stream: each has one id in all frames (ByteTrack; extra `track`).

    Args:
        model: any model that can be loaded, or an exported file.
        video: a video file, `webcam`, `webcam:1`, `rtsp://...`.
        output: the folder for `tracks.json`, `tracks.csv` and the drawn video.
        threshold: the lowest score with which an object begins to be followed; lower ones continue its track.
            None: the model's own of each class, else 0.5.
        every: use every N-th frame.
        image_size: another shorter side of frames, in pixels, than the model's own; the longer one in proportion.
        classes: names or raw category ids of the classes that are followed; None for all.
        drawn: whether to write the video with boxes, ids and the lines along which objects came.
        engine: what runs the model, as in `Detector.load`.
        precision: `fp32`, `bf16` or `int8`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: number of threads, or `auto`, the default: the fastest, measured.

    Returns:
        `tracks.json`: COCO results with `track_id` (from 1), `seconds`, `file_name` and `name`; `image_id` is the
        number of the frame, from 1. `tracks.csv` has the same with clipped boxes.

    Raises:
        UserError: the package `trackers` is not installed; no such model, class or video; or a part of the video could
            not be read, after the rest was written.
    """
    require_score("--threshold", threshold)
    if not is_video(video):
        raise UserError(
            f"{video} is no video; expected a video file, webcam, webcam:1 or an address such as rtsp://..."
        )
    require_trackers()
    folder = Path(output)
    require_folder(folder)
    settle_threads(threads, measure=True, device=computes_on(model, engine, device))
    detector = Detector.load(model, device, engine, precision, count_frames(video, every), image_size)
    named = _named(classes)
    indices = None if named is None else detector.description.label_map.indices_of(named)
    return track_video(detector, video, folder, every, threshold, drawn=drawn, classes=indices)


def explain(
    model: str | Path,
    pictures: Sequence[str] = (),
    output: str | Path = "explained",
    *,
    data: DataRoots | None = None,
    classes: str | Iterable[str] | None = None,
    rename: Renames | None = None,
    voc_origin: int = 0,
    split: str = "val",
    slots: bool = False,
    image: int | str | None = None,
    matching: bool = False,
    points: Sequence[tuple[float, float]] = (),
    layer: int = 0,
    head: int = 0,
    threshold: float | None = None,
    at_most: int = 12,
    image_size: int | None = None,
    device: str = "auto",
    threads: int | str | None = None,
) -> Path:
    """Show what a model attends to in pictures, what its queries do over a data set, or why objects were missed.

    Args:
        model: any model (`docs/reference/checkpoints.md`).
        pictures: files, folders and globs: attention of encoder, decoder and between queries, layer by layer.
        output: the folder for figures (PNG), raw arrays (npz) and the page `explain.html`.
        data: instead of pictures: a data set's folder, or a list of several, with `slots`, or with `image` and
            `matching`.
        classes: only these classes, by name; the objects of others are left out. None keeps all.
        rename: other names for classes, as a mapping from old to new; classes of one name become one.
        voc_origin: the number of the first pixel in Pascal VOC's coordinates, 0 or 1.
        split: of the data set.
        slots: what every query does over the split, and AP by decoder layer.
        image: the file name or the raw id of one of its pictures.
        matching: for that picture, which query was matched to which object, at what cost, why one was missed, and what
            each false alarm is.
        points: x, y in pixels of the picture, for the encoder's self-attention, to and from the cells there; by default
            on detections.
        layer: number of the layer, from 1; 0 is the last.
        head: number of the attention head, from 1; 0 is the mean.
        threshold: lowest score of the detections that are explained; the best three where none reaches it. None:
            the model's own of each class, else 0.5.
        at_most: most detections explained per picture, best first.
        image_size: another shorter side of pictures, in pixels, than the model's own; the longer one in proportion.
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: number of threads, or `auto`, the default: the fastest, measured.

    Returns:
        The page, one HTML file that needs no network.

    Raises:
        UserError: no such model, picture, split, id, layer or head; a point outside the picture; contradictory options.
    """
    from opendetr.explanation.explaining import Asked
    from opendetr.explanation.writing import explain_data, explain_sources

    require_score("--threshold", threshold)
    asked_for = (bool(pictures), data is not None, slots, matching, image is not None)
    if asked_for not in {  # pictures; or data with slots; or data with a picture's matching
        (True, False, False, False, False), (False, True, True, False, False), (False, True, False, True, True),
    }:  # fmt: skip
        raise UserError("explain needs pictures, or --data DIR with --slots, or --data DIR with --image ID --matching")
    if data is not None and (points or layer or head):
        raise UserError("--point, --layer and --head belong to pictures: leave them out with --data")
    if at_most < 1:
        raise UserError(f"--at-most {at_most}: expected 1 or more detections to explain")
    folder, asked = Path(output), Asked(threshold, points, layer, head, at_most)
    require_folder(folder)
    settle_threads(threads, measure=True, device=resolve_device(device).type)
    detector = Detector.of_checkpoint(load_checkpoint(model, image_size=image_size), device)
    if detector.description.preprocessing.pad_size is not None:
        raise UserError(f"explain shows no maps over padded pictures: {WITHOUT_PADDING}")
    asked.check(detector)
    if data is None:
        return explain_sources(detector, str(model), pictures, folder, asked)
    return explain_data(
        detector, str(model), DataSource.of(data, classes, rename, voc_origin), split, image, folder, threshold
    )
