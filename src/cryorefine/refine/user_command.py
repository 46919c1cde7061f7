"""Commands of the user's own within a run: what they are told, and what becomes of a map."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.restore.command import transform_volume
from cryorefine.state.state import Inputs

__all__ = ["COMMAND_VARIABLES", "run_user_command"]

_FOLDER = "iterDir"
"""As the HighRes protocol names it."""

COMMAND_VARIABLES = ("volume", "sampling", "dim", "half", "iteration", _FOLDER)
"""What the commands of a user may name; the post-processed map has half 0."""


def run_user_command(
    inputs: Inputs, volume: Float[Tensor, "z y x"], template: str, half: int, iteration: int
) -> Float[Tensor, "z y x"]:
    """Return what a user's command makes of a map.

    A command that names ``{iterDir}`` finds a folder there that stays: ``commands/iteration_NNN``
    within the run's, the same for all commands of an iteration.

    Raises
    ------
    InputError
        If it fails, with what it said.
    """
    variables: dict[str, object] = {"half": half, "iteration": iteration}
    # Of a name that nobody else can have taken.
    with TemporaryDirectory(prefix="cryorefine-") as temporary:
        folder = Path(temporary) if inputs.run_folder is None else inputs.run_folder
        own = folder.absolute() / "commands" / f"iteration_{iteration:03d}"
        variables[_FOLDER] = own
        if f"{{{_FOLDER}}}" in template:
            own.mkdir(parents=True, exist_ok=True)
        return transform_volume(
            volume.to(torch.float32),
            voxel_A=inputs.voxel_A,
            template=template,
            shell=inputs.settings.command_shell,
            folder=Path(temporary) / "map",
            variables=variables,
        )
