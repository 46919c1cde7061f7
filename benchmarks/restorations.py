"""What each restoration does to half maps of a known truth: where it helps, and where it harms.

python benchmarks/restorations.py --pictures docs/restorations
python benchmarks/restorations.py --only time --box-px 256
"""

import argparse
import resource
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryorefine.engine.threads import use_threads
from cryorefine.evaluate.fsc import fsc, half_map_fsc
from cryorefine.fourier.filter import filter_volume
from cryorefine.geometry.rotation import matrix_from_rotvec
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.masks.soft import soft_edge, sphere_mask
from cryorefine.model.atoms import scattering_basis, volume_from_atoms
from cryorefine.model.phantom import make_phantom
from cryorefine.reconstruct.symmetrise import symmetrise_volume
from cryorefine.restore.align_halves import AlignHalves
from cryorefine.restore.deconvolve import Deconvolve
from cryorefine.restore.denoise_real import DenoiseReal
from cryorefine.restore.difference import EvaluateDifference
from cryorefine.restore.filter_bank import FilterBank
from cryorefine.restore.laplacian import Laplacian
from cryorefine.restore.mask_ad_hoc import AdHocMask
from cryorefine.restore.protocol import Context, Halves, Restoration
from cryorefine.restore.registry import restore_halves
from cryorefine.restore.rigid import move_volume
from cryorefine.restore.sharpen import weight_map
from cryorefine.restore.symmetrise_within import SymmetriseWithin
from cryorefine.restore.undershoot import AttenuateUndershoot
from cryorefine.restore.user_command import UserCommand

VOXEL_A = 2.0

_WAVES = 9
"""Periods in the box of a pattern that both half maps have, as of a detector: 16 Å, where the
particle has signal, so that no FSC tells it."""


@dataclass(frozen=True, eq=False)
class Case:
    """Half maps, what they should show, and where that is measured."""

    name: str
    what: str
    one: Restoration
    truth: Tensor
    halves: Halves
    context: Context
    where: Tensor


def protein(size_px: int, *, seed: int = 1, share: float = 0.62) -> Tensor:
    atoms = make_phantom(parse_symmetry("c1"), diameter_A=share * size_px * VOXEL_A, seed=seed)
    basis = scattering_basis(atoms, 1 / VOXEL_A)
    volume = volume_from_atoms(atoms, basis, size_px=size_px, voxel_A=VOXEL_A)
    return volume / volume.std()


def blurred(volume: Tensor, sigma_per_px: float) -> Tensor:
    n = len(volume)
    return filter_volume(volume, lambda k: (-((k / n) ** 2) / (2 * sigma_per_px**2)).exp())


def noise(size_px: int, seed: int) -> Tensor:
    return torch.randn((size_px,) * 3, generator=torch.Generator().manual_seed(seed))


def noisy(volume: Tensor, std: float, *, seed: int = 3) -> Halves:
    n = len(volume)
    return volume + std * noise(n, seed), volume + std * noise(n, seed + 1)


def context_of(truth: Tensor, halves: Halves) -> Context:
    smooth = blurred(truth, 0.05)
    mask = soft_edge((smooth > 0.3 * smooth.max()).float(), grow_px=2, edge_px=4)
    return Context(VOXEL_A, mask, half_map_fsc(*halves, voxel_A=VOXEL_A, mask=mask))


