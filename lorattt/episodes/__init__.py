"""The engine: adapts E episodes at once. Knows nothing of Lightning, of datasets or of CLIP."""
