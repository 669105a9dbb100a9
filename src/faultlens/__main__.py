"""``python -m faultlens``, the same as ``faultlens``."""

import sys

from faultlens.cli import main

if __name__ == "__main__":
    sys.exit(main())
