"""Test-time methods as LightningModules, one paper a file."""
