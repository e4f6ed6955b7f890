"""A dictionary whose coefficients are rounded to levels: what it is worth at a price in bits."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.sparse_acts import SparseActs


class Quantized(FeatureDictionary):
    """`base` with every coefficient rounded to a whole number of steps, and never to zero.

    Steps are uniform in what a coefficient contributes, `|a_j| ||atom_j||` in raw activation
    units, so that rescaling a feature against its atom changes nothing:
    `level = sign(a_j) max(1, round(|a_j| ||atom_j|| / step))`. Which features are active stays as
    it is. A feature whose atom is zero contributes nothing: its level is 1, its coefficient kept.

    Everything else is that of `base`, which it holds and does not copy; it is measured like any
    dictionary, and not saved.

    Raises:
        InputError: the step is not above 0, or coefficients are binary.
    """

    _norms: Tensor

    def __init__(self, base: FeatureDictionary, step: float) -> None:
        if not step > 0:
            raise InputError(f"required a step above 0, got {step}")
        if base.traits.binary:
            raise InputError("binary coefficients have no levels, got a binary dictionary")
        super().__init__(base.sites, base.n_features)
        self.to(base.x_mean.device, base.x_mean.dtype)  # before `base` is a part, which stays
        self.base = base
        self.standardize_(base.x_mean, base.x_scale, base.y_mean, base.y_scale)
        self.provenance, self.traits = base.provenance, base.traits
        one_scale = base.y_scale.ndim == 0
        self._step = float(step / base.y_scale) if one_scale else float(step)
        atoms = (base._atoms if one_scale else base.atoms).detach()
        norms = torch.linalg.vector_norm(atoms, dim=1).to(base.x_mean)
        self.register_buffer("_norms", norms, persistent=False)

    @property
    def _atoms(self) -> Float[Tensor, "feature d_out"]:
        return self.base._atoms

    @property
    def _standardized_bias(self) -> Float[Tensor, " d_out"] | float:
        return self.base._standardized_bias

    def _skip(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_out"] | None:
        return self.base._skip(z)

    def _write(self, acts: Float[Tensor, "*b feature"] | SparseActs) -> Float[Tensor, "*b d_out"]:
        return self.base._write(acts)

    def _scores(
        self, z: Float[Tensor, "n d_in"], features: Int[Tensor, " m"]
    ) -> Float[Tensor, "n m"]:
        return self.base._scores(z, features)

    def _encode(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n feature"]:
        # Not from the dense coefficients: a last bit in which they differ would move a level.
        return self._encode_sparse(z).to_dense()

    def _encode_sparse(self, z: Float[Tensor, "n d_in"]) -> SparseActs:
        acts = self.base._encode_sparse(z)
        norms = self._norms[acts.indices]
        rounded = self.levels(acts) * self._step / norms
        rounded = torch.where(norms > 0, rounded.to(acts.values), acts.values.detach())
        if acts.values.requires_grad:  # as before rounding: the straight-through estimate
            rounded = acts.values + (rounded - acts.values).detach()
        return acts.with_values(rounded)

    def levels(self, acts: SparseActs) -> Int[Tensor, " nnz"]:
        """The level of every entry of `acts`, with its sign; never 0.

        Rounded coefficients have the levels that they were rounded to.
        """
        steps = acts.values.abs() * self._norms[acts.indices] / self._step
        return steps.round().clamp_min(1).long() * acts.values.sign().long()
