"""Where images and labels come from; nothing here knows of models."""
