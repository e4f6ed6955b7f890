"""All contenders, ours first; a library that is not there is named with the reason."""

from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version

from benchmarks.peers.ours import OURS, OURS_INT8
from benchmarks.peers.peer import Kind, Peer
from dictlearn.kernels import fastest

_MODULES = (
    ("saelens", "SAELENS", "SAELENS_SPARSE"),
    ("dictionary_learning_", "DICTIONARY_LEARNING"),
    ("sparsify_", "SPARSIFY", "SPARSIFY_ADAM"),
    ("codebook_features_", "CODEBOOK_FEATURES"),
    ("vector_quantize", "VECTOR_QUANTIZE"),
)


class Contenders:
    """The libraries that could be imported, and why the others could not."""

    def __init__(self) -> None:
        self.peers: list[Peer] = [OURS]
        self.absent: dict[str, str] = {}
        timings = fastest.timings()
        if timings.int8_search_pays():
            self.peers.append(OURS_INT8)
        else:
            self.absent[OURS_INT8.name] = f"refused: {timings.of_int8_search()}"
        for module, *names in _MODULES:
            try:
                found = import_module(f"benchmarks.peers.{module}")
            except Exception as error:  # whatever a library raises on import, others go on
                self.absent[module.strip("_")] = in_short(error)
                continue
            self.peers += [getattr(found, name) for name in names]

    def offering(self, kind: Kind, *, options: bool = True) -> Iterator[Peer]:
        """The contenders that train this kind, ours first; options of libraries on request."""
        return (p for p in self.peers if kind in p.makers and (options or not p.is_option))

    def named(self, name: str) -> Peer:
        """The contender of this name."""
        return next(peer for peer in self.peers if peer.name == name)

    def versions(self) -> dict[str, str]:
        """The version of every library that takes part."""
        names = dict.fromkeys(peer.distribution for peer in self.peers)
        return {name: version(name) for name in names}


def in_short(error: Exception) -> str:
    """An error on one line of a table's notes."""
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return text if len(text) <= 200 else text[:200] + "…"
