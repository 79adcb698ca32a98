"""The command ``lorattt``, and ``python -m lorattt``.

What needs no model is answered before torch is imported, which takes seconds.
"""

import importlib
import sys
from collections.abc import Sequence

from lorattt import __version__
from lorattt.stopping import ended_by_signals


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; the arguments are those of the process where none are given."""
    given = list(sys.argv[1:] if args is None else args)
    with ended_by_signals():
        if given[:1] in (["report"], ["data"], ["sweep"]):
            command = importlib.import_module(f"lorattt.{given[0]}.command")
            raise SystemExit(command.main(given[1:]))
        if given == ["--version"]:
            print(f"lorattt {__version__}")
            return
        from lorattt.cli import main as run

        run(None if args is None else given)


if __name__ == "__main__":
    main()
