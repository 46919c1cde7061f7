"""The inner loops: slices out of a transform, slices into it, and scores of poses.

``reference`` says in plain torch what each does and is the oracle of the tests; ``cpu`` does the
same with numba, ``gpu`` with Triton. Call them through :mod:`cryorefine.kernels.dispatch`.
"""
