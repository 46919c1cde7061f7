"""Particles made by other code than cryorefine's, and what cryorefine makes of them.

    python benchmarks/independent_set.py DATA/models/1WCM.pdb.gz SET --particles 3000 --snr 0.02 \
        --pixel-A 2 --box 128 --seed 1 --refine
    python benchmarks/independent_set.py DATA/models/1WCM.pdb.gz CHECK --particles 1000 --snr 1 \
        --defocus-error-A 0 --scale-spread 0 --check

A refinement that is tested on images of its own simulator could share that simulator's mistakes.
Here images are sums over atoms in the plane of the image: a non-uniform FFT of the projected atoms,
times the CTF, in a box of twice the final side, so that nothing wraps around and no map is
interpolated. Poses, CTF and signs are RELION's, written from its published definitions. Nothing of
cryorefine is imported until the set is there.

Written: ``particles.star`` without poses, ``truth.star`` with them, ``truth_map.mrc``,
``reference.mrc`` (the truth at 30 Å). ``--refine`` refines the set as a user would and compares
with the truth; ``--check`` reconstructs from the true poses, also by RELION's program if it is on
the PATH, which shows that the set follows RELION's conventions and not only ours. Without any
noise only RELION's map can be judged: cryorefine rejects images whose power is far above their
background's, and measures grey values against the background.
"""

import argparse
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import finufft
import gemmi
import mrcfile
import numpy as np
from scipy import constants, ndimage

_VOLTAGE_V, _CS_MM, _AMPLITUDE_CONTRAST = 300e3, 2.7, 0.1
_MAX_ASTIGMATISM_A = 600.0
_ATOM_BFACTOR_A2, _REFERENCE_A, _RIGHT_DEG = 60.0, 30.0, 5.0
_ACCURACY = 1e-7
_PER_MICROGRAPH = 50


@dataclass(frozen=True)
class Species:
    """Atoms of one element about the mean of all atoms; what they scatter falls off alike.

    Attributes
    ----------
    xyz_A, occupancy
        Of each atom, ``(n, 3)`` and ``(n,)``.
    a, b
        Electron form factor: the sum of ``a exp(-b k² / 4)`` at spatial frequency k in 1/Å.
    """

    xyz_A: np.ndarray
    occupancy: np.ndarray
    a: np.ndarray
    b: np.ndarray

    def form_factor(self, k2: np.ndarray) -> np.ndarray:
        """Return what one atom scatters at squared spatial frequencies, its B-factor included."""
        total = np.zeros_like(k2)
        for a, b in zip(self.a, self.b, strict=True):
            total += a * np.exp(-(b + _ATOM_BFACTOR_A2) / 4 * k2)
        return total


@dataclass(frozen=True)
class Truth:
    """Parameters of every particle, as images are made; angles in degrees, all else in Å."""

    euler_deg: np.ndarray
    origin_A: np.ndarray
    defocus_u_A: np.ndarray
    defocus_v_A: np.ndarray
    astigmatism_deg: np.ndarray
    scale: np.ndarray


def read_species(path: Path) -> list[Species]:
    """Return the first model of a coordinate file without hydrogens, by elements."""
    by_element: dict[str, list[tuple[list[float], float]]] = {}
    for part in gemmi.read_structure(str(path))[0].all():
        atom = part.atom
        if not atom.element.is_hydrogen:
            by_element.setdefault(atom.element.name, []).append((atom.pos.tolist(), atom.occ))
    every = [position for atoms in by_element.values() for position, _ in atoms]
    centre = np.mean(every, axis=0)
    return [
        Species(
            np.array([position for position, _ in atoms]) - centre,
            np.array([occupancy for _, occupancy in atoms]),
            np.array(gemmi.Element(name).c4322.a),
            np.array(gemmi.Element(name).c4322.b),
        )
        for name, atoms in by_element.items()
    ]


def squared_frequency(axes: int, side_px: int, pixel_A: float) -> np.ndarray:
    """Return squared spatial frequencies in 1/Å², on a grid with the origin first."""
    k2 = np.zeros([1] * axes)
    for axis in range(axes):
        k = np.fft.fftfreq(side_px, pixel_A)
        k2 = k2 + k.reshape([-1 if a == axis else 1 for a in range(axes)]) ** 2
    return k2


