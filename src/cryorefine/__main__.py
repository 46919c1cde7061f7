"""``python -m cryorefine`` is the command ``cryorefine``."""

from cryorefine.cli.main import main

if __name__ == "__main__":
    main()
