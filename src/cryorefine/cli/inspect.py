"""``cryorefine inspect``."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cryorefine.cli.file_path import FILE_PATH
from cryorefine.errors import shown

if TYPE_CHECKING:
    from cryorefine.formats.inspection import Inspection

__all__ = ["command"]

_BAR = 40
"""Characters of the longest bar of the histogram."""


@click.command("inspect")
@click.argument("particles", type=FILE_PATH)
@click.option("--scan", is_flag=True, help="Read all images, for NaN and images of one value.")
@click.option(
    "--ctf/--no-ctf", default=True, show_default=True, help="Images with contrast transfer."
)
@click.option("--image-root", type=FILE_PATH, help="Folder that the stacks were moved to.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(particles: Path, scan: bool, ctf: bool, image_root: Path | None, as_json: bool) -> int:
    """Show what PARTICLES holds, and whether it can be refined.

    Exit codes: 0 usable, 1 usable with warnings, 2 not usable.
    """
    from cryorefine.formats.inspection import inspect_particles

    total = 0

    def tell(done: int, of: int) -> None:
        nonlocal total
        total = of
        click.echo(f"\rread {done:,} of {of:,} images", err=True, nl=False)

    found = inspect_particles(particles, ctf=ctf, image_root=image_root, scan=scan, tell=tell)
    if total:
        click.echo(err=True)
    click.echo(json.dumps(_as_json(found), indent=2) if as_json else "\n".join(_lines(found)))
    return found.exit_code


def _as_json(found: "Inspection") -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(one) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return [plain(one) for one in value]
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        return value if isinstance(value, bool | int | None) else str(value)

    return {**plain(asdict(found)), "exit_code": found.exit_code}


def _lines(found: "Inspection") -> list[str]:
    """Return what is shown: facts, then warnings, then errors, then the verdict."""
    kind = f" ({found.format})" if found.format else ""
    lines = [f"file       {shown(str(found.path))}{kind}"]
    if found.n_particles or not found.errors:
        lines += _facts(found)
    lines += [f"not read   {shown(text)}" for text in found.not_understood]
    lines += [f"warning:   {shown(text)}" for text in found.warnings]
    lines += [f"error:     {shown(text)}" for text in found.errors]
    verdict = ("usable", "usable, with warnings", "not usable")[found.exit_code]
    return [*lines, f"verdict    {verdict}"]


def _facts(found: "Inspection") -> list[str]:
    stacks = f"{found.n_stacks:,} stack{'s' if found.n_stacks != 1 else ''}"
    if found.n_unreadable_stacks:
        stacks += f" of which {found.n_unreadable_stacks:,} cannot be read"
    repeated = f", {found.n_repeated:,} repeated" if found.n_repeated else ""
    lines = [f"particles  {found.n_particles:,}{repeated}, in {stacks}"]
    if found.n_micrographs:
        tubes = f", {found.n_filaments:,} filaments" if found.n_filaments else ""
        lines.append(f"origin     {found.n_micrographs:,} micrographs{tubes}")
    for group in found.optics:
        box = f"{group.box_px} px" if group.box_px else "box unknown"
        lens = (
            f"{group.voltage_kV:g} kV, Cs {group.cs_mm:g} mm, amplitude contrast "
            f"{group.amplitude_contrast:g}"
            if group.has_ctf
            else "no contrast transfer"
        )
        extra = "".join(f", {name}" for name in group.aberrations)
        if group.correction != "none":
            extra += f", {group.correction.replace('_', ' ')}"
        lines.append(
            f"optics     {shown(group.name)}: {group.n_particles:,} particles, {box}, "
            f"{group.pixel_A:.4g} Å/px, {lens}{extra}"
        )
    lines.append(_poses(found))
    first, second, neither = found.half_sets
    none = f", {neither:,} in neither" if neither else ""
    lines.append(
        f"half sets  {first:,} and {second:,}{none}" if first + second else "half sets  none yet"
    )
    lines += [
        f"{name:16s} {low:12.5g} to {high:.5g}, median {middle:.5g}"
        for name, (low, middle, high) in found.ranges.items()
    ]
    lines += _histogram(found)
    if found.pixels is not None:
        p = found.pixels
        lines.append(
            f"pixels     {p.n_images:,} images: {p.n_not_finite:,} with NaN or infinite pixels, "
            f"{p.n_constant:,} of one value; mean {p.mean[1]:.4g}, deviation {p.deviation[1]:.4g}"
        )
    if found.earlier:
        lines.append(f"earlier    {', '.join(map(shown, found.earlier))}")
    if found.columns:
        lines.append(f"kept       {', '.join(map(shown, found.columns))}")
    return lines


def _poses(found: "Inspection") -> str:
    n, without = found.n_particles, found.n_without_pose
    if without == n:
        return "poses      none"
    return "poses      all" if without == 0 else f"poses      {n - without:,} of {n:,}"


def _histogram(found: "Inspection") -> list[str]:
    edges, counts = found.defocus_edges_A, found.defocus_counts
    most = max(counts, default=0)
    lines = ["defocus µm"] if most else []
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        bar = "#" * math.ceil(_BAR * count / most)
        lines.append(f"{low / 1e4:6.2f} to {high / 1e4:5.2f} {count:8,} {bar}".rstrip())
    return lines
