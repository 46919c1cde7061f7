"""``cryorefine relion-job``: the executable of RELION's job type External."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from cryorefine.cli.environment import modules_of_a_run
from cryorefine.cli.file_path import FILE_PATH
from cryorefine.cli.options import ALLOW_COMMANDS, GroupedCommand, given, settings_options
from cryorefine.errors import InputError
from cryorefine.interop.relion_job import job_name, mark_as_failed, marked_job
from cryorefine.io.output_path import is_there
from cryorefine.settings import RefineSettings

__all__ = ["command"]

_RELIONS = {"in_parts": "particles", "in_3dref": "reference", "in_mask": "mask", "j": "threads"}
"""Options as RELION writes them, and the settings that they are."""


class _RelionCommand(GroupedCommand):
    """A command that marks the job as failed where its options cannot be understood.

    RELION would take it for one that runs, for ever.
    """

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        given = list(args)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError:
            folder = _folder_in(given)
            if folder is not None:
                mark_as_failed(folder)
            raise


def _folder_in(args: Sequence[str]) -> Path | None:
    """Return the job's folder among options that could not be understood."""
    for option, value in zip(args, [*args[1:], ""], strict=True):
        name, _, attached = option.partition("=")
        if name == "--o" and (attached or value):
            return Path(attached or value)
    return None


@click.command(
    "relion-job",
    cls=_RelionCommand,
    # RELION's users write names with underscores.
    context_settings={"token_normalize_func": lambda token: token.replace("_", "-")},
)
@click.option("--o", "job", type=FILE_PATH, required=True, help="The job's folder.")
@click.option("--in_parts", type=FILE_PATH, required=True, help="Particles.")
@click.option("--in_3dref", type=FILE_PATH, help="Initial map.")
@click.option("--in_mask", type=FILE_PATH, help="Soft mask, 0 to 1.")
@click.option("--j", type=click.INT, help="Threads.")
@click.option("--pipeline_control", type=FILE_PATH, hidden=True, help="RELION's own; as --o.")
@click.option(
    "--settings",
    "settings_file",
    type=FILE_PATH,
    help="TOML file with settings; options given here win over it.",
)
@click.option("--allow-commands", is_flag=True, help=ALLOW_COMMANDS)
def command(
    job: Path,
    pipeline_control: Path | None,
    settings_file: Path | None,
    allow_commands: bool,
    **options: Any,
) -> None:
    """Refine as a job External of RELION, which gives the first options itself.

    Its executable is "cryorefine relion-job"; the other options of refine are its parameters, by
    their names, with dashes or underscores. The run is in the folder "run" of the job's. A job that
    is run again goes on where it stopped.
    """
    is_there(job, do="give another --o")
    job.mkdir(parents=True, exist_ok=True)
    with marked_job(job):
        if pipeline_control is not None and job_name(pipeline_control) != job_name(job):
            raise InputError(
                f"RELION's job is {pipeline_control}", where=f"--o {job}", do="give that folder"
            )
        _refine(job, settings_file, given(options), allows_commands=allow_commands)


def _refine(
    job: Path, settings_file: Path | None, options: dict[str, Any], *, allows_commands: bool
) -> None:
    with modules_of_a_run():
        from cryorefine.cli.run_display import run_and_show
        from cryorefine.interop.relion_refinement import RUN, hand_on, refinement_of_job
        from cryorefine.settings import load_settings

    typed = {_RELIONS.get(name, name): value for name, value in options.items()}
    if "reference" in typed:
        typed["reference"] = (typed["reference"],)
    values = {**({} if settings_file is None else load_settings(settings_file)), **typed}
    refinement = refinement_of_job(job, values, typed.keys(), allows_commands=allows_commands)
    run_and_show(refinement, job / RUN)
    hand_on(job)


settings_options(*(n for n in RefineSettings.model_fields if n not in _RELIONS.values()))(command)
