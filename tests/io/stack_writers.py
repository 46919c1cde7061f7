"""Image stacks in every format that is read, written from what their formats say."""

import h5py
import numpy as np
import tifffile
import torch

from cryorefine.io.mrc import write_stack

__all__ = ["WRITERS", "spider_header", "write_eman", "write_spider_map", "write_tiff"]


def spider_header(columns, lines, slices, form, order, **more):
    """Return a header; ``more`` gives words by their place, from 0."""
    records = -(-1024 // (4 * columns))
    words = np.zeros(records * columns, f"{order}f4")
    words[[0, 1, 4, 11, 12]] = slices, lines, form, columns, records
    words[[21, 22]] = 4 * records * columns, 4 * columns
    for place, value in more.items():
        words[int(place.removeprefix("word"))] = value
    return words.tobytes()


def write_spider(path, images, order="<"):
    n, lines, columns = images.shape
    own = spider_header(columns, lines, 1, 1, order)
    content = [spider_header(columns, lines, 1, 1, order, word23=2, word25=n)]
    content += [own + image.astype(f"{order}f4").tobytes() for image in images]
    path.write_bytes(b"".join(content))


def write_spider_map(path, volume, order="<"):
    slices, lines, columns = volume.shape
    header = spider_header(columns, lines, slices, 3, order)
    path.write_bytes(header + volume.astype(f"{order}f4").tobytes())


def write_eman(path, images, pixel_A=2.5, **how):
    with h5py.File(path, "w") as file:
        for i, image in enumerate(images):
            group = file.create_group(f"MDF/images/{i}")
            group.attrs["EMAN.apix_x"] = pixel_A
            group.create_dataset("image", data=image, **how)


def write_tiff(path, images, **how):
    with tifffile.TiffWriter(path, bigtiff=how.pop("bigtiff", False)) as file:
        for image in images:
            file.write(image, contiguous=False, **how)


def write_mrc(path, images):
    write_stack(path, torch.from_numpy(images), 2.5, half=False)


WRITERS = {
    "mrc": write_mrc,
    "spider": write_spider,
    "spider, big-endian": lambda path, images: write_spider(path, images, ">"),
    "eman": write_eman,
    "eman, compressed": lambda path, images: write_eman(path, images, compression="gzip"),
    "tiff": write_tiff,
    "tiff, compressed": lambda path, images: write_tiff(path, images, compression="zlib"),
    "tiff, big-endian": lambda path, images: tifffile.imwrite(
        path, images, byteorder=">", photometric="minisblack"
    ),
    "bigtiff": lambda path, images: write_tiff(path, images, bigtiff=True),
}