def density_map(species: list[Species], side_px: int, voxel_A: float) -> np.ndarray:
    """Return the atoms' scattering per voxel, indexed z, y, x, centred on voxel ``side // 2``."""
    k2 = squared_frequency(3, side_px, voxel_A)
    total = np.zeros(k2.shape, complex)
    for one in species:
        x, y, z = np.ascontiguousarray(one.xyz_A.T) * (2 * np.pi / (side_px * voxel_A))
        total += one.form_factor(k2) * finufft.nufft3d1(
            z, y, x, one.occupancy.astype(complex), k2.shape, eps=_ACCURACY, isign=-1, modeord=1
        )
    return np.fft.fftshift(np.fft.ifftn(total).real)


def low_passed(volume: np.ndarray, voxel_A: float, resolution_A: float) -> np.ndarray:
    """Return a map without detail finer than a resolution; the edge is a cosine of two shells."""
    side_px = len(volume)
    k = np.sqrt(squared_frequency(3, side_px, voxel_A))
    beyond = (k - 1 / resolution_A) * side_px * voxel_A / 2 + 0.5
    window = 0.5 + 0.5 * np.cos(np.pi * np.clip(beyond, 0, 1))
    return np.fft.ifftn(np.fft.fftn(volume) * window).real


def rotation(rot_deg: float, tilt_deg: float, psi_deg: float) -> np.ndarray:
    """Return the matrix that turns a particle's coordinates into those of its image.

    RELION's angles turn the axes, one after the other: by rot about z, by tilt about the new y, by
    psi about the newest z.
    """

    def about_z(angle: float) -> np.ndarray:
        c, s = np.cos(angle), np.sin(angle)
        return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])

    rot, tilt, psi = np.deg2rad([rot_deg, tilt_deg, psi_deg])
    c, s = np.cos(tilt), np.sin(tilt)
    about_y = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    return about_z(psi) @ about_y @ about_z(rot)


def wavelength_A() -> float:
    """Return the relativistic wavelength of the electrons."""
    energy = constants.e * _VOLTAGE_V
    rest = constants.m_e * constants.c**2
    return constants.h * constants.c / np.sqrt(energy * (energy + 2 * rest)) * 1e10


def transfer(
    side_px: int, pixel_A: float, u_A: float, v_A: float, astigmatism_deg: float
) -> np.ndarray:
    """Return the CTF, indexed ky, kx, origin first.

    Defocus is positive under focus. The sign is that of images with white particles: near the
    origin the CTF is plus the amplitude contrast.
    """
    k = np.fft.fftfreq(side_px, pixel_A)
    k2 = k[:, None] ** 2 + k**2
    direction = np.arctan2(k[:, None], k) - np.deg2rad(astigmatism_deg)
    defocus_A = (u_A + v_A) / 2 + (u_A - v_A) / 2 * np.cos(2 * direction)
    wave = wavelength_A()
    shift = np.pi * wave * defocus_A * k2 - np.pi / 2 * _CS_MM * 1e7 * wave**3 * k2**2
    return np.sin(shift + np.arcsin(_AMPLITUDE_CONTRAST))


def draw(
    count: int,
    generator: np.random.Generator,
    shift_A: float,
    scale_spread: float,
    defocus_A: tuple[float, float],
) -> Truth:
    """Draw what differs between particles: views uniform, shifts and grey scales normal."""
    turn = generator.uniform(-180, 180, (count, 2))
    tilt = np.rad2deg(np.arccos(generator.uniform(-1, 1, count)))
    mean = generator.uniform(*defocus_A, count)
    half = generator.uniform(0, _MAX_ASTIGMATISM_A, count) / 2
    return Truth(
        euler_deg=np.stack([turn[:, 0], tilt, turn[:, 1]], axis=1),
        origin_A=generator.normal(0, shift_A, (count, 2)),
        defocus_u_A=mean + half,
        defocus_v_A=mean - half,
        astigmatism_deg=generator.uniform(0, 180, count),
        scale=1 + scale_spread * generator.normal(size=count),
    )


