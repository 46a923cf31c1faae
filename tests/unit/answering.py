"""A program that answers like `opendetr.serving.compute`, without a model: its works do what their arguments say."""

import os
import sys
import time
from types import SimpleNamespace

from opendetr.errors import UserError
from opendetr.serving.compute import Line
from opendetr.serving.messages import packed, receive


def work(worker, *, say=None, refuse=None, fail=None, die=False, wait_for=None):
    if refuse:
        raise UserError(refuse)
    if fail:
        raise ValueError(fail)
    if die:
        os._exit(3)
    while wait_for and not os.path.exists(wait_for):
        time.sleep(0.005)
    return say


def prepare(worker, **given):
    if "note" in given:
        open(given["note"], "w").close()
    if given.get("refuse_early"):
        raise UserError(given["refuse_early"])
    return given


def together(worker, group):
    for one in group:
        if one.get("refuse"):
            raise UserError(one["refuse"])
        if one.get("fail"):
            raise ValueError(one["fail"])
    return [f"{one['say']} of {len(group)}" for one in group]


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    settings = receive(sys.stdin.buffer)

    def send(message):
        answers.write(packed(message))
        answers.flush()

    if settings.model == "missing":
        send(("refused", "missing does not exist"))
        return
    if settings.model == "broken":
        sys.exit(7)
    if settings.model.startswith("once:"):  # the second start fails
        path = settings.model.removeprefix("once:")
        if os.path.exists(path):
            open(f"{path}.tried", "w").close()
            sys.exit(7)
        open(path, "w").close()
    send(("ready", {"name": settings.model, "process": os.getpid()}))
    table = {
        "work": SimpleNamespace(run=work, prepare=None),
        "batched": SimpleNamespace(
            run=together, prepare=prepare, alike=lambda one, other: one["shape"] == other["shape"]
        ),
    }
    Line(None, table, settings.batch_size, send).work_off(sys.stdin.buffer)


if __name__ == "__main__":
    main()
