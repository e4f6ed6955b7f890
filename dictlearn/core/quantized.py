"""A dictionary with quantized coefficients, to measure its quality at a cost in bits."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.sparse_acts import SparseActs


class Quantized(FeatureDictionary):
    """`base` with every coefficient rounded to a non-zero multiple of a step.

    Steps are uniform in what a coefficient contributes, `|a_j| ||atom_j||` in raw activation
    units, so that rescaling a feature against its atom changes nothing:
    `level = sign(a_j) max(1, round(|a_j| ||atom_j|| / step))`. The set of active features
    does not change. A feature whose atom is zero has level 1 and keeps its coefficient.

    All else is shared with `base`, which is not copied. It can be evaluated like any dictionary,
    but not saved.

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
        self.to(base.x_mean.device, base.x_mean.dtype)  # `base`, a submodule from here on, stays
        self.base = base
        self.standardize_(base.x_mean, base.x_scale, base.y_mean, base.y_scale)
        self.provenance, self.traits = base.provenance, base.traits
        one_scale = base.y_scale.ndim == 0
        self._step = float(step / base.y_scale) if one_scale else float(step)
        atoms = (base._atoms if one_scale else base.atoms).detach()
        norms = torch.linalg.vector_norm(atoms, dim=1).to(base.x_mean)
        self.register_buffer("_norms", norms, persistent=False)

    def sources_of(self, target: str) -> tuple[str, ...]:
        """Those of `base`."""
        return self.base.sources_of(target)

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
        # Not from dense coefficients: a difference in the last bit could change a level.
        return self._encode_sparse(z).to_dense()

    def _encode_sparse(self, z: Float[Tensor, "n d_in"]) -> SparseActs:
        acts = self.base._encode_sparse(z)
        norms = self._norms[acts.indices]
        rounded = self.levels(acts) * self._step / norms
        rounded = torch.where(norms > 0, rounded.to(acts.values), acts.values.detach())
        if acts.values.requires_grad:  # straight-through estimate
            rounded = acts.values + (rounded - acts.values).detach()
        return acts.with_values(rounded)

    def levels(self, acts: SparseActs) -> Int[Tensor, " nnz"]:
        """The level of every entry of `acts`, with its sign; never 0.

        Coefficients that are already rounded keep their levels.
        """
        steps = acts.values.abs() * self._norms[acts.indices] / self._step
        return steps.round().clamp_min(1).long() * acts.values.sign().long()
