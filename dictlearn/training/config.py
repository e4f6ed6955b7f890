"""Settings of training runs other than those of the method."""

import math
from dataclasses import dataclass

import torch

from dictlearn.core.config import Config
from dictlearn.core.devices import default_device, naming
from dictlearn.core.errors import ConfigError
from dictlearn.core.kinds import GradientConfig

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """Settings of every training run: its length, schedules, log, checkpoints and device."""

    steps: int = 2000
    """Batches, each seen by every dictionary."""
    batch_size: int = 4096
    """Rows in a batch, of all processes together."""
    learning_rate: float | None = None
    """Peak learning rate of Adam; each kind's own default unless set."""
    seed: int = 0
    """Seed of the stream and of every dictionary."""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of Adam's two moments."""
    warmup_fraction: float = 0.05
    """Part of the run in which the learning rate rises linearly from 0."""
    decay_fraction: float = 0.2
    """Part of the run, at its end, in which the learning rate falls linearly to 0."""
    sparsity_warmup_fraction: float = 0.1
    """Part of the run in which sparsity coefficients rise linearly from 0."""
    max_gradient_norm: float | None = 1.0
    """Norm to which the gradient of each dictionary is clipped; None turns clipping off."""
    standardize_rows: int = 16_384
    """Rows from the first batches on which mean and scale of each site are fitted."""
    dead_after: int = 250
    """Steps without firing after which a feature counts as dead."""
    log_every: int = 50
    """Steps between two lines of the log."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints (only with an output folder)."""
    device: str | None = None
    """Device of training: "cpu", "cuda", "cuda:1", …; unless set, the GPU if there is one
    (`core.devices`). With several processes on one machine, "cuda" assigns a GPU to each."""
    dtype: str = "float32"
    """Dtype in which dictionaries are trained and saved: "float32", or "float64" to test that two
    computations are equal. It is independent of the dtype of activations."""

    def __post_init__(self) -> None:
        self._require_count(
            "steps", "batch_size", "standardize_rows", "dead_after", "log_every", "checkpoint_every"
        )
        for name in ("learning_rate", "max_gradient_norm"):
            if getattr(self, name) is not None:
                self._require_positive(name)
        for name in ("warmup_fraction", "decay_fraction", "sparsity_warmup_fraction"):
            self._require(0 <= getattr(self, name) <= 1, name, "between 0 and 1")
        self._require(
            self.warmup_fraction + self.decay_fraction <= 1,
            "decay_fraction",
            f"at most 1 - warmup_fraction ({1 - self.warmup_fraction:g})",
        )
        self._require(all(0 <= b < 1 for b in self.adam_betas), "adam_betas", "in [0, 1)")
        self._require_choice("dtype", tuple(_DTYPES))
        self._require_device()

    def _require_device(self) -> None:
        try:
            device = self.torch_device
        except RuntimeError as error:
            raise ConfigError(
                f"{type(self).__name__}.device{naming(self.device)} must name a device, such as "
                f"cpu, cuda, cuda:1 or mps, got {self.device or default_device()!r}"
            ) from error
        found = torch.accelerator.current_accelerator(check_available=True)
        n = torch.accelerator.device_count()
        if device.type != "cpu" and not (
            found and device.type == found.type and (device.index or 0) < n
        ):
            here = f"cpu and {n} of {found.type}" if found else "cpu"
            raise ConfigError(
                f"{type(self).__name__}.device{naming(self.device)} must be one that torch can use "
                f"here ({here}), got {str(device)!r}; name another, such as cpu"
            )

    @property
    def torch_device(self) -> torch.device:
        """The device of training, the default one unless `device` is set."""
        return torch.device(self.device or default_device())

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch dtype named by `dtype`."""
        return _DTYPES[self.dtype]

    def is_logged(self, done: int) -> bool:
        """Whether the training log has a line on the last of `done` steps."""
        return done % self.log_every == 0 or done == self.steps

    def peak_learning_rate(self, kind: GradientConfig) -> float:
        """The peak learning rate of a dictionary of this kind: its default unless one is set."""
        return kind.default_learning_rate if self.learning_rate is None else self.learning_rate

    def learning_rate_scale(self, step: int) -> float:
        """The factor on the peak learning rate at step `step` (from 0): up, flat, down."""
        warmup, decay = self.warmup_fraction * self.steps, self.decay_fraction * self.steps
        up = (step + 1) / warmup if warmup > 0 else 1.0
        down = (self.steps - step) / decay if decay > 0 else 1.0
        return min(1.0, up, down)

    def sparsity_scale(self, step: int) -> float:
        """The factor on sparsity coefficients at step `step` (from 0)."""
        warmup = self.sparsity_warmup_fraction * self.steps
        return min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0


@dataclass(frozen=True, kw_only=True)
class FitConfig(RunConfig):
    """A training run. One run may train many dictionaries over the same batches."""

    max_norm_ratio: float | None = None
    """Rows whose norm is over this many times the median norm are left out of training: other rows
    take their places. By default all rows are trained on; mean and scale are always fitted without
    rows of over 10 times the median. (Massive activations: `core.massive`.)"""
    int8_search: bool = False
    """Whether kinds with a fixed number of active features look for them with an int8 product.

    Faster, and the features found are scored exactly, but a few may be missed: the log's `recall`
    says how many of the right ones are found. Refused on CPUs where an exact search is as fast
    (`dictlearn doctor` shows it), not used for dictionaries so small that it is, and without effect
    on GPUs.
    """
    mixed_precision: bool = True
    """Whether CUDA runs in float32 multiply in bfloat16; elsewhere it has no effect."""
    shard_features: bool = False
    """Whether several processes divide the features of each dictionary between them, for widths
    that one device has no room for; otherwise they divide the rows of each batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ratio = self.max_norm_ratio
        self._require(
            ratio is None or 1 < ratio < math.inf, "max_norm_ratio", "over 1 and finite, or None"
        )
