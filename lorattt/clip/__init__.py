"""The only room that knows open_clip."""
