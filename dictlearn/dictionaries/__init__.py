"""One file per kind, the registry that lists them, and their files on disk."""
