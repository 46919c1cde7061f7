"""What each restoration does to half maps of a known truth: where it helps, and where it harms.

    python benchmarks/restorations.py [--box 96] [--pictures docs/restorations]
"""

import argparse
import math
import time
from dataclasses import dataclass

import torch

from cryorefine.engine.threads import use_threads
from cryorefine.evaluate.fsc import half_map_fsc, fsc
from cryorefine.fourier.filter import filter_volume
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.masks.soft import solvent_mask
from cryorefine.model.atoms import ScatteringBasis, volume_from_atoms
from cryorefine.model.phantom import make_phantom
from cryorefine.restore.protocol import Context
from cryorefine.restore.registry import restore_halves
