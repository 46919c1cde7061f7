"""The canonical table of particles: ångströms and radians, whatever the file used."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from cryorefine.optics.ctf import Defocus
from cryorefine.optics.group import OpticsGroup

__all__ = ["ParticleTable"]


@dataclass(frozen=True, eq=False)
class ParticleTable:
    """All that is known of each particle. Arrays have one entry per particle.

    Attributes
    ----------
    stacks
        Image files; ``stack_index`` points into them.
    image_index
        Position in the stack, from 0.
    optics
        Optics groups; ``optics_index`` points into them.
    micrographs
        Names; ``micrograph_index`` points into them. A particle without a name is alone in its own.
    euler_rad
        (n, 3): rot, tilt, psi; see ``docs/conventions.md``.
    shift_A
        (n, 2): x, y by which the image's content must be moved to be centred (RELION's origin).
    has_pose
        Whether the file gave angles.
    is_unassigned
        (n,): rows whose angles are no pose, as a run that never came to them marked them; empty
        where nothing is marked.
    defocus_u_A, defocus_v_A, defocus_angle_rad, phase_shift_rad, bfactor_A2, ctf_scale
        See :class:`~cryorefine.optics.ctf.Defocus`.
    half_set
        1 or 2; 0 where not assigned yet.
    names
        ``index@stack`` as written in the file, for messages and output.
    extra
        Columns nobody here knows, label to byte strings, carried through untouched.
    extra_optics
        The same for the optics block, one entry per optics group.
    earlier
        Columns of numbers that an earlier run of cryorefine wrote, by label: (n,) each.
    source
        File it was read from.
    companions
        Further files that were read for it: tables that are joined, files of the CTF, lists.
    lines
        Line of each particle in that file, for messages.
    remarks
        What a user should hear of the file: columns that are not what they seem, an odd end.
    is_inverted
        Whether the file says that particles are black in the images.
    foreign, foreign_format
        Columns of a file of another format than RELION's, as they were, and the format's name: they
        are written where that format is written again.
    extra_blocks
        Further blocks of a RELION file, name to columns.
    unread
        Labels of columns that are neither read nor kept: words that a run wrote, stale shifts.
    """

    stacks: tuple[Path, ...]
    stack_index: np.ndarray
    image_index: np.ndarray
    optics: tuple[OpticsGroup, ...]
    optics_index: np.ndarray
    micrographs: tuple[str, ...]
    micrograph_index: np.ndarray
    euler_rad: np.ndarray
    shift_A: np.ndarray
    has_pose: bool
    defocus_u_A: np.ndarray
    defocus_v_A: np.ndarray
    defocus_angle_rad: np.ndarray
    phase_shift_rad: np.ndarray
    bfactor_A2: np.ndarray
    ctf_scale: np.ndarray
    half_set: np.ndarray
    names: np.ndarray
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    extra_optics: dict[str, np.ndarray] = field(default_factory=dict)
    earlier: dict[str, np.ndarray] = field(default_factory=dict)
    source: Path = Path()
    lines: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    is_unassigned: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    remarks: tuple[str, ...] = ()
    is_inverted: bool = False
    foreign: dict[str, np.ndarray] = field(default_factory=dict)
    foreign_format: str = ""
    extra_blocks: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    companions: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.image_index)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files besides ``source`` that what is computed depends on."""
        return (*self.stacks, *self.companions)

    @property
    def lacks_pose(self) -> np.ndarray:
        """Which particles the file gives no pose of: (n,) bool."""
        if self.has_pose and len(self.is_unassigned):
            return self.is_unassigned
        return np.full(len(self), not self.has_pose)

    def select(self, rows: np.ndarray) -> "ParticleTable":
        """Return the table with only these rows (indices or mask), in that order."""
        rows = np.asarray(rows)
        return replace(
            self,
            **{
                name: getattr(self, name)[rows]
                for name in (
                    "stack_index",
                    "image_index",
                    "optics_index",
                    "micrograph_index",
                    "euler_rad",
                    "shift_A",
                    "defocus_u_A",
                    "defocus_v_A",
                    "defocus_angle_rad",
                    "phase_shift_rad",
                    "bfactor_A2",
                    "ctf_scale",
                    "half_set",
                    "names",
                )
            },
            lines=self.lines[rows] if len(self.lines) else self.lines,
            is_unassigned=self.is_unassigned[rows]
            if len(self.is_unassigned)
            else self.is_unassigned,
            extra={label: column[rows] for label, column in self.extra.items()},
            earlier={label: column[rows] for label, column in self.earlier.items()},
            foreign={label: column[rows] for label, column in self.foreign.items()},
        )

    def without_labels(self) -> "ParticleTable":
        """Return the table with numbers only, for work on images: it is quickly handed over."""
        none = np.zeros(len(self), "S1")
        return replace(
            self,
            names=none,
            micrographs=(),
            extra={},
            extra_optics={},
            earlier={},
            foreign={},
            extra_blocks={},
            lines=np.zeros(0, np.int64),
        )

    def defocus(self, rows: np.ndarray, dtype: torch.dtype = torch.float32) -> Defocus:
        """Return the CTF values of some particles as tensors."""

        def column(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(values[rows])).to(dtype)

        return Defocus(
            u_A=column(self.defocus_u_A),
            v_A=column(self.defocus_v_A),
            angle_rad=column(self.defocus_angle_rad),
            phase_shift_rad=column(self.phase_shift_rad),
            bfactor_A2=column(self.bfactor_A2),
            scale=column(self.ctf_scale),
        )

    def where(self, row: int) -> str:
        """Return "file, line N" for a message about one particle."""
        line = (
            f", line {int(self.lines[row])}" if row < len(self.lines) else f", particle {row + 1}"
        )
        return f"{self.source}{line}"
