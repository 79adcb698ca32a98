"""Test-time training for CLIP: many images adapted at once, each with its own parameters."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorattt.api import Classification, classify

__version__ = "0.1.0"
__all__ = ["Classification", "__version__", "classify"]


def __getattr__(name: str) -> Any:
    """The Python call, imported at its first use: torch takes seconds that ``--version`` need not wait for."""
    if name in ("Classification", "classify"):
        from lorattt import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
