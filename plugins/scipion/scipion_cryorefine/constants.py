"""Names and versions that the plugin and its installation share."""

VERSION = "3.0.0"
"""Of the plugin; its first number is that of Scipion."""

CRYOREFINE_VERSION = "0.1.0"
"""Of the program that the plugin installs."""

CRYOREFINE_BIN = "CRYOREFINE_BIN"
"""Variable: the program itself, where it is installed without help of Scipion."""

CRYOREFINE_ENV_ACTIVATION = "CRYOREFINE_ENV_ACTIVATION"
"""Variable: the command that makes the program's environment the current one."""

CRYOREFINE_PACKAGE = "CRYOREFINE_PACKAGE"
"""Variable: what pip installs; a name with its version, a wheel, or a folder of the source."""

ENVIRONMENT = f"cryorefine-{CRYOREFINE_VERSION}"
"""Name of the environment that Scipion makes for the program."""
