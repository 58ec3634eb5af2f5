"""Runs the command line: ``python -m syncer``."""

import sys

from syncer.cli import main

if __name__ == "__main__":
    sys.exit(main())
