"""The file operations of a process, counted: it is killed at one of them, or the disk is full from one on."""

import builtins
import errno
import io
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HAVE_MIDDLE = ("open", "write", "copy", "rmtree")  # just after one of the others is just before the next operation
PROCESS = r"(?<=\.)\d+\.(?=tmp$)"  # its id in the name of a temporary file
NEED_ROOM = ("open", "write", "copy", "mkdir", "link")  # the operations that a full disk fails


class Kill:
    """Counts the file operations in a folder, and kills this process at one of them.

    Args:
        folder: of the run.
        at: the number of the operation, from 0; -1 never kills.
        place: `before` it, or in its `middle`; with `full` nothing is killed, and the disk is full from there on.
    """

    def __init__(self, folder: Path, at: int = -1, place: str = "before") -> None:
        self.folder, self.at, self.place = str(folder), at, place
        self.done: list[str] = []
        self.is_inside = False

    def now(self, path: Any, what: str) -> bool:
        """Count an operation; kill where it is the one, or return whether to be killed in its middle."""
        if self.is_inside or not str(path).startswith(self.folder):
            return False
        if (what, Path(path).exists()) in (("mkdir", True), ("rmtree", False), ("unlink", False)):
            return False  # nothing will be done
        operation = f"{what} {re.sub(PROCESS, '', str(Path(path).relative_to(self.folder)))}"
        if what == "write" and self.done and self.done[-1] == operation:
            return False  # the same file goes on
        self.done.append(operation)
        number = len(self.done) - 1
        if self.place == "full" and 0 <= self.at <= number and what in NEED_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if number != self.at or self.place == "full":
            return False
        if self.place == "before":
            self.die()
        return True

    def die(self) -> None:
        """End this process at once."""
        os.kill(os.getpid(), signal.SIGKILL)

    def guard(self, module: Any, name: str, half: Callable[..., None] | None = None) -> None:
        """Count the calls of a function whose first argument is a path; `half` does half of its work."""
        work = getattr(module, name)

        def act(path: Any, *arguments: Any, **options: Any) -> Any:
            if self.now(path, name):
                self.is_inside = True
                (half or work)(path, *arguments, **options)  # an operation without a middle: killed just after it
                self.die()
            return work(path, *arguments, **options)

        setattr(module, name, act)

    def arm(self) -> None:
        """Patch the file operations of this process."""
        rmtree, copy = shutil.rmtree, shutil.copy2

        def half_tree(path: Path, *_: Any, **__: Any) -> None:
            if Path(path).is_dir():
                files = sorted(Path(path).iterdir())
                for file in files[: len(files) // 2]:
                    rmtree(file) if file.is_dir() else file.unlink()

        def half_copy(source: Path, target: Path, *_: Any, **__: Any) -> None:
            content = Path(source).read_bytes()
            Path(target).write_bytes(content[: len(content) // 2])

        def copies(source: Any, target: Any, *arguments: Any, **options: Any) -> Any:
            if self.now(target, "copy"):
                self.is_inside = True
                half_copy(source, target)
                self.die()
            inside, self.is_inside = self.is_inside, True
            copied = copy(source, target, *arguments, **options)
            self.is_inside = inside
            return copied

        shutil.copy2 = copies  # type: ignore[assignment]
        tree, link = shutil.copytree, os.link

        def copies_tree(source: Any, target: Any, *, copy_function: Any = copies, **options: Any) -> Any:
            return tree(source, target, copy_function=copy_function, **options)

        def links(source: Any, target: Any) -> None:
            is_middle = self.now(target, "link")
            link(source, target)
            if is_middle:
                self.die()

        shutil.copytree, os.link = copies_tree, links  # type: ignore[assignment]
        for name in ("replace", "rename", "mkdir", "unlink"):
            self.guard(os, name)
        self.guard(shutil, "rmtree", half_tree)
        kill, opened = self, io.open

        def opens(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            writes = isinstance(path, str | os.PathLike) and set(mode) & set("wax+")
            if writes and kill.now(path, "open"):
                opened(path, mode, *arguments, **options).close()
                kill.die()
            file = opened(path, mode, *arguments, **options)
            return _Counted(file, str(path), kill) if writes else file

        io.open = builtins.open = opens  # type: ignore[assignment]

        class CountedFile(io.FileIO):  # what `open_for_library` is made of
            def __init__(self, path: Any, mode: str = "r") -> None:
                if "w" in mode and kill.now(path, "open"):
                    super().__init__(path, mode)
                    kill.die()
                super().__init__(path, mode)

            def write(self, content: Any) -> int:
                if kill.now(self.name, "write"):
                    super().write(bytes(content)[: len(content) // 2])
                    kill.die()
                return super().write(content)

        io.FileIO = CountedFile  # type: ignore[misc]


class _Counted:
    """A file open for writing whose writes are counted."""

    def __init__(self, file: Any, path: str, kill: Kill) -> None:
        self.file, self.path, self.kill = file, path, kill

    def write(self, content: Any) -> Any:
        if self.kill.now(self.path, "write"):
            self.file.write(content[: len(content) // 2])
            self.file.flush()
            self.kill.die()
        return self.file.write(content)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __enter__(self) -> "_Counted":
        self.file.__enter__()
        return self

    def __exit__(self, *reason: Any) -> Any:
        return self.file.__exit__(*reason)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)
