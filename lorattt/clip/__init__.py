"""CLIP models: loading, towers and texts. The only room that imports open_clip."""
