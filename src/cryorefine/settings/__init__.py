"""What a user can choose, by subject. The command line, TOML files and run folders use it."""

from cryorefine.settings.changes import FIXED, Changes, merge_settings
from cryorefine.settings.combined import FILE_SETTINGS, GROUPS, RefineSettings
from cryorefine.settings.files import load_settings, make_settings, save_settings

__all__ = [
    "FILE_SETTINGS",
    "FIXED",
    "GROUPS",
    "Changes",
    "RefineSettings",
    "load_settings",
    "make_settings",
    "merge_settings",
    "save_settings",
]
