"""Prompts of learned vectors: where they come from, how class names join them, the files that hold them."""
