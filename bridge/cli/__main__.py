"""`python -m bridge.cli …`: the same as the command `runbridge`, where that is not on the path."""

from __future__ import annotations

import sys

from bridge.cli import main

if __name__ == "__main__":
    sys.exit(main())
