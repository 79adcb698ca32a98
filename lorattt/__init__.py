"""Test-time training for CLIP: many images adapted at once, each with its own parameters."""

__version__ = "0.1.0"
