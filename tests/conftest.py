"""What every test may ask for."""

import os
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import settings

from cryorefine.cli.environment import prepare_environment

prepare_environment()  # before torch is loaded
import torch  # noqa: E402

from tests.type_checks import begin_test, of_first_calls  # noqa: E402

# Shapes and types in the annotations are checked at run time by every test, from here on. Not in
# the commands and the report, which have no tensors, nor in numba's functions, which cannot be.
jaxtyping.jaxtyped = of_first_calls(jaxtyping.jaxtyped)
jaxtyping.install_import_hook(
    [
        f"cryorefine.{name}"
        for name in (
            "geometry", "fourier.band", "fourier.crop", "fourier.fft", "fourier.filter",
            "fourier.radial", "fourier.shell", "optics", "masks", "kernels.grid", "kernels.poses",
            "kernels.reference", "kernels.dispatch", "kernels.gpu",
            "io.atomic", "io.hdf5", "io.library_stack", "io.model", "io.mrc", "io.open_files",
            "io.open_stack", "io.output_path", "io.spider", "io.stack", "io.star", "io.star_rows",
            "io.tiff", "io.unreadable", "particles", "model",
            "assign", "reconstruct", "weigh", "evaluate", "restore", "engine", "events", "settings",
            "state", "expectation", "refine", "records", "storage", "run", "api",
        )
    ],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)  # fmt: skip

from cryorefine.engine.threads import begin_worker  # noqa: E402

# Without a GPU Triton's kernels are interpreted. Triton reads this once, when it is imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, max_examples=30, database=None
)
settings.load_profile("repeatable")


def pytest_runtest_setup() -> None:
    begin_test()
    begin_worker(2)  # whatever the tests before left: torch's bits depend on its threads


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data files that are not part of the repository.

    ``CRYOREFINE_DATA`` names it; else it is looked for as ``shared/data`` beside the checkout.
    """
    named = os.environ.get("CRYOREFINE_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data not at {folder}; set CRYOREFINE_DATA to the folder that has it")
    return folder
