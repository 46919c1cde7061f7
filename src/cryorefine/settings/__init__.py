"""What a user can choose, by subject. The command line, TOML files and run folders use it."""

from cryorefine.settings.combined import GROUPS, RefineSettings
from cryorefine.settings.files import load_settings, make_settings, save_settings

__all__ = ["GROUPS", "RefineSettings", "load_settings", "make_settings", "save_settings"]
