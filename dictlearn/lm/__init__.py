"""The language model: load it, read it at hooks, and splice an estimate back in.

The only module that imports TransformerLens, and lazily, since the import takes seconds.
"""
