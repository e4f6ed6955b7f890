"""The interface of all methods: a feature dictionary maps activations to an estimate.

Every method in scope has an affine decoder, so methods differ in two ways only: how `encode`
picks coefficients, and how parameters are learned (`core.learning`).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dictlearn.core.config import Config
from dictlearn.core.errors import InputError
from dictlearn.core.provenance import Provenance
from dictlearn.core.reading import Reading, tangents
from dictlearn.core.sites import Sites
from dictlearn.core.sparse_acts import SparseActs

_INDICES = (torch.int64, torch.int32, torch.int16, torch.int8)


@dataclass(frozen=True)
class Traits:
    """Promises about every row of coefficients."""

    nonnegative: bool = False
    binary: bool = False
    max_active: int | None = None
    n_groups: int = 1
    """Number of equal contiguous groups of features; `max_active` is divided equally among them."""


class FeatureDictionary(nn.Module, ABC):
    """A linear dictionary of features on activations.

    A kind supplies, in standardized units `z = (x - mean) / scale`:

    * `_encode(z)`: `[n, d_in] -> [n, feature]`, each row by itself, no state changed;
    * `_atoms`: `[feature, d_out]`, a parameter, buffer or property;
    * `_bias`: `[d_out]`, likewise; zero unless supplied;
    * `_skip(z)`: `[n, d_in] -> [n, d_out]`, only where the kind has a linear skip.

    Everything public is in raw activation units: the scale is folded into `atoms` and `bias`,
    and nothing is rescaled around a save. Until `standardize_` is called the two units agree.
    """

    traits: Traits = Traits()
    config: Config | None = None
    """The config that built it; required for saving."""
    kind: str = ""
    """Name of its kind, set by the config that builds it; else the name of the class."""
    baseline: bool = False
    """Whether its kind is a baseline, set by the config that builds it."""
    provenance: Provenance
    _FINAL: ClassVar = ("encode", "encode_sparse", "decode", "estimate", "forward", "scores",
                        "reading", "skip", "write", "atoms", "bias")  # fmt: skip

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in FeatureDictionary._FINAL:
            if name in cls.__dict__:
                raise TypeError(
                    f"{cls.__name__}.{name} is final: it follows from _encode, _atoms and _bias; "
                    "supply those, in standardized units"
                )

    def __init__(self, sites: Sites, n_features: int) -> None:
        super().__init__()
        self.sites = sites
        self.n_features = n_features
        self.kind = type(self).__name__
        self.provenance = Provenance()
        self.x_mean: Tensor
        self.x_scale: Tensor
        self.y_mean: Tensor
        self.y_scale: Tensor
        for name, site in (("x", sites.source), ("y", sites.target)):
            self.register_buffer(f"{name}_mean", torch.zeros(site.d))
            # One number, or one per dimension where several hooks have scales of their own.
            one = torch.ones(() if len(site.hooks) == 1 else site.d)
            self.register_buffer(f"{name}_scale", one)

    # Supplied by a kind

    if TYPE_CHECKING:  # at run time, a property would prevent kinds from registering a tensor here

        @property
        def _atoms(self) -> Float[Tensor, "feature d_out"]: ...

    @abstractmethod
    def _encode(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n feature"]: ...

    def _encode_sparse(self, z: Float[Tensor, "n d_in"]) -> SparseActs:
        """The same as `_encode`; override it only to be faster."""
        return SparseActs.from_dense(self._encode(z))

    def _scores(
        self, z: Float[Tensor, "n d_in"], features: Int[Tensor, " m"]
    ) -> Float[Tensor, "n m"]:
        """The result of `scores`; override it where coefficients do not decide what is active."""
        return self._encode(z)[:, features]

    def _write(self, acts: Float[Tensor, "*b feature"] | SparseActs) -> Float[Tensor, "*b d_out"]:
        """`acts @ _atoms`; override it only to be faster."""
        atoms = self._atoms
        return acts.matmul(atoms) if isinstance(acts, SparseActs) else acts @ atoms

    def _skip(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_out"] | None:
        return None

    @property
    def _standardized_bias(self) -> Float[Tensor, " d_out"] | float:
        return getattr(self, "_bias", 0.0)

    def sources_of(self, target: str) -> tuple[str, ...]:
        """The hooks on which the estimate at the hook `target` depends; all by default."""
        return self.sites.source.hooks

    def carrier(self, y: Float[Tensor, "n d_out"]) -> Float[Tensor, "n d_out"]:
        """The function of a target whose gradient an estimate has where gradients pass straight
        through it: the target itself, by default."""
        return y

    # Public interface

    def __repr__(self) -> str:
        """Its kind, size, settings that are not the defaults, hooks and model."""
        words = [f"{self.n_features:,} features"]
        settings = {} if self.config is None else self.config.changed()
        words += [f"{k}={v}" for k, v in settings.items() if k not in ("n_features", "n_codes")]
        of = f" of {self.provenance.model}" if self.provenance.model else ""
        return f"{self.kind}({', '.join(words)}, {self.sites}{of})"

    @final
    def encode(self, x: Float[Tensor, "*b d_in"]) -> Float[Tensor, "*b feature"]:
        """The coefficients of `x`, always exactly one dense tensor.

        Raises:
            InputError: the last axis of `x` is not the width of the source site.
        """
        rows = self._checked(x)
        return self._encode(self._standardized(rows)).reshape(*x.shape[:-1], self.n_features)

    @final
    def encode_sparse(self, x: Float[Tensor, "n d_in"]) -> SparseActs:
        """The coefficients of `x` without the zeros: equal to `encode(x)`.

        Gradients are those of `encode` as well, except that a coefficient that is exactly zero has
        no entry to pass one.

        Raises:
            InputError: `x` is not a matrix as wide as the source site.
        """
        if x.ndim != 2:
            raise InputError(f"encode_sparse needs a matrix of rows, got shape {tuple(x.shape)}")
        return self._encode_sparse(self._standardized(self._checked(x)))

    @final
    def scores(
        self, x: Float[Tensor, "n d_in"], features: Int[Tensor, " m"]
    ) -> Float[Tensor, "n m"]:
        """The scores of `features`: the quantity whose size decides whether a feature is active.

        The pre-activation of a linear kind, the similarity to a code, and otherwise the coefficient
        itself. In standardized units, and differentiable in `x`
        everywhere, also where a feature is inactive or its coefficient is 0 or 1.

        Raises:
            InputError: `x` is not a matrix as wide as the source site, or `features` is no vector
                of indices of features.
        """
        if x.ndim != 2:
            raise InputError(f"scores needs a matrix of rows, got shape {tuple(x.shape)}")
        is_vector = isinstance(features, Tensor) and features.dtype in _INDICES
        if not is_vector or features.ndim != 1:
            raise InputError(
                "scores needs a vector of whole numbers as features, such as torch.tensor([3]), "
                f"got {features!r:.80}"
            )
        if (
            features.numel()
            and not 0 <= int(features.min()) <= int(features.max()) < self.n_features
        ):
            raise InputError(
                f"required features from 0 to {self.n_features - 1}, got {int(features.min())} to "
                f"{int(features.max())}"
            )
        return self._scores(self._standardized(self._checked(x)), features)

    @final
    def reading(self, x: Float[Tensor, "n d_in"], features: Int[Tensor, " n"]) -> Reading:
        """The affine function of the source that gives the coefficient `features[i]` of each row.

        It is the tangent of `encode` at the row: the choice of active features, gates and other
        non-linearities are held. A coefficient that is 0 or 1 has no slope: there the function
        gives the score.

        Raises:
            InputError: `x` is not a matrix as wide as the source site, or `features` is no vector
                of one feature for each row, from 0 to the number of features.
        """
        if x.ndim != 2 or not isinstance(features, Tensor) or features.shape != x.shape[:1]:
            raise InputError(
                "reading needs a matrix of rows and one feature for each, got shape "
                f"{tuple(x.shape)} and {features!r:.80}"
            )
        if bool(((features < 0) | (features >= self.n_features)).any()):
            raise InputError(
                f"required features from 0 to {self.n_features - 1}, got {features!r:.80}"
            )
        return tangents(self, self._checked(x), features)

    @final
    def write(self, acts: Float[Tensor, "*b feature"] | SparseActs) -> Float[Tensor, "*b d_out"]:
        """The sum of the features' directions, `acts @ atoms`, in raw units and without the bias.

        Raises:
            InputError: `acts` does not have one coefficient per feature.
        """
        width = acts.n_features if isinstance(acts, SparseActs) else acts.shape[-1]
        if width != self.n_features:
            raise InputError(f"required {self.n_features} coefficients per row, got {width}")
        return self.y_scale * self._write(acts)

    @final
    def decode(self, acts: Float[Tensor, "*b feature"] | SparseActs) -> Float[Tensor, "*b d_out"]:
        """The estimate `acts @ atoms + bias`, in raw units.

        Raises:
            InputError: `acts` does not have one coefficient per feature.
        """
        return self.write(acts) + self.bias

    @final
    def skip(self, x: Float[Tensor, "*b d_in"]) -> Float[Tensor, "*b d_out"] | None:
        """The part of the estimate that bypasses the features, or None where there is none."""
        linear = self._skip(self._standardized(self._checked(x)))
        if linear is None:
            return None
        return (self.y_scale * linear).reshape(*x.shape[:-1], self.sites.target.d)

    @final
    def estimate(
        self, x: Float[Tensor, "*b d_in"], acts: Float[Tensor, "*b feature"] | SparseActs
    ) -> Float[Tensor, "*b d_out"]:
        """`decode(acts)` plus `skip(x)`: the estimate of the target, given its coefficients."""
        y_hat = self.decode(acts)
        skipped = self.skip(x)
        return y_hat if skipped is None else y_hat + skipped

    @final  # type: ignore[misc]  # nn.Module declares it as an attribute
    def forward(self, x: Float[Tensor, "*b d_in"]) -> Float[Tensor, "*b d_out"]:
        """The estimate of the target from `x`: `decode(encode(x))`, plus `skip(x)` if any."""
        return self.estimate(x, self.encode(x))

    @property
    @final
    def atoms(self) -> Float[Tensor, "feature d_out"]:
        """The feature directions, one per row, in raw activation units per unit coefficient."""
        return self.y_scale * self._atoms

    @property
    @final
    def bias(self) -> Float[Tensor, " d_out"]:
        """The estimate when every coefficient is zero, in raw activation units."""
        return self.y_scale * self._standardized_bias + self.y_mean

    # Units

    def standardize_(
        self,
        x_mean: Float[Tensor, " d_in"],
        x_scale: Float[Tensor, "*#d_in"],
        y_mean: Float[Tensor, " d_out"],
        y_scale: Float[Tensor, "*#d_out"],
    ) -> None:
        """Set the mean and scale by which source (`x`) and target (`y`) are standardized.

        A scale is one number, or, at a site of several hooks, one per dimension, constant by hook.
        """
        for name, value in (
            ("x_mean", x_mean), ("x_scale", x_scale), ("y_mean", y_mean), ("y_scale", y_scale)
        ):  # fmt: skip
            getattr(self, name).copy_(value)

    def _standardized(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_in"]:
        return (x.to(self.x_mean.dtype) - self.x_mean) / self.x_scale

    def _checked(self, x: Float[Tensor, "*b d_in"]) -> Float[Tensor, "n d_in"]:
        d = self.sites.source.d
        if x.ndim == 0 or x.shape[-1] != d:
            raise InputError(
                f"required activations of width {d} (hook {str(self.sites.source)!r}), got shape "
                f"{tuple(x.shape)}; check the hook"
            )
        return x.reshape(-1, d)
