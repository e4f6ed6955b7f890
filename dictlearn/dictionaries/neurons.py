"""Neurons: the model's own basis as a dictionary. On an MLP it *is* the MLP."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.batches import Batch
from dictlearn.core.dictionary import FeatureDictionary, Traits
from dictlearn.core.errors import ConfigError, InputError
from dictlearn.core.kinds import ClosedFormConfig
from dictlearn.core.learning import Learner
from dictlearn.core.mlp_weights import MLPWeights
from dictlearn.core.sites import Sites


class MLPNeurons(FeatureDictionary):
    """Coefficients are the MLP's hidden activations, atoms its output weights."""

    W_in: Tensor
    b_in: Tensor
    W_gate: Tensor | None
    _bias: Tensor

    def __init__(self, sites: Sites, weights: MLPWeights) -> None:
        super().__init__(sites, weights.W_out.shape[0])
        widths = (len(weights.W_in), len(weights.b_out))
        if widths != (sites.source.d, sites.target.d):
            raise InputError(
                f"required an MLP from width {sites.source.d} to {sites.target.d} ({sites}), got "
                f"one from {widths[0]} to {widths[1]}"
            )
        self._act_name = weights.act_name
        self.traits = Traits(nonnegative=weights.act_name == "relu" and weights.W_gate is None)
        for name in ("W_in", "b_in", "W_gate"):
            value = getattr(weights, name)
            self.register_buffer(name, None if value is None else _copied(value))
        self.register_buffer("_atoms", _copied(weights.W_out))
        self.register_buffer("_bias", _copied(weights.b_out))

    @property
    def weights(self) -> MLPWeights:
        """The weights of the MLP."""
        return MLPWeights(
            self.W_in, self.b_in, self._atoms, self._bias, self._act_name, self.W_gate
        )

    def _encode(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n feature"]:
        return self.weights.hidden(z)

    def _scores(
        self, z: Float[Tensor, "n d_in"], features: Int[Tensor, " m"]
    ) -> Float[Tensor, "n m"]:
        """The input of a ReLU; the coefficient of other MLPs, whose neurons are always active."""
        if self.traits.nonnegative:
            return z @ self.W_in[:, features] + self.b_in[features]
        return self._encode(z)[:, features]


def _copied(weight: Tensor) -> Tensor:
    """The weight on the CPU in float32, like the parameters of other dictionaries."""
    return weight.detach().to("cpu", torch.float32, copy=True)


class NeuronBasis(FeatureDictionary):
    """Each dimension's positive and negative part: the basis of other sites."""

    traits = Traits(nonnegative=True)

    def __init__(self, sites: Sites) -> None:
        d = sites.target.d
        super().__init__(sites, 2 * d)
        self.register_buffer("_atoms", torch.cat([torch.eye(d), -torch.eye(d)]))

    def _encode(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n feature"]:
        return self._all_scores(z).relu()

    def _all_scores(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n feature"]:
        return torch.cat([z, -z], dim=1)

    def _scores(
        self, z: Float[Tensor, "n d_in"], features: Int[Tensor, " m"]
    ) -> Float[Tensor, "n m"]:
        return self._all_scores(z)[:, features]


_MOST_ERROR = 0.1
"""Relative error up to which an MLP is taken for the one harvested, in whatever precision."""


class ReadyLearner(Learner):
    """Learns nothing: the dictionary was complete when built."""

    def __init__(self, dictionary: FeatureDictionary) -> None:
        self.dictionary = dictionary
        self._checked = False

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Raise an `InputError` if an MLP does not give the first target from the first source."""
        if isinstance(self.dictionary, MLPNeurons) and not self._checked:
            self._checked = True
            error = (self.dictionary(batch.x) - batch.y).norm() / batch.y.norm().clamp_min(1e-30)
            if error > _MOST_ERROR:
                raise InputError(
                    f"the weights given do not compute {self.dictionary.sites.target} from "
                    f"{self.dictionary.sites.source} (relative error {float(error):.2g}): they are "
                    "of another layer or model"
                )
        return {}

    def finish(self) -> FeatureDictionary:
        """The dictionary as built."""
        return self.dictionary

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Nothing to continue."""


@dataclass(frozen=True, kw_only=True)
class NeuronsConfig(ClosedFormConfig[FeatureDictionary]):
    """The neurons of the MLP between source and target, or of the target's own basis."""

    kind = "neurons"
    baseline = True
    act_name: str | None = None
    """The MLP's non-linearity; filled in when the neurons are built."""
    mlp: MLPWeights | None = field(default=None, repr=False, compare=False)
    """The MLP's weights, from `mlp_weights(model, sites)`; `fit` takes them from activations."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, without the weights, which are the dictionary's own."""
        return {"act_name": self.act_name}

    def given(self, mlp: MLPWeights | None) -> "NeuronsConfig":
        """The config of the neurons of `mlp`."""
        return self if mlp is None or self.mlp is not None else replace(self, mlp=mlp)

    def sites(self, offered: Sites) -> Sites:
        """The sites as offered: an MLP's neurons read its input."""
        return offered

    def _build(self, sites: Sites, seed: int) -> FeatureDictionary:
        """The neurons at `sites`; weights of an MLP must be known if source and target differ."""
        if self.mlp is not None:
            widths = (self.mlp.W_in.shape[0], self.mlp.W_out.shape[1])
            if sites.is_autoencoder or widths != (sites.source.d, sites.target.d):
                raise ConfigError(
                    f"the weights of an MLP from width {widths[0]} to {widths[1]} do not fit "
                    f"{sites} (widths {sites.source.d} and {sites.target.d}): required its input "
                    "and output"
                )
            neurons = MLPNeurons(sites, self.mlp)
            neurons.config = NeuronsConfig(act_name=self.mlp.act_name)
            return neurons
        if sites.is_autoencoder:
            return NeuronBasis(sites)
        raise ConfigError(
            f"neurons at {sites} need the weights of the MLP between them: harvest with "
            "mlp_sites(model, layer), give them (NeuronsConfig(mlp=mlp_weights(model, sites))), or "
            "use one hook"
        )

    def restored(self, sites: Sites, tensors: Mapping[str, Tensor]) -> FeatureDictionary:
        """The neurons of an MLP, with weights from the file instead of a model."""
        if self.act_name is None:
            return self.build(sites)
        named = (tensors["W_in"], tensors["b_in"], tensors["_atoms"], tensors["_bias"])
        return MLPNeurons(sites, MLPWeights(*named, self.act_name, tensors.get("W_gate")))

    def learner(self, sites: Sites, *, seed: int) -> ReadyLearner:
        """A learner with nothing to learn."""
        return ReadyLearner(self.build(sites))

    @classmethod
    def tiny(cls) -> "NeuronsConfig":
        """The only instance."""
        return cls()
