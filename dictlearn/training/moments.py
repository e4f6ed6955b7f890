"""Adam's moments in checkpoints."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")

Named = Iterable[tuple[str, nn.Parameter]]
"""Parameters, each with its name in checkpoints."""


def moments(optimizer: torch.optim.Optimizer, named: Named) -> Iterator[tuple[str, Tensor]]:
    """The state of each parameter, `adam/NAME/step` and the like; none before the first step."""
    for name, parameter in named:
        for key, moment in optimizer.state[parameter].items():
            yield f"adam/{name}/{key}", moment


def load_moments_(
    optimizer: torch.optim.Optimizer, named: Named, state: Mapping[str, Tensor]
) -> None:
    """Restore what `moments` gave, bit-identically."""
    for name, parameter in named:
        prefix = f"adam/{name}/"
        if prefix + "step" in state:  # absent before the first step
            optimizer.state[parameter] = {
                "step": state[prefix + "step"].to(parameter.device),
                # In the parameter's own order in memory, which files do not keep.
                **{
                    moment: torch.empty_like(parameter).copy_(state[prefix + moment])
                    for moment in MOMENTS
                },
            }
