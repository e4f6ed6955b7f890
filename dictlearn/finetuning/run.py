"""The state of one call of `finetune` in one process."""

from collections.abc import Iterable
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from dictlearn.core.own_files import OwnFiles
from dictlearn.finetuning.blocks import Blocks
from dictlearn.finetuning.finetuned import Finetuned
from dictlearn.training.output import close
from dictlearn.training.run import Run

LEARNER = "model"
"""The name of the one learner in logs and checkpoints."""


@dataclass(frozen=True)
class FinetuneRun(Run):
    """A model and its dictionaries, trained on blocks of tokens."""

    blocks: Blocks

    def read(self, step: int) -> Int[Tensor, "b pos"]:
        """The blocks of this process among those of a step."""
        return self.blocks.ids(step)[self.group.rank :: self.group.world_size]

    def batch(self, name: str, read: Int[Tensor, "b pos"], step: int) -> Int[Tensor, "b pos"]:
        """The same."""
        return read

    @staticmethod
    def tensors(read: Int[Tensor, "b pos"]) -> Iterable[Tensor]:
        """The ids, which stay where they are."""
        return ()

    def places(self) -> list[OwnFiles]:
        """The folder of the run, which has a config of its own in the end."""
        return [self.written] if self.written else []

    def write(self, result: Finetuned) -> None:
        """Write what was trained to the folder, if there is one."""
        if self.written:
            result.save(self.written)
            close(self.written)
