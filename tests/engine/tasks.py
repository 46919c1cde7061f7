"""Tasks on numbers, which worker processes can import."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from cryorefine.compiled import kernel_threads


@dataclass(frozen=True)
class Scale:
    """Multiplies the numbers of the rows, after as long as the half says."""

    values: torch.Tensor
    factor: float = 2.0

    def run(self, block, done):
        time.sleep(0.01 * block.half)
        done(len(block.rows))
        return self.values[torch.from_numpy(block.rows)] * self.factor


@dataclass(frozen=True)
class Fail:
    """Fails at one block, the others take their time."""

    at: int

    def run(self, block, done):
        for _ in range(200):
            if block.geometry == self.at:
                raise ZeroDivisionError(f"block {self.at}")
            time.sleep(0.01)
            done(1)


@dataclass(frozen=True)
class Die:
    """Ends its own process in the middle of a block, so many times."""

    folder: Path
    times: int

    def run(self, block, done):
        done(1)
        for k in range(self.times if block.geometry == 1 else 0):
            try:
                (self.folder / f"death-{k}").touch(exist_ok=False)
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)
        done(len(block.rows) - 1)
        return os.getpid()


@dataclass(frozen=True)
class Threads:
    """Tells how many threads torch and the kernels have."""

    def run(self, block, done):
        time.sleep(0.05)
        return torch.get_num_threads(), kernel_threads(), os.getpid()