def clean_images(species: list[Species], truth: Truth, box_px: int, pixel_A: float) -> np.ndarray:
    """Return images without noise, ``(particle, y, x)``, centred on pixel ``box // 2``."""
    wide_px = 2 * box_px
    k2 = squared_frequency(2, wide_px, pixel_A)
    factors = [one.form_factor(k2) for one in species]
    begin = wide_px // 2 - box_px // 2
    inner = slice(begin, begin + box_px)
    images = np.empty((len(truth.scale), box_px, box_px), np.float32)
    for row, image in enumerate(images):
        matrix = rotation(*truth.euler_deg[row])
        total = np.zeros(k2.shape, complex)
        for one, factor in zip(species, factors, strict=True):
            # RELION's origin is the shift that centres an image: the particle lies opposite.
            x_A, y_A = matrix[:2] @ one.xyz_A.T - truth.origin_A[row, :, None]
            unit = 2 * np.pi / (wide_px * pixel_A)
            total += factor * finufft.nufft2d1(
                unit * y_A, unit * x_A, one.occupancy.astype(complex), k2.shape,
                eps=_ACCURACY, isign=-1, modeord=1, nthreads=1,
            )  # fmt: skip
        total *= truth.scale[row] * transfer(
            wide_px, pixel_A, truth.defocus_u_A[row], truth.defocus_v_A[row],
            truth.astigmatism_deg[row],
        )  # fmt: skip
        image[:] = np.fft.fftshift(np.fft.ifft2(total).real)[inner, inner]
    return images


def add_noise(images: np.ndarray, pixel_A: float, generator: np.random.Generator) -> None:
    """Add noise that is white of variance 1 before its colour, stronger at low resolution.

    It is cut out of a wider image, as the particle is: noise of a micrograph does not repeat at
    the edge of a box.
    """
    box_px = images.shape[-1]
    wide_px = 2 * box_px
    k = np.sqrt(squared_frequency(2, wide_px, pixel_A))
    colour = np.sqrt(0.6 + 2.0 * np.exp(-k / 0.03))
    for image in images:
        white = generator.normal(size=(wide_px, wide_px))
        noise = np.fft.ifft2(np.fft.fft2(white) * colour).real
        image += noise[:box_px, :box_px]


def write_mrc(path: Path, data: np.ndarray, pixel_A: float, *, is_stack: bool = False) -> None:
    """Write a map, or a stack of images, as 32-bit numbers."""
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(data.astype(np.float32, copy=False))
        if is_stack:
            file.set_image_stack()
        file.voxel_size = pixel_A


def write_star(
    path: Path, truth: Truth, box_px: int, pixel_A: float, error_A: np.ndarray, *, has_poses: bool
) -> None:
    """Write a RELION 3.1 particle file; its defoci are wrong by ``error_A``."""
    optics = {
        "OpticsGroup": "1",
        "OpticsGroupName": "opticsGroup1",
        "Voltage": f"{_VOLTAGE_V / 1000:.1f}",
        "SphericalAberration": f"{_CS_MM:.3f}",
        "AmplitudeContrast": f"{_AMPLITUDE_CONTRAST:.3f}",
        "ImagePixelSize": f"{pixel_A:.6f}",
        "ImageSize": str(box_px),
        "ImageDimensionality": "2",
    }
    rows = range(len(truth.scale))
    columns = {
        "ImageName": [f"{row + 1:06d}@particles.mrcs" for row in rows],
        "MicrographName": [f"micrograph_{row // _PER_MICROGRAPH + 1:04d}.mrc" for row in rows],
        "OpticsGroup": ["1" for _ in rows],
        "DefocusU": [f"{v:.3f}" for v in truth.defocus_u_A + error_A],
        "DefocusV": [f"{v:.3f}" for v in truth.defocus_v_A + error_A],
        "DefocusAngle": [f"{v:.4f}" for v in truth.astigmatism_deg],
    }
    if has_poses:
        for name, values in zip(("Rot", "Tilt", "Psi"), truth.euler_deg.T, strict=True):
            columns[f"Angle{name}"] = [f"{v:.5f}" for v in values]
        for name, values in zip("XY", truth.origin_A.T, strict=True):
            columns[f"Origin{name}Angst"] = [f"{v:.5f}" for v in values]

    def block(name: str, labels: list[str], table: list[tuple[str, ...]]) -> str:
        head = [f"_rln{label} #{number}" for number, label in enumerate(labels, start=1)]
        return "\n".join([f"data_{name}", "", "loop_", *head, *map(" ".join, table), "", ""])

    path.write_text(
        "# version 30001\n\n"
        + block("optics", list(optics), [tuple(optics.values())])
        + "# version 30001\n\n"
        + block("particles", list(columns), list(zip(*columns.values(), strict=True)))
    )


