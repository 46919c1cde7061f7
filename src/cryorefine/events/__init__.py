"""The one channel by which anything learns how a run goes: events, and the log of them."""

from cryorefine.events.kinds import (
    CovarianceCalibrated,
    DeviceMemoryPlanned,
    GreyScaleFound,
    HalvesRestored,
    IterationBegun,
    IterationDone,
    MemoryPlanned,
    ParticlesMatched,
    RadiusMeasured,
    RunEnded,
    RunResumed,
    RunStarted,
    RunStopped,
    SearchTried,
    SegmentBegun,
    StartResolutionMeasured,
    WarningGiven,
    WorkAdvanced,
)
from cryorefine.events.log import EarlyEventLog, EventLog, Listener
from cryorefine.events.read import read_events
from cryorefine.events.record import Event, UnknownEvent

__all__ = [
    "CovarianceCalibrated",
    "DeviceMemoryPlanned",
    "EarlyEventLog",
    "Event",
    "EventLog",
    "GreyScaleFound",
    "HalvesRestored",
    "IterationBegun",
    "IterationDone",
    "Listener",
    "MemoryPlanned",
    "ParticlesMatched",
    "RadiusMeasured",
    "RunEnded",
    "RunResumed",
    "RunStarted",
    "RunStopped",
    "SearchTried",
    "SegmentBegun",
    "StartResolutionMeasured",
    "UnknownEvent",
    "WarningGiven",
    "WorkAdvanced",
    "read_events",
]
