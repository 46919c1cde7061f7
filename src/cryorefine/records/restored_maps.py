"""Files of processed maps: named so that nobody takes them for the raw ones."""

import json
from pathlib import Path

from cryorefine.evaluate.fsc import FscCurves
from cryorefine.io.atomic import write_text
from cryorefine.io.mrc import write_volume
from cryorefine.records.fsc_files import FscRecord, write_fsc
from cryorefine.records.map_files import write_map
from cryorefine.refine.restoration import Processed, record_of

__all__ = ["write_processed"]


def write_processed(folder: Path, voxel_A: float, raw: FscCurves, processed: Processed) -> None:
    """Write the processed map and, where there are some, half maps, their FSC and what was done.

    ``fsc_processed.star`` has the criterion's crossing of processed maps, which is no resolution.

    Parameters
    ----------
    raw
        FSC of the raw half maps.
    """
    write_map(folder / "map_processed.mrc", processed.map, voxel_A)
    restored, after = processed.restored, processed.curves
    if restored is None or after is None:
        return
    for half, volume in enumerate(restored.halves, 1):
        write_volume(folder / f"half{half}_processed.mrc", volume.cpu(), voxel_A)
    for name, volume in restored.maps.items():
        write_volume(folder / f"{name}.mrc", volume.cpu(), voxel_A)
    write_fsc(folder / "fsc_processed.star", FscRecord(after, after.resolution_A()))
    record = record_of(restored, raw, after)
    write_text(folder / "restorations.json", json.dumps(record, indent=2) + "\n")