def make_set(options: argparse.Namespace) -> None:
    """Make and write a set."""
    generator = np.random.default_rng(options.seed)
    box_px, pixel_A = options.box, options.pixel_A
    species = read_species(options.model)
    truth = draw(
        options.particles, generator, options.shift_px * pixel_A, options.scale_spread,
        options.defocus_A,
    )  # fmt: skip
    images = clean_images(species, truth, box_px, pixel_A)
    scale = 1 / np.sqrt(np.mean([image.var(dtype=float) for image in images]))
    if np.isfinite(options.snr):
        scale *= np.sqrt(options.snr)
    images *= scale
    if np.isfinite(options.snr):
        add_noise(images, pixel_A, generator)
    error_A = generator.normal(0, options.defocus_error_A, options.particles)
    volume = scale * density_map(species, box_px, pixel_A)

    folder = options.output
    folder.mkdir(parents=True)
    write_mrc(folder / "particles.mrcs", images, pixel_A, is_stack=True)
    write_mrc(folder / "truth_map.mrc", volume, pixel_A)
    start = low_passed(volume, pixel_A, _REFERENCE_A)
    write_mrc(folder / "reference.mrc", start, pixel_A)
    for name, has_poses in (("particles.star", False), ("truth.star", True)):
        write_star(folder / name, truth, box_px, pixel_A, error_A, has_poses=has_poses)


