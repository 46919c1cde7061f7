"""Refine cryo-EM single-particle images to the highest resolution that they hold."""

import os

# Threads that wait for others sleep. Spinning, the default of OpenMP, doubles the CPU time of a run
# on a busy machine. Both are read when torch is first loaded; a value that the user has set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Large arrays come and go with every volume: in pages of 2 MB that costs a third less CPU time.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
