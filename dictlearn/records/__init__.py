"""Results as data: what an evaluation leaves behind."""
