"""Settings of where and how a run computes, and what it keeps."""

from typing import Literal

from pydantic import Field

from cryorefine.settings.group import SettingsGroup

__all__ = ["ComputingSettings"]


class ComputingSettings(SettingsGroup):
    """Where and how a run computes, and what it keeps."""

    seed: int = Field(0, ge=0, le=2**62, description="Seed of all random choices.")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="Where to compute: auto (a GPU if there is one), cpu, cuda or cuda:N.",
    )
    threads: int | None = Field(None, ge=1, le=4096, description="CPU threads (default: all).")
    workers: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Worker processes that share the threads; one that is killed is replaced, and "
        "its work done again (default: none, threads of one process). On the CPU only.",
    )
    intermediate: Literal["keep", "remove"] = Field(
        "remove",
        description="Whether maps, references, also as images were compared with them, and sums of "
        "stochastic runs of all iterations are kept, or those of the last two only.",
    )
