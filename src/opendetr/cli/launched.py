"""One of the processes of `--devices N`; `opendetr.api.launching` starts it and gives it its order."""

import os
import pickle
import signal
import sys
from contextlib import nullcontext
from pathlib import Path


def _main(folder: Path) -> None:
    """Be one of the processes."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends it without a traceback, until the training listens itself
    from opendetr.api.launching import ERROR, ORDER, RESULT, STOPPED
    from opendetr.api.learning import train
    from opendetr.errors import UserError
    from opendetr.files import write_bytes
    from opendetr.progress import silence
    from opendetr.training.processes import PeerGoneError

    order = pickle.loads((folder / ORDER).read_bytes())
    try:
        with silence() if order["is_quiet"] else nullcontext():
            run = train(**order["options"])
    except PeerGoneError:
        sys.exit(1)  # the launcher says which process ended first
    except UserError as error:
        if not error.is_said_elsewhere:
            write_bytes(folder / ERROR, pickle.dumps(error))  # at once: several may write it
        sys.exit(2)
    except KeyboardInterrupt:  # a second Ctrl-C
        sys.exit(STOPPED)
    if os.environ["RANK"] == "0":
        (folder / RESULT).write_text(str(run), encoding="utf-8")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