def cases(n: int) -> list[Case]:
    """Return two for each restoration: where it helps, and where it harms."""
    out: list[Case] = []
    truth = protein(n)
    soft = blurred(truth, 0.2)

    def add(name, what, one, truth, halves, where=None):
        context = context_of(truth, halves)
        inside = context.mask > 0.5 if where is None else where
        out.append(Case(name, what, one, truth, halves, context, inside))

    everywhere = sphere_mask(n, n / 2 - 1, 0.0) > 0.5
    wide = context_of(truth, noisy(soft, 1.0)).mask
    tight = (blurred(truth, 0.05) > 0.75 * blurred(truth, 0.05).max()).float()
    add("mask", "noise 1 in the whole sphere", AdHocMask(wide), soft, noisy(soft, 1.0), everywhere)
    add("mask", "a mask that cuts into it", AdHocMask(tight), soft, noisy(soft, 1.0))

    shell, core, group = icosahedral(n)
    ring = 1 - sphere_mask(n, 0.16 * n, 3.0)
    middle = sphere_mask(n, 0.14 * n, 0.0) > 0.5
    ball = sphere_mask(n, 0.42 * n, 0.0) > 0.5
    both = shell + core
    add("symmetrise", "i1 in the shell of a capsid", SymmetriseWithin(group, ring), both,
        noisy(both, 1.5), ball & ~middle)  # fmt: skip
    add("symmetrise", "i1 also in its asymmetric core", SymmetriseWithin(group, ring * 0 + 1),
        both, noisy(both, 1.5), middle)  # fmt: skip

    wave = (2 * torch.pi * _WAVES * torch.arange(n) / n).cos().expand(n, n, n)
    striped = noisy(soft + wave, 0.5)
    notch = f"f = np.fft.fftn(m.data); f[0, 0, [{_WAVES}, -{_WAVES}]] = 0; d = np.fft.ifftn(f).real"
    blur = "from scipy import ndimage; d = ndimage.gaussian_filter(m.data, 2)"
    add("command", "a wave in both halves, taken out", in_python(notch), soft, striped)
    add("command", "a blur of two voxels", in_python(blur), truth, noisy(truth, 0.5))

    faint, domain = with_faint_domain(truth)
    add("denoise", "noise 1 in the whole sphere", DenoiseReal(), soft, noisy(soft, 1.0), everywhere)
    add("denoise", "a domain of a fifth of the density", DenoiseReal(), faint, noisy(faint, 1.0),
        domain)  # fmt: skip
    add("filter-bank", "noise 1 in the whole sphere", FilterBank(), soft, noisy(soft, 1.0),
        everywhere)  # fmt: skip
    add("filter-bank", "sharp detail within the particle", FilterBank(), truth, noisy(soft, 1.0))
    add("laplacian", "noise 0.3 in the whole sphere", Laplacian(), soft, noisy(soft, 0.3),
        everywhere)  # fmt: skip
    add("laplacian", "noise 2 within the particle", Laplacian(), soft, noisy(soft, 2.0))

    add("deconvolve", "a Gaussian blur of 229 Å²", Deconvolve(), truth, noisy(soft, 0.1))
    add("deconvolve", "density that is smooth in truth", Deconvolve(), soft, noisy(soft, 0.3))

    holes = noisy(soft, 0.3)
    holes = halves_with_holes(holes)
    add("undershoot", "deep holes, K = 9", AttenuateUndershoot(9.0), soft, holes)
    water = soft - 1.2 * (sphere_mask(n, 0.10 * n, 3.0))
    add("undershoot", "a true cavity, K = 1", AttenuateUndershoot(1.0), water, noisy(water, 0.3),
        sphere_mask(n, 0.14 * n, 0.0) > 0.5)  # fmt: skip

    spoilt = noisy(soft, 0.5)
    spoilt = spoilt[0] + 3 * sphere_mask(n, 0.07 * n, 2.0), spoilt[1]
    add("difference", "half 1 has a blob of its own", EvaluateDifference(), soft, spoilt)
    add("difference", "nothing is wrong", EvaluateDifference(), soft, noisy(soft, 1.0))

    turn = matrix_from_rotvec(torch.tensor([0.02, -0.03, 0.03], dtype=torch.float64))
    moved = move_volume(soft, turn, torch.tensor([0.8, -0.5, 0.4]))
    first, second = noisy(soft, 0.5)
    apart = first, second - soft + moved
    c1 = parse_symmetry("c1")
    add("align", "half 2 turned by 2.7° and moved by 2 Å", AlignHalves(c1), soft, apart)
    add("align", "noise 4, nothing moved", AlignHalves(c1), soft, noisy(soft, 4.0))
    return out


def in_python(code: str) -> UserCommand:
    """Return a command that makes d of the data of an open map, m."""
    before = "import mrcfile, numpy as np; m = mrcfile.open('{volume}', 'r+'); "
    after = "; m.set_data(d.astype(np.float32)); m.close()"
    return UserCommand(shlex.join([sys.executable, "-c", before + code + after]))


def icosahedral(n: int):
    """Return a symmetric shell, an asymmetric core within it, and the group."""
    group = parse_symmetry("i1")
    even = symmetrise_volume(blurred(noise(n, 6), 0.12), group, voxel_A=VOXEL_A)
    shell = sphere_mask(n, 0.40 * n, 2.0) - sphere_mask(n, 0.19 * n, 2.0)
    core = protein(n, seed=4) * sphere_mask(n, 0.12 * n, 2.0)
    return even / even.std() * shell, core, group


