"""What the command sets in its own process before torch is loaded; a library must not."""

import os

__all__ = ["prepare_environment"]


def prepare_environment() -> None:
    """Set how threads wait and how large arrays are kept, unless the user has set it.

    OpenMP and torch read both when torch is first loaded: call it before that.
    """
    # Threads that wait for others sleep. Spinning, the default of OpenMP, doubles the CPU time of a
    # run on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Large arrays come and go with every volume: in pages of 2 MB that costs a third less CPU time.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
