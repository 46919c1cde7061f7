"""Scipion plugin of cryorefine; the program runs in an environment of its own."""

import os

import pwem
from pyworkflow.utils import Environ

from .constants import (
    CRYOREFINE_BIN,
    CRYOREFINE_ENV_ACTIVATION,
    CRYOREFINE_PACKAGE,
    CRYOREFINE_VERSION,
    ENVIRONMENT,
    VERSION,
)

__version__ = VERSION
_logo = "icon.png"
_references = ["Sorzano2018"]


class Plugin(pwem.Plugin):
    """Where the program is, and how Scipion installs it."""

    _supportedVersions = (CRYOREFINE_VERSION,)

    @classmethod
    def _defineVariables(cls):
        cls._defineVar(
            CRYOREFINE_BIN,
            "",
            description="The program cryorefine itself; empty: the one in its environment.",
        )
        cls._defineVar(
            CRYOREFINE_ENV_ACTIVATION,
            f"conda activate {ENVIRONMENT}",
            description="Command that activates the environment of cryorefine.",
        )
        cls._defineVar(
            CRYOREFINE_PACKAGE,
            f"cryorefine=={CRYOREFINE_VERSION}",
            description="What pip installs: name and version, a wheel, or a folder of the source.",
        )

    @classmethod
    def getEnviron(cls):
        """Return the environment of the program: Scipion's own packages are not seen in it."""
        environ = Environ(os.environ)
        for name in ("PYTHONPATH", "PYTHONHOME"):
            environ.pop(name, None)
        return environ

    @classmethod
    def getProgram(cls):
        """Return what the shell runs: the program, after its environment was activated."""
        program = cls.getVar(CRYOREFINE_BIN)
        if program:
            return program
        activation = cls.getVar(CRYOREFINE_ENV_ACTIVATION)
        if activation.startswith("conda "):
            activation = f"{cls.getCondaActivationCmd()} {activation}"
        return f"{activation} && cryorefine" if activation else "cryorefine"

    @classmethod
    def defineBinaries(cls, env):
        """Tell Scipion's installer how the environment of the program is made."""
        flag = f"{ENVIRONMENT}_installed"
        conda = cls.getCondaActivationCmd()
        command = (
            f"{conda} conda create -y -n {ENVIRONMENT} python=3.11 && conda activate {ENVIRONMENT} "
            f"&& pip install '{cls.getVar(CRYOREFINE_PACKAGE)}' && touch {flag}"
        )
        env.addPackage(
            "cryorefine",
            version=CRYOREFINE_VERSION,
            tar="void.tgz",
            commands=[(command, flag)],
            neededProgs=["conda"],
            default=True,
        )
