"""Settings of training inside a model."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from dictlearn.training.config import RunConfig


def next_token_loss(
    logits: Float[Tensor, "b pos vocabulary"], ids: Int[Tensor, "b pos"]
) -> Float[Tensor, ""]:
    """The cross-entropy of the next token, in nats, averaged over all predicted tokens."""
    return cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def divergence(
    logits: Float[Tensor, "b pos vocabulary"], clean: Float[Tensor, "b pos vocabulary"]
) -> Float[Tensor, ""]:
    """The KL divergence from the clean model's predictions, in nats, averaged over predictions."""
    both = (logits[:, :-1].flatten(0, 1).log_softmax(1), clean[:, :-1].flatten(0, 1).log_softmax(1))
    return kl_div(*both, reduction="batchmean", log_target=True)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(RunConfig):
    """A run in which dictionaries learn in their places, and the model with them if it has a rate.

    The loss is that of the language model, plus `local_weight` times the own objective of each
    dictionary, whose gradient never reaches the model (Tamkin et al. 2024, section 2).
    """

    steps: int = 1000
    """Batches."""
    batch_size: int = 32
    """Blocks of tokens in a batch, of all processes together."""
    learning_rate: float | None = None
    """Peak learning rate of the dictionaries; each kind's own default unless set. Kinds multiply it
    for some parameters (`rates`): linear ones learn their decoder at 3 times this rate."""
    model_learning_rate: float | None = None
    """Peak learning rate of the model's parameters; unless set, the model is frozen. Larger ones
    than 2e-4 let the model grow what codes replace, since the choice of codes ignores norms."""
    model_weight_decay: float = 0.0
    """Decay of the model's parameters (AdamW); dictionaries have none."""
    model_loss_weight: float = 1.0
    """Weight of the language model's loss; 0 trains dictionaries on their own objectives alone."""
    local_weight: float = 1.0
    """Weight of the dictionaries' own objectives."""
    match_clean: bool = False
    """Whether the loss of the language model is the KL divergence from the predictions of the clean
    model, which then has to be frozen, instead of the cross-entropy of the next token."""
    straight_through: bool | None = None
    """Whether gradients pass an estimate as if it were its target, and else through the encoder; by
    default they do where coefficients are 0 or 1."""
    from_data: bool = True
    """Whether new dictionaries are standardized and initialized from activations of the model;
    otherwise they are in raw units and start with random parameters, as published for codebooks."""
    standardize_rows: int = 4096
    """Rows on which mean and scale of each site are fitted."""
    k_start: int | None = None
    """Codes chosen by codebooks at the start, falling to their own k, so at least that; by default
    it is k throughout."""
    k_decay_fraction: float = 0.5
    """Part of the run in which the number of codes falls."""
    k_power: float = 1.0
    """The number falls with the progress to the power of 1 over this."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_count("k_start")
        self._require_not_negative("model_loss_weight", "local_weight", "model_weight_decay")
        self._require_positive("k_decay_fraction", "k_power")
        if self.model_learning_rate is not None:
            self._require_positive("model_learning_rate")
        self._require(
            not (self.match_clean and self.model_learning_rate),
            "match_clean", "off if the model is trained (model_learning_rate), since it then has "
            "no fixed predictions to match",
        )  # fmt: skip

    def k_at(self, step: int, k: int) -> int:
        """The number of codes at a step (from 0), where `k` is that of the end.

        >>> config = FinetuneConfig(steps=100, k_start=9)
        >>> [config.k_at(step, 1) for step in (0, 25, 50, 99)]
        [9, 5, 1, 1]
        """
        if self.k_start is None:
            return k
        done = min(1.0, step / (self.k_decay_fraction * self.steps))
        return int(self.k_start - (self.k_start - k) * done ** (1 / self.k_power))
