"""Other libraries and this one, timed side by side: `make peers`."""
