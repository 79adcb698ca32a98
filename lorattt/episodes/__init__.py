"""The engine: adapts E episodes at once, independent of Lightning, datasets and CLIP."""
