"""``python -m lorattt.data``: the same as ``lorattt data``."""

import sys

from lorattt.data.command import main

sys.exit(main(sys.argv[1:]))
