"""The file operations of a process, counted: it is killed at some of them, or the disk is full from one on.

One process tries all kills of a run: at each it copies its folder and forks, and the fork is killed in the copy.
"""

import builtins
import errno
import fcntl
import io
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

HAVE_MIDDLE = ("open", "write", "copy", "rmtree")  # just after one of the others is just before the next operation
PROCESS = r"(?<=\.)\d+\.(?=tmp$)"  # its id in the name of a temporary file
NEED_ROOM = ("open", "write", "copy", "mkdir", "link")  # the operations that a full disk fails


class Kill:
    """Counts the file operations in a folder, and has forks of this process killed at some of them.

    Args:
        folder: of the run, in the current folder.
        kills: by number of the operation, from 0, and place, `before` it or in its `middle`: the folder, not there yet,
            that is to be as a process killed there leaves the current folder.
        full_from: the number of the operation from which on the disk is full; None for never.
    """

    def __init__(
        self, folder: str, kills: Mapping[tuple[int, str], Path] | None = None, full_from: int | None = None
    ) -> None:
        self.folder, self.kills, self.full_from = folder, kills or {}, full_from
        self.done: list[str] = []
        self.is_inside = False

    def now(self, path: Any, what: str, file: io.IOBase | None = None) -> bool:
        """Count an operation, on a file that is open or not; whether to be killed in its middle."""
        if self.is_inside or Path(path).parts[:1] != (self.folder,):
            return False
        if (what, Path(path).exists()) in (("mkdir", True), ("rmtree", False), ("unlink", False)):
            return False  # nothing will be done
        operation = f"{what} {re.sub(PROCESS, '', str(Path(path).relative_to(self.folder)))}"
        if what == "write" and self.done and self.done[-1] == operation:
            return False  # the same file goes on
        self.done.append(operation)
        number = len(self.done) - 1
        if self.full_from is not None and number >= self.full_from and what in NEED_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        for place in ("before", "middle"):
            copy = self.kills.get((number, place))
            if copy is not None and self._is_victim(copy, path, file):
                if place == "before":
                    self.die()
                return True
        return False

    def _is_victim(self, copy: Path, path: Any, file: io.IOBase | None) -> bool:
        """Copy the current folder and fork; true in the fork, which works in the copy from now on."""
        self.is_inside = True
        self.copy_tree(".", copy)
        self.is_inside = False
        if pid := os.fork():
            _, status = os.waitpid(pid, 0)
            if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
                raise RuntimeError(f"the fork that was to be killed in {copy} ended with the status {status}")
            return False
        os.chdir(copy)
        self.is_inside = True
        if file is not None:  # it goes on in the copy
            place, is_appended = os.lseek(file.fileno(), 0, os.SEEK_CUR), fcntl.fcntl(file, fcntl.F_GETFL) & os.O_APPEND
            descriptor = os.open(path, os.O_WRONLY | is_appended)
            os.lseek(descriptor, place, os.SEEK_SET)
            os.dup2(descriptor, file.fileno())
        return True

    def die(self) -> None:
        """End this process at once."""
        os.kill(os.getpid(), signal.SIGKILL)

    def guard(self, module: Any, name: str, half: Callable[..., None] | None = None) -> None:
        """Count the calls of a function whose first argument is a path; `half` does half of its work."""
        work = getattr(module, name)

        def act(path: Any, *arguments: Any, **options: Any) -> Any:
            if self.now(path, name):
                (half or work)(path, *arguments, **options)  # an operation without a middle: killed just after it
                self.die()
            return work(path, *arguments, **options)

        setattr(module, name, act)

    def arm(self) -> None:
        """Patch the file operations of this process."""
        rmtree, copy, self.copy_tree = shutil.rmtree, shutil.copy2, shutil.copytree

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
                half_copy(source, target)
                self.die()
            inside, self.is_inside = self.is_inside, True
            copied = copy(source, target, *arguments, **options)
            self.is_inside = inside
            return copied

        shutil.copy2 = copies  # type: ignore[assignment]
        link = os.link

        def copies_tree(
            source: Any,
            target: Any,
            symlinks: bool = False,
            ignore: Any = None,
            copy_function: Any = copies,
            *arguments: Any,
            **options: Any,
        ) -> Any:
            return self.copy_tree(source, target, symlinks, ignore, copy_function, *arguments, **options)

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
                if kill.now(self.name, "write", self):
                    super().write(bytes(content)[: len(content) // 2])
                    kill.die()
                return super().write(content)

        io.FileIO = CountedFile  # type: ignore[misc]


class _Counted:
    """A file open for writing whose writes are counted."""

    def __init__(self, file: Any, path: str, kill: Kill) -> None:
        self.file, self.path, self.kill = file, path, kill

    def write(self, content: Any) -> Any:
        if self.kill.now(self.path, "write", self.file):
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
