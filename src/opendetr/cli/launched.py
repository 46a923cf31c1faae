"""One of the processes of `--devices N`; `opendetr.api.launching` starts it and gives it its order."""

import os
import pickle
import sys
from contextlib import nullcontext
from pathlib import Path

from opendetr.api.launching import ERROR, ORDER, RESULT
from opendetr.api.learning import train
from opendetr.errors import UserError
from opendetr.files import write_bytes
from opendetr.progress import silence

PEER_IS_GONE = ("by peer", "NCCL", "gloo")  # in what a process says when another one has ended


def _main(folder: Path) -> None:
    """Be one of the processes."""
    order = pickle.loads((folder / ORDER).read_bytes())
    try:
        with silence() if order["is_quiet"] else nullcontext():
            run = train(**order["options"])
    except UserError as error:
        write_bytes(folder / ERROR, pickle.dumps(error))  # at once: each of them writes it
        sys.exit(2)
    except RuntimeError as error:
        if not any(word in str(error) for word in PEER_IS_GONE):
            raise
        sys.exit(1)  # the launcher says which process ended first
    if os.environ["RANK"] == "0":
        (folder / RESULT).write_text(str(run), encoding="utf-8")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
