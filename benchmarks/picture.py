"""Draw the README's picture from a finished run of ``benchmarks/apoferritin.py``.

python benchmarks/picture.py DATA/apoferritin_10146 RUN docs/apoferritin.png
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

from cryorefine.fourier.filter import low_pass
from cryorefine.io.mrc import read_volume
from cryorefine.io.star import read_star

_HALF_WIDTH_A = 75.0


def cut(image: torch.Tensor, voxel_A: float) -> torch.Tensor:
    """Return the middle of an image or volume."""
    n, half = image.shape[-1], round(_HALF_WIDTH_A / voxel_A)
    inner = slice(n // 2 - half, n // 2 + half)
    return image[(inner,) * image.ndim]


def main() -> None:
    """Draw where the run started, its map, and its half maps' correlation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    start = read_volume(options.data / "reference_20A.mrc")
    blurred = low_pass(start.data, voxel_A=start.voxel_A, resolution_A=30.0)
    found = read_volume(options.run / "map_sharpened.mrc")
    cube = cut(found.data, found.voxel_A)
    pictures = {
        "start, section": cut(blurred[start.size_px // 2], start.voxel_A),
        "map, section": cube[len(cube) // 2],
        "map, projection": cube.sum(0),
    }
    curves = read_star(options.run / "fsc.star")["fsc"]
    frequency = curves.floats("rlnResolution")
    figure = Figure(figsize=(9.6, 2.7), layout="constrained", dpi=100)
    axes = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.3))
    for panel, (title, image) in zip(axes[:3], pictures.items(), strict=True):
        panel.imshow(image, cmap="gray", interpolation="bicubic")
        panel.set_title(title, fontsize=9)
        panel.axis("off")
    plot = axes[3]
    for name, label in (("UnmaskedMaps", "unmasked"), ("Corrected", "masked, corrected")):
        plot.plot(frequency, curves.floats(f"rlnFourierShellCorrelation{name}"), label=label)
    plot.axhline(0.143, color="grey", linewidth=0.8)
    plot.set_title("half maps: FSC by 1/Å", fontsize=9)
    plot.set_xlim(0, 0.25)
    plot.tick_params(labelsize=8)
    plot.legend(fontsize=8, frameon=False)
    figure.savefig(options.picture)


if __name__ == "__main__":
    main()
