"""The command line: one command is one function of the api. torch is imported when a command runs, not for its help."""

import time

# The start of the process, as near as Python code gets. The operating system's own figure would not do: a process that
# a shell became by exec is as old as the shell.
STARTED = time.time()

from opendetr.cli.entry import main

__all__ = ["STARTED", "main"]
