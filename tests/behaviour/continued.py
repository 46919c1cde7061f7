"""What tests of runs that go on have in common."""

from pathlib import Path

from cryorefine.events import Event, read_events
from cryorefine.run.checkpoint import load_state
from cryorefine.storage.layout import committed_iterations

from .conftest import settings_for


def tiny_settings(folder: Path, **changes):
    return settings_for(folder, **{"compare_to": None, "alignment": "global", **changes})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def records(folder: Path):
    return load_state(folder, committed_iterations(folder)[-1]).state.history


def last_event(folder: Path, kind: str) -> Event:
    return [e for e in read_events(folder / "events.jsonl") if e.kind == kind][-1]


def stop_at(monkeypatch, module, name, call):
    """Interrupt the given call, counted from 1, of a function."""
    original, calls = getattr(module, name), []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, interrupted)
