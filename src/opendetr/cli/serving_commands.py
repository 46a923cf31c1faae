"""The command that serves a model over HTTP: serve."""

from pathlib import Path
from typing import Annotated, get_args

import opendetr
from opendetr.cli.application import USE, Answer, app
from opendetr.cli.parameters import (
    DATA,
    DATA_HELP,
    MORE_DATA,
    OUTPUT,
    RARE,
    SPEED,
    Device,
    ImageSize,
    KeptClasses,
    ModelOrExported,
    Precision,
    RenamedClasses,
    ThreadCount,
    VocOrigin,
    option,
)
from opendetr.options import EngineName
from opendetr.wording import listed


@app.command(rich_help_panel=USE)
def serve(
    model: ModelOrExported,
    data: Annotated[
        list[str] | None,
        option(DATA, "DIR", f"{DATA_HELP}, to look at in the page; {MORE_DATA}.", default="the run's own"),
    ] = None,
    classes: KeptClasses = None,
    rename: RenamedClasses = None,
    voc_origin: VocOrigin = 0,
    review: Annotated[
        Path | None,
        option(
            OUTPUT,
            "DIR",
            "Where a label review keeps its decisions and the corrected labels.",
            default="beside the labels",
        ),
    ] = None,
    image_size: ImageSize = None,
    host: Annotated[
        str, option(OUTPUT, "ADDRESS", "Where to listen; 0.0.0.0 lets other machines ask, see --api-key-file.")
    ] = "127.0.0.1",
    port: Annotated[int, option(OUTPUT, "N", "The port; 0 chooses a free one.")] = 8000,
    api_key_file: Annotated[
        Path | None, option(OUTPUT, "FILE", "A file with the key that requests must carry.", default="no key")
    ] = None,
    public_name: Annotated[
        str | None,
        option(OUTPUT, "NAME", "The name of a server with TLS that stands before this one.", default="none"),
    ] = None,
    threshold: Annotated[
        float | None,
        option(
            OUTPUT,
            "SCORE",
            "The lowest score that is reported where a request says none.",
            default="the model's own of each class, else 0.5",
        ),
    ] = None,
    batch_size: Annotated[
        int, option(SPEED, "N", "Most pictures of equal shape that go through the model at once.")
    ] = 8,
    engine: Annotated[
        EngineName, option(SPEED, "ENGINE", f"The program that runs the model: {listed(get_args(EngineName))}.")
    ] = "auto",
    precision: Precision = "fp32",
    device: Device = "auto",
    threads: ThreadCount = None,
    max_megabytes: Annotated[float, option(RARE, "N", "Largest request.")] = 64,
    max_megapixels: Annotated[float, option(RARE, "N", "Largest picture.")] = 50,
    max_pictures: Annotated[int, option(RARE, "N", "Most pictures of a request.")] = 16,
    max_waiting: Annotated[
        int, option(RARE, "N", "Most pictures that wait for the model; what comes beyond is answered with 429.")
    ] = 64,
    deadline: Annotated[float, option(RARE, "SECONDS", "A request that takes longer is answered with 504.")] = 30.0,
    label_studio: Annotated[
        str | None, option(RARE, "URL", "The Label Studio whose pictures may be fetched.", default="none")
    ] = None,
    label_studio_token_file: Annotated[
        Path | None, option(RARE, "FILE", "A file with the token that it wants.", default="none")
    ] = None,
) -> Answer:
    """Serve a model over HTTP on this machine, with a page that shows what it sees; until Ctrl-C.

    Examples:
      opendetr serve runs/mine
      opendetr serve runs/mine --data DATA --port 8080
      opendetr serve runs/mine --host 0.0.0.0 --api-key-file key.txt
    """
    opendetr.serve(
        model, data=data or None, classes=classes, rename=rename, voc_origin=voc_origin, review=review,
        host=host, port=port, public_name=public_name,
        threshold=threshold, batch_size=batch_size, image_size=image_size, engine=engine, precision=precision,
        device=device, threads=threads, api_key_file=api_key_file, max_megabytes=max_megabytes,
        max_megapixels=max_megapixels, max_pictures=max_pictures, max_waiting=max_waiting, deadline=deadline,
        label_studio=label_studio, label_studio_token_file=label_studio_token_file,
    )  # fmt: skip
    return Answer({"model": str(model)})
