"""Activations in memory."""

from jaxtyping import Float
from torch import Tensor

from dictlearn.activations.hooks import hook_widths, require_hooks
from dictlearn.activations.shuffle import shuffled_positions
from dictlearn.core.batches import Activations, Rows, require_finite
from dictlearn.core.errors import InputError
from dictlearn.core.mlp_weights import MLPWeights
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Site, Sites


class TensorActivations(Activations):
    """Rows in memory: `x` alone for autoencoders, `x` and `y` for transcoders.

    The tensors are kept as they are (dtype, device) and shuffled by index. Unless `sites` says
    where they were read, the hooks are named "x" and "y". `mlp` is the MLP from `x` to `y`, if any.

    Raises:
        InputError: a tensor is not a matrix of floating-point rows, the tensors have different
            numbers of rows or none, or they do not fit `sites`.
        NonFiniteError: a row holds NaN or infinity.

    >>> import torch
    >>> activations = TensorActivations(torch.eye(3))
    >>> activations.rows(seed=0, step=0, n=3).at["x"].sum(dim=0).tolist()
    [1.0, 1.0, 1.0]
    """

    def __init__(
        self,
        x: Float[Tensor, "n d_in"],
        y: Float[Tensor, "n d_out"] | None = None,
        *,
        sites: Sites | None = None,
        mlp: MLPWeights | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        y = None if y is x else y
        for name, tensor in (("x", x), ("y", y)):
            if tensor is not None:
                _require_matrix(name, tensor)
        if sites is None:
            source = Site("x", x.shape[1])
            sites = Sites(source, source if y is None else Site("y", y.shape[1]))
        if sites.is_autoencoder != (y is None):
            needed = "x alone" if sites.is_autoencoder else "x and y"
            raise InputError(f"sites {sites} require {needed}, got {'x' if y is None else 'both'}")
        self.sites, self.n_rows = (sites,), len(x)
        self.provenance = provenance or Provenance()
        self._mlp = mlp
        at: dict[str, Tensor] = {}
        for site, given in ((sites.source, x), (sites.target, x if y is None else y)):
            if given.shape[1] != site.d:
                raise InputError(
                    f"required rows of width {site.d} at {str(site)!r}, got {given.shape[1]}"
                )
            at |= zip(site.hooks, site.split(given), strict=True)
        self._rows = Rows(at)
        require_hooks(self._rows, hook_widths([sites]))
        for hook, tensor in self._rows.at.items():
            require_finite(tensor, hook)

    def mlp_weights(self, sites: Sites) -> MLPWeights | None:
        return self._mlp if (sites,) == self.sites else None

    def rows(self, seed: int, step: int, n: int) -> Rows:
        return self.rows_of(0, 1, seed, step, n)

    def rows_of(self, rank: int, world_size: int, seed: int, step: int, n: int) -> Rows:
        positions = shuffled_positions(seed, step * n, n, self.n_rows)[rank::world_size]
        return Rows({hook: x[positions.to(x.device)] for hook, x in self._rows.at.items()})

    def locate(self, seed: int, step: int, n: int, row: int) -> str:
        position = int(shuffled_positions(seed, step * n + row, 1, self.n_rows))
        return f"row {position} of the tensors given"


def _require_matrix(name: str, tensor: Tensor) -> None:
    if tensor.ndim != 2 or 0 in tensor.shape or not tensor.is_floating_point():
        raise InputError(
            f"required {name} as floating-point rows of shape (n, d) with at least one row, got "
            f"{tensor.dtype} of shape {tuple(tensor.shape)}"
        )
