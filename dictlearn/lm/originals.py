"""The Hugging Face original of a model, run on a few tokens before TransformerLens wraps it."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.errors import CorruptFileError, InputError
from dictlearn.lm.hooks import LanguageModel

N_TOKENS = 8
TOLERANCES = {
    torch.float64: 1e-5,
    torch.float32: 1e-3,
    torch.float16: 1e-2,
    torch.bfloat16: 4e-2,
}
"""The largest relative difference of logits that passes for rounding; some parts of a model work
in float32 at any dtype."""


class Original:
    """Stands for a class of Hugging Face models, and keeps the logits of the model it loads.

    TransformerLens takes it as `model_class`. So the weights are loaded once, and the logits are
    those of the plain model. They may be `weights` instead of those at the name that it is given.
    """

    def __init__(
        self, device: str | torch.device, weights: Mapping[str, Tensor] | None = None
    ) -> None:
        self._device, self._weights = device, weights
        self._ids: Tensor | None = None
        self._logits: Tensor | None = None
        self._failure = "TransformerLens loaded it in another way"

    def from_pretrained(self, name: str, **options: Any) -> Any:
        """The model that transformers loads, after a pass over a few tokens."""
        from transformer_lens.model_bridge.sources import transformers as source

        architecture = source.determine_architecture_from_hf_config(options["config"])
        if self._weights is None:
            model_class = source.get_hf_model_class_for_architecture(architecture)
            model = model_class.from_pretrained(name, **options).to(self._device)
        else:
            model = filled(architecture, self._weights, options).to(self._device)
        try:
            n_vocab = model.config.get_text_config().vocab_size
            ids = torch.arange(1, N_TOKENS + 1, device=self._device) * n_vocab // (N_TOKENS + 1)
            with torch.no_grad():
                self._logits, self._ids = model(ids[None]).logits, ids[None]
        except Exception as error:  # anything: models differ in what they ask for beside tokens
            self._failure = f"{type(error).__name__}: {error}"
        return model

    def require_equal(self, model: LanguageModel, name: str, dtype: torch.dtype) -> None:
        """Check that the hooked `model` gives the logits of its original.

        Raises:
            InputError: it does not, or the original gives no logits for tokens alone.
        """
        advice = (
            "use another model, or another version of transformer-lens; check=False "
            "(--no-check-model) loads it"
        )
        if self._ids is None or self._logits is None:
            raise InputError(
                f"the model {name!r} could not be compared with its Hugging Face original, which "
                f"gives no logits for tokens alone ({self._failure}); {advice} as it is"
            )
        try:
            with torch.no_grad():
                found = relative_difference(model(self._ids), self._logits)
        except Exception as error:  # of any part of TransformerLens
            raise InputError(
                f"the model {name!r} does not run under TransformerLens, and does in Hugging Face "
                f"({type(error).__name__}: {error}); {advice} as it is"
            ) from error
        tolerance = TOLERANCES.get(dtype, TOLERANCES[torch.bfloat16])
        if not found <= tolerance:
            raise InputError(
                f"the model {name!r} does not compute under TransformerLens what it computes in "
                f"Hugging Face: the logits of {N_TOKENS} tokens differ by {found:.2g} of their "
                f"size, required at most {tolerance:g} in {dtype}; {advice} all the same"
            )


def filled(architecture: str, weights: Mapping[str, Tensor], options: dict[str, Any]) -> Any:
    """The model of a class of transformers with exactly these weights.

    Raises:
        CorruptFileError: some are missing or left over.
    """
    import transformers

    model, found = getattr(transformers, architecture).from_pretrained(
        None, state_dict=dict(weights), output_loading_info=True, **options
    )
    if wrong := sorted({*found["missing_keys"], *found["unexpected_keys"]}):
        raise CorruptFileError(f"weights are missing or unknown: {', '.join(wrong)}")
    return model


def relative_difference(logits: Float[Tensor, "*n v"], expected: Float[Tensor, "*m w"]) -> float:
    """The norm of the difference over the norm of what was expected, both centred per token.

    Centred, since a number that is added to all logits of a token changes no prediction and would
    hide a difference. Logits of minus infinity (tokens that are never predicted) are left out.
    Infinite for logits of another shape, and `nan` where one of them is.

    >>> relative_difference(torch.tensor([[1.0, 3.0]]), torch.tensor([[11.0, 12.0]]))
    1.0
    """
    if logits.shape != expected.shape:
        return float("inf")
    kept = ~expected.isneginf().all(dim=tuple(range(expected.ndim - 1)))
    a, b = (x[..., kept].double() for x in (logits, expected))
    a, b = (x - x.mean(dim=-1, keepdim=True) for x in (a, b))
    difference = (a - b).norm()
    return float(difference / b.norm()) if difference != 0 else 0.0
