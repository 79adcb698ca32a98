"""What needs no model starts at once: neither torch nor anything else that takes seconds is imported for it."""

import subprocess
import sys
from pathlib import Path

import pytest

from lorattt import __main__ as entry
from lorattt import __version__
from lorattt.data.catalogue import BENCHMARKS

ROOT = Path(entry.__file__).parent.parent
HEAVY = {"torch", "torchvision", "lightning", "numpy", "PIL", "jsonargparse"}


def _run(*args: str, allowed: set[str] = frozenset()) -> str:  # type: ignore[assignment]
    """What the command prints; fails if it imports what takes long."""
    code = f"""
import sys
sys.argv[1:] = {list(args)!r}
from lorattt.__main__ import main
try:
    main()
except SystemExit as stop:
    assert stop.code in (0, 1), stop.code
heavy = {HEAVY - allowed!r} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_version() -> None:
    assert _run("--version") == f"lorattt {__version__}\n"


@pytest.mark.parametrize("args", [("--help",), ("check", "--help")])
def test_help_of_data(args: tuple[str, ...]) -> None:
    shown = _run("data", *args)
    assert shown.startswith("usage: lorattt data")
    if args[0] == "check":
        assert all(key in shown for key in BENCHMARKS)


def test_data_check(tmp_path: Path) -> None:
    """It looks for images and opens none; NumPy and Pillow come with what could open them."""
    shown = _run("data", "check", "--data_root", str(tmp_path), allowed={"numpy", "PIL"})
    assert "0 of 15 complete" in shown
