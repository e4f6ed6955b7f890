"""Adam that follows the order of parameters in memory."""

import torch
from torch import Tensor


class Adam(torch.optim.Adam):
    """Fused Adam, which reads and writes a matrix kept by columns as it lies in memory.

    torch's loop for the CPU works on row-major copies: of such a matrix (an encoder, which is kept
    feature by feature), its gradient and both moments, of which three are copied back. That takes
    three times as long as the step. Entries are updated one by one, so transposes do as well.
    """

    def _init_group(
        self, group: dict[str, object], parameters: list[Tensor], *others: list[Tensor]
    ) -> bool:
        has_complex: bool = super()._init_group(group, parameters, *others)
        *alike, _steps = (parameters, *others)
        for i, parameter in enumerate(parameters):
            if parameter.dim() == 2 and not parameter.is_contiguous():
                for tensors in filter(None, alike):
                    tensors[i] = tensors[i].T
        return has_complex
