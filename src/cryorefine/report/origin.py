"""Tables of the settings and of what a run can be traced back to."""

import shlex
from dataclasses import dataclass
from typing import Any

from cryorefine.report.number_formats import memory
from cryorefine.report.run_folder import RunFolder, is_number
from cryorefine.settings import RefineSettings

__all__ = ["InputFile", "SettingRow", "input_files", "provenance", "setting_rows"]


@dataclass(frozen=True)
class SettingRow:
    """A setting, its value in words (empty if it is not set) and its meaning."""

    name: str
    value: str
    meaning: str


@dataclass(frozen=True)
class InputFile:
    """A file that went into the run; ``covers`` says which part of it the hash is of."""

    path: str
    size: str
    sha256: str
    covers: str


def setting_rows(run: RunFolder) -> list[SettingRow]:
    """Return all settings, those of the run's file that this version does not know included."""
    fields = RefineSettings.model_fields
    names = [*fields, *(name for name in run.settings if name not in fields)]
    return [
        SettingRow(
            name,
            _words(run.settings.get(name)),
            (fields[name].description or "") if name in fields else "",
        )
        for name in names
    ]


def provenance(run: RunFolder) -> list[tuple[str, str]]:
    """Return names and values: versions, machine, command, seed and start."""
    manifest = run.manifest
    rows = []
    if "cryorefine" in manifest:
        rows.append(("cryorefine", str(manifest["cryorefine"])))
    if "python" in manifest:
        rows.append(("Python", str(manifest["python"])))
    packages = manifest.get("packages")
    if isinstance(packages, dict):
        rows.append(("Packages", ", ".join(f"{k} {v}" for k, v in packages.items())))
    machine = manifest.get("machine")
    if isinstance(machine, dict):
        cpus = machine.get("cpus")
        parts = [machine.get("system"), machine.get("processor"), f"{cpus} CPUs" if cpus else None]
        device = machine.get("device")
        parts.append(f"computed on {device}" if device else None)
        rows.append(("Machine", ", ".join(str(p) for p in parts if p)))
    command = manifest.get("command")
    if isinstance(command, list):
        rows.append(("Command", shlex.join(str(c) for c in command)))
    if "seed" in manifest:
        rows.append(("Seed", str(manifest["seed"])))
    if "started" in manifest:
        rows.append(("Started", str(manifest["started"]).replace("T", " ")))
    return rows


def input_files(run: RunFolder) -> list[InputFile]:
    """Return the files of the manifest with their hashes."""
    inputs = run.manifest.get("inputs")
    if not isinstance(inputs, dict):
        return []
    return [
        InputFile(
            str(path),
            memory(size) if is_number(size := entry.get("size_bytes")) else "–",
            str(entry.get("sha256", "")),
            str(entry.get("sha256_of", "")),
        )
        for path, entry in inputs.items()
        if isinstance(entry, dict)
    ]


def _words(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_words(v) for v in value)
    try:
        return str(value)
    except ValueError:  # a whole number of thousands of digits
        return "far too large"
