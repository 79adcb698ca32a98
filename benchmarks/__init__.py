"""Measurements; times go here, never into a test's assertion."""
