"""Which device a run works on.

State and inputs that people see stay on the CPU; images, references and sums are moved to the
run's device; poses, curves and maps are brought back.
"""

import torch

from cryorefine.errors import InputError

__all__ = ["INSTALL_CUDA", "choose_device", "device_name", "device_of_run"]

INSTALL_CUDA = "pip install torch --index-url https://download.pytorch.org/whl/cu128"
"""The line that replaces a build of torch without CUDA."""


def choose_device(setting: str) -> torch.device:
    """Return the device that ``--device`` asks for; ``auto`` is a GPU where torch has one.

    Raises
    ------
    InputError
        If CUDA is asked for and torch has none, or not that many devices.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if setting == "cpu" or (setting == "auto" and n_gpus == 0):
        return torch.device("cpu")
    if n_gpus == 0:
        built = torch.version.cuda is not None
        raise InputError(
            "torch finds no CUDA device" if built else "this build of torch has no CUDA",
            where=f"--device {setting}",
            do="check the driver with nvidia-smi, or say --device cpu"
            if built
            else f"install one that has ({INSTALL_CUDA}), or say --device cpu",
        )
    index = int(setting.partition(":")[2] or 0)
    if index >= n_gpus:
        raise InputError(
            f"there is no CUDA device {index}",
            where=f"--device {setting}",
            do=f"give a number below {n_gpus}",
        )
    return torch.device("cuda", index)


def device_of_run(setting: str, *, refines_optics: bool, has_workers: bool = False) -> torch.device:
    """Return the run's device; particles' own optics and worker processes have the CPU only."""
    if not (refines_optics or has_workers):
        return choose_device(setting)
    if setting not in ("auto", "cpu"):
        raise InputError(
            "--refine-grey, --refine-scale, --refine-magnification, --refine-defocus and "
            "--automatic-schedule highres work on the CPU only"
            if refines_optics
            else "--workers are processes on the CPU",
            where=f"--device {setting}",
            do="say --device cpu, or leave these options out"
            if refines_optics
            else "say --device cpu, or leave --workers out",
        )
    return choose_device("cpu")


def device_name(device: torch.device) -> str:
    """Return a device in words: ``cpu``, or as ``cuda:0 (NVIDIA L40S)``."""
    if device.type != "cuda":
        return str(device)
    return f"{device} ({torch.cuda.get_device_name(device)})"
