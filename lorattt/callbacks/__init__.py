"""Observers of a run: they write and show, and change nothing."""
