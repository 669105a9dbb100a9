"""``python -m faultlens``, the same as ``faultlens``."""

import sys

from faultlens.commands import main

if __name__ == "__main__":
    sys.exit(main())