def with_faint_domain(truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return a map of which one side has a fifth of the density, and where that is."""
    n = len(truth)
    x = torch.arange(n) - n // 2
    side = (x > 0.1 * n).float().expand(n, n, n)
    faint = blurred(truth * (1 - 0.8 * side), 0.2)
    return faint, (context_of(truth, noisy(truth, 1.0)).mask > 0.5) & (side > 0.5)


def halves_with_holes(halves: Halves) -> Halves:
    """Return half maps with the same six deep holes, as dark spots of ice or of masks leave."""
    n = len(halves[0])
    places = torch.randint(n // 3, 2 * n // 3, (6, 3), generator=torch.Generator().manual_seed(1))
    holes = torch.zeros((n,) * 3)
    holes[tuple(places.T)] = -400.0
    holes = blurred(holes, 0.15)
    return halves[0] + holes, halves[1] + holes


def correlation(a: Tensor, b: Tensor) -> float:
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-30))


def kept(found: Tensor, truth: Tensor) -> float:
    """Return by how much the truth's contrast has to be multiplied to be that of a map."""
    truth = truth.double() - truth.double().mean()
    return float((found.double() * truth).sum() / (truth * truth).sum().clamp_min(1e-30))


def looked_at(halves: Halves, case: Case) -> Tensor:
    """Return the map that is shown: the average, weighted by the FSC of the raw half maps."""
    return weight_map((halves[0] + halves[1]) / 2, case.context.curves)


def measure(case: Case) -> tuple[Tensor, Tensor]:
    made = restore_halves(case.halves, [case.one], case.context)
    before, after = looked_at(case.halves, case), looked_at(made.halves, case)
    numbers = []
    for halves, shown in ((case.halves, before), (made.halves, after)):
        curve = fsc(shown, case.truth)[1:]
        own = half_map_fsc(*halves, voxel_A=VOXEL_A, mask=case.context.mask)
        numbers += [
            correlation(shown[case.where], case.truth[case.where]),
            correlation(halves[0][case.where], case.truth[case.where]),
            kept(shown[case.where], case.truth[case.where]),
            float(curve.mean()),
            own.resolution_A(),
        ]
    pairs = " | ".join(f"{numbers[i]:.3f}, {numbers[i + 5]:.3f}" for i in range(4))
    print(f"| {case.one.name} | {case.what} | {pairs} | {numbers[4]:.2f}, {numbers[9]:.2f} |",
          flush=True)  # fmt: skip
    for name, value in made.steps[0].facts.items():
        print(f"    {name}: {value}")
    return before, after


def draw(pairs: list[tuple[Case, Tensor, Tensor]], path: Path) -> None:
    """Draw truth, before and after of the case that is helped (above) and of the one harmed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.6), layout="constrained")
    axes = figure.subplots(2, 3)
    for row, (case, before, after) in zip(axes, pairs, strict=True):
        z = len(before) // 2
        titles = ("truth", f"before: {case.what}", "after")
        for place, volume, title in zip(row, (case.truth, before, after), titles, strict=True):
            plane = volume[z].numpy()
            low, high = np.percentile(plane, (0.5, 99.8))
            place.imshow(plane, cmap="gray", origin="lower", vmin=low, vmax=high)
            place.set_title(title, fontsize=7)
            place.set_axis_off()
    figure.savefig(path, dpi=80, metadata={"Software": ""})


def measure_times(n: int, names: list[str]) -> None:
    """Print seconds and peak memory of restorations of a box, noise and a sphere in it."""
    ball = sphere_mask(n, 0.3 * n, 5.0)
    signal = blurred(noise(n, 1), 0.15) * 20 * ball
    halves = noisy(signal, 0.5)
    curves = half_map_fsc(*halves, voxel_A=VOXEL_A, mask=ball)
    context = Context(VOXEL_A, ball, curves)
    held = peak_gb()
    print(f"before: {held:.2f} GB")
    makers: dict[str, Callable[[], Restoration]] = {
        "symmetrise": lambda: SymmetriseWithin(parse_symmetry("i1"), ball),
        "align": lambda: AlignHalves(parse_symmetry("c1")),
        "denoise": DenoiseReal,
        "filter-bank": FilterBank,
        "laplacian": Laplacian,
        "deconvolve": Deconvolve,
        "undershoot": lambda: AttenuateUndershoot(9.0),
        "difference": EvaluateDifference,
        "mask": lambda: AdHocMask(ball),
    }
    for name, make in makers.items():
        if names and name not in names:
            continue
        wall, cpu = time.monotonic(), time.process_time()
        restore_halves(halves, [make()], context)
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        print(f"| {name} | {wall:.1f} s | {cpu:.1f} s CPU | peak {peak_gb():.2f} GB |", flush=True)


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--box-px", type=int, default=72)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--only", choices=("effects", "time"), default="effects")
    parser.add_argument("--names", nargs="*", default=[])
    options = parser.parse_args()
    use_threads(None)
    if options.only == "time":
        measure_times(options.box_px, options.names)
        return
    print(
        "where it is measured: correlation with the truth (map, half 1) and density kept; mean FSC"
    )
    print("with the truth; FSC 0.143 of the halves: before, after")
    drawn: dict[str, list[tuple[Case, Tensor, Tensor]]] = {}
    for case in cases(options.box_px):
        if options.names and case.name not in options.names:
            continue
        drawn.setdefault(case.name, []).append((case, *measure(case)))
    if options.pictures is not None:
        options.pictures.mkdir(parents=True, exist_ok=True)
        for name, pairs in drawn.items():
            draw(pairs, options.pictures / f"{name}.png")


if __name__ == "__main__":
    main()