def fsc(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the Fourier shell correlation of two maps, up to Nyquist."""
    side_px = len(first)
    shell = np.rint(np.sqrt(squared_frequency(3, side_px, 1 / side_px))).astype(int).ravel()
    f, g = (np.fft.fftn(m.astype(float)).ravel() for m in (first, second))

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(shell, values)[: side_px // 2 + 1]

    product = total((f * g.conj()).real)
    return product / np.sqrt(total(np.abs(f) ** 2) * total(np.abs(g) ** 2))


def simulate_alike(options: argparse.Namespace) -> None:
    """Let cryorefine simulate a set of the same parameters; the names of files become ours."""
    from trial import ICE, arguments_of, run_cryorefine

    named = arguments_of({
        "output": options.output, "particles": options.particles, "box_px": options.box,
        "pixel_angstrom": options.pixel_A, "snr": options.snr, "noise": ICE["noise"],
        "atom_bfactor": _ATOM_BFACTOR_A2, "reference_angstrom": _REFERENCE_A,
        "shift_angstrom": options.shift_px * options.pixel_A, "seed": options.seed,
        "astigmatism_angstrom": _MAX_ASTIGMATISM_A / 2, "scale_spread": options.scale_spread,
        "defocus_error_angstrom": options.defocus_error_A,
    })  # fmt: skip
    run_cryorefine(
        "simulate", options.model, *named, "--defocus-angstrom", *options.defocus_A,
        log=options.output.with_name(f"{options.output.name}.log"),
    )  # fmt: skip
    (options.output / "truth_particles.star").rename(options.output / "truth.star")


def soft_mask(volume: np.ndarray, voxel_A: float) -> np.ndarray:
    """Return a soft mask, 0 to 1, of where a blurred map exceeds a fiftieth of its maximum."""
    width_px = 6 / voxel_A
    blurred = ndimage.gaussian_filter(volume.astype(float), width_px)
    return ndimage.gaussian_filter((blurred > 0.02 * blurred.max()).astype(float), width_px)


def check(folder: Path) -> str:
    """Return a table of maps from the true poses: FSC with the truth, within a mask of it."""
    from trial import markdown, run_cryorefine

    maps = {"cryorefine reconstruct": folder / "true_poses" / "map.mrc"}
    run_cryorefine(
        "reconstruct", folder / "truth.star", "--output", folder / "true_poses", "--overwrite",
        log=folder / "true_poses.log",
    )  # fmt: skip
    if shutil.which("relion_reconstruct"):
        # RELION looks for stacks from its working folder.
        maps["relion_reconstruct"] = folder / "relion.mrc"
        command = ["relion_reconstruct", "--i", "truth.star", "--o", "relion.mrc", "--ctf"]
        with (folder / "relion.log").open("wb") as log:
            subprocess.run(command, cwd=folder, check=True, stdout=log, stderr=log)
    truth = mrcfile.read(folder / "truth_map.mrc")
    with mrcfile.open(folder / "truth_map.mrc", header_only=True) as file:
        pixel_A = float(file.voxel_size.x)
    at_A = [4 * pixel_A, 3 * pixel_A, 2.5 * pixel_A, 2.2 * pixel_A]
    rows = [["map of the true poses", "mean FSC", *(f"at {a:.1f} Å" for a in at_A)]]
    mask = soft_mask(truth, pixel_A)
    for name, path in maps.items():
        # Nyquist's shell is left out: a grid of even side cannot tell its k from -k.
        curve = fsc(mrcfile.read(path) * mask, truth * mask)[:-1]
        shells = [round(len(truth) * pixel_A / a) for a in at_A]
        rows.append([name, f"{curve[1:].mean():.3f}", *(f"{curve[s]:.3f}" for s in shells)])
    return markdown(rows)


def judge(folder: Path, threads: int | None) -> str:
    """Refine the set as a user would; return a table of the result beside the truth."""
    from cryorefine.io.mrc import read_volume
    from cryorefine.particles.formats.relion import read_relion
    from trial import (
        map_quality,
        markdown,
        number,
        pose_errors,
        refine,
        run_cryorefine,
        run_halves,
    )

    run, best = folder / "run", folder / "true_poses"
    cost = refine(folder / "particles.star", folder / "reference.mrc", run, threads=threads)
    run_cryorefine(
        "reconstruct", folder / "truth.star", "--output", best, "--overwrite",
        log=folder / "true_poses.log",
    )  # fmt: skip
    truth = read_volume(folder / "truth_map.mrc")
    quality, attainable = (map_quality(run_halves(r), truth) for r in (run, best))
    angle_deg, shift_A = pose_errors(
        read_relion(run / "particles.star"), read_relion(folder / "truth.star"), "c1"
    )
    summary = json.loads((run / "summary.json").read_text())
    head = [
        "particles", "within 5° %", "median angle °, shift Å", "FSC 0.5 with the truth Å",
        "of the true poses Å", "mean FSC (true poses)", "reported Å", "iterations", "CPU s",
    ]  # fmt: skip
    row = [
        str(len(angle_deg)),
        number(100 * float((angle_deg < _RIGHT_DEG).mean()), 1),
        f"{number(float(np.median(angle_deg)))}, {number(float(np.median(shift_A)))}",
        number(quality.truth_A),
        number(attainable.truth_A),
        f"{number(quality.truth_mean, 3)} ({number(attainable.truth_mean, 3)})",
        number(summary["resolution_A"]),
        str(summary["iterations"]),
        number(cost.cpu_s, 0),
    ]
    return markdown([head, row])


def main() -> None:
    """Make a set unless it is there; check or refine it if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="PDB or mmCIF file")
    parser.add_argument("output", type=Path, help="folder of the set; if there, it is taken as is")
    parser.add_argument("--particles", type=int, default=3000)
    parser.add_argument("--snr", type=float, default=0.02, help="inf: no noise")
    parser.add_argument("--pixel-A", type=float, default=2.0)
    parser.add_argument("--box", type=int, default=128)
    parser.add_argument("--shift-px", type=float, default=3.0, help="deviation of x and of y")
    parser.add_argument("--scale-spread", type=float, default=0.1)
    parser.add_argument(
        "--defocus-A", type=float, nargs=2, default=(8e3, 25e3), help="of each mean"
    )
    parser.add_argument("--defocus-error-A", type=float, default=150.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--by-cryorefine", action="store_true",
        help="for comparison: a set of the same parameters from cryorefine's simulator",
    )  # fmt: skip
    parser.add_argument("--check", action="store_true", help="reconstruct from the true poses")
    parser.add_argument("--refine", action="store_true", help="refine and print a table")
    parser.add_argument("--threads", type=int, help="of the refinement (default: all)")
    options = parser.parse_args()
    if not options.output.exists():
        (simulate_alike if options.by_cryorefine else make_set)(options)
    if options.check:
        print(check(options.output))
    if options.refine:
        print(judge(options.output, options.threads))


if __name__ == "__main__":
    main()
