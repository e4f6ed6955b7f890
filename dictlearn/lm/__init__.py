"""The language model: load it, read it at hooks, and splice an estimate back in.

The only room that knows TransformerLens, which it imports lazily: that takes seconds.
"""
