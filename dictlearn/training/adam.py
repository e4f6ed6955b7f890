"""Adam that follows the order of parameters in memory."""

import torch
from torch import Tensor


class Adam(torch.optim.Adam):
    """Fused Adam for parameters in any order of memory, above all matrices kept by columns.

    torch's loop for the CPU goes through memory, whatever strides say, and clones a gradient that
    is not row-major, which takes longer than the step. Here a gradient has the strides of its
    parameter, and a matrix kept by columns (an encoder, which is kept feature by feature) goes
    to that loop as its transpose. The method is an internal one, for torch has no other place
    between collecting tensors and its loop; in a version without it, steps are slower.
    """

    def _init_group(
        self, group: dict[str, object], parameters: list[Tensor], *others: list[Tensor]
    ) -> bool:
        has_complex: bool = super()._init_group(group, parameters, *others)
        gradients, *moments, _steps = others
        for i, parameter in enumerate(parameters):
            if gradients[i].stride() != parameter.stride():
                gradients[i] = torch.empty_like(parameter).copy_(gradients[i])
            if parameter.dim() == 2 and not parameter.is_contiguous():
                for tensors in filter(None, (parameters, gradients, *moments)):
                    tensors[i] = tensors[i].T
        return has_complex
