"""Programs for maintainers, which are no part of the package."""
