"""`python -m likeli`."""

import sys

from likeli.cli import main

if __name__ == "__main__":
    sys.exit(main())
