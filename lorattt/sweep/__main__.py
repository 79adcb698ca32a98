"""``python -m lorattt.sweep``."""

import sys

from lorattt.sweep.command import main

if __name__ == "__main__":
    sys.exit(main())
