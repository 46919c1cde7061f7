"""Run the plugin's tests without a screen: in a Scipion home of their own, which is made anew.

Usage: python run_tests.py FOLDER [TEST ...]. CRYOREFINE_BIN names the program that is tested.
"""

import os
import shutil
import sys
import unittest
from pathlib import Path


def make_home(home):
    """Make a Scipion home with nothing in it, and have Scipion use it; load the plugins."""
    shutil.rmtree(home, ignore_errors=True)
    (home / "config").mkdir(parents=True)
    os.environ.update(
        SCIPION_HOME=str(home),
        SCIPION_USER_DATA=str(home / "data"),
        SCIPION_DOMAIN="pwem",
        SCIPION_TEST_NOSYNC="1",
        # Protocols are started as "python ...": with the packages of this one.
        PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    )
    # Scipion reads the variables above when it is imported.
    from pyworkflow import Config
    from pyworkflow.protocol import HostConfig

    HostConfig.writeBasic(str(home / "config" / "hosts.conf"))
    Config.getDomain().getPlugins()


def main():
    """Prepare the home, then run the tests that are named, or all."""
    home = Path(sys.argv[1]).resolve()
    names = sys.argv[2:] or ["scipion_cryorefine.tests.test_refine"]
    make_home(home)
    os.chdir(home)
    unittest.main(module=None, argv=["run_tests.py", *names], verbosity=2)


if __name__ == "__main__":
    main()
