"""Other libraries' files: read into our kinds, and written from them."""
