"""How the threads of OpenMP, which PyTorch computes with, wait for each other.

OpenMP synchronises its threads after every operation. Where another program runs on one of the cores, the others wait
for the thread without a core, and by default they wait by spinning: they take the time that the late thread needs. So
threads should spin only briefly.
"""

import os

# GNU's OpenMP spins so many times before a thread sleeps, by default 300,000 times: two milliseconds instead of twenty.
# Alone this is as fast as the default; with fewer, threads sleep between operations, and waking them takes a tenth of
# the speed (docs/results/contention.md). Intel's and LLVM's OpenMP count milliseconds, by default 200.
WAITING = {"GOMP_SPINCOUNT": "30000", "KMP_BLOCKTIME": "2"}
WAITING_OF_USERS = ("OMP_WAIT_POLICY", *WAITING)


def set_waiting_policy() -> None:
    """Let threads of OpenMP sleep soon when they wait. Has an effect only before torch is imported.

    Where the user has set any of the variables that decide about this, nothing is changed.
    """
    if not any(name in os.environ for name in WAITING_OF_USERS):
        os.environ.update(WAITING)
