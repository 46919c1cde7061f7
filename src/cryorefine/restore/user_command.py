"""Pass both half maps through a command of the user's own."""

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from cryorefine.restore.command import transform_volume
from cryorefine.restore.protocol import Context, Halves, Restored

__all__ = ["UserCommand"]


@dataclass(frozen=True)
class UserCommand:
    """Runs a command on each half, one after the other; see :mod:`cryorefine.restore.command`.

    It is given one half at a time. What it knows of the other, or of a structure that it was
    trained on, is not known here.

    Attributes
    ----------
    template
        The command; ``{half}`` is 1 or 2.
    shell
        Whether it runs in a shell.
    variables
        To fill in besides those of :func:`~cryorefine.restore.command.transform_volume`.
    """

    template: str
    shell: bool = False
    variables: dict[str, object] = field(default_factory=dict)
    name: ClassVar[str] = "command"
    title: ClassVar[str] = "custom command"
    mixes_halves: ClassVar[bool] = False

    def __call__(self, halves: Halves, context: Context) -> Restored:
        """Return what the command makes of each half.

        Raises
        ------
        InputError
            As :func:`~cryorefine.restore.command.transform_volume`.
        """
        made = []
        for half, volume in enumerate(halves, 1):
            # Of a name that nobody else can have taken.
            with TemporaryDirectory(prefix="cryorefine-") as folder:
                made.append(
                    transform_volume(
                        volume.float(),
                        voxel_A=context.voxel_A,
                        template=self.template,
                        shell=self.shell,
                        folder=Path(folder) / "map",
                        variables={"half": half, "iteration": 0, **self.variables},
                    )
                )
        return Restored((made[0], made[1]), {"command": self.template})
