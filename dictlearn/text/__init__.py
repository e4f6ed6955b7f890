"""From a corpus to fixed-length blocks of tokens, split by content and hashed."""
