"""`python -m bridge.sandbox` is `runbridge sandbox`."""

import sys

from bridge.cli import main

if __name__ == "__main__":
    sys.exit(main(["sandbox", *sys.argv[1:]]))
