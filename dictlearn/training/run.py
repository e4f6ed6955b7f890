"""A training run in one of its processes, as far as the loop knows it."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from dictlearn.core.learning import Learner
from dictlearn.core.own_files import OwnFiles
from dictlearn.distributed.process_group import ProcessGroup
from dictlearn.training.config import RunConfig


class Outcome(NamedTuple):
    """The end of a run."""

    stopped: Mapping[str, str]
    """The learners that diverged, each with the reason."""
    final: Mapping[str, Mapping[str, float]]
    """The last numbers of each learner's log, by metric."""


@dataclass(frozen=True)
class Run(ABC):
    """Learners, the batches they learn from, and a folder: what the loop drives.

    A subclass says what a batch is: rows of activations (`fit_run`) or blocks of tokens.
    """

    config: RunConfig
    group: ProcessGroup
    learners: Mapping[str, Learner]
    description: Mapping[str, Any]
    """Settings that determine the result; a checkpoint continues a run of the same ones."""
    folder: Path | None

    @property
    def reads_together(self) -> bool:
        """Whether reading is a collective operation of the group."""
        return False

    @property
    def continues(self) -> bool:
        """Whether some dictionary starts from a trained one, which may lie in the folder."""
        return False

    @abstractmethod
    def read(self, step: int) -> Any:
        """The batches of a step, for all learners of this process."""

    @abstractmethod
    def batch(self, name: str, read: Any, step: int) -> Any:
        """The batch that the learner `name` learns from, out of what was read."""

    @staticmethod
    @abstractmethod
    def tensors(read: Any) -> Iterable[Tensor]:
        """The tensors of what was read, which may be on a GPU."""

    @abstractmethod
    def places(self) -> list[OwnFiles]:
        """The folders of the dictionaries that the run will write."""

    def states(self) -> dict[str, dict[str, Tensor]]:
        """The state of each learner, whole on the rank that writes it; a collective operation."""
        return {name: learner.state() for name, learner in self.learners.items()}

    @property
    def files(self) -> OwnFiles | None:
        """The run's files in the folder, if it has one."""
        return OwnFiles(self.folder, "training") if self.folder else None

    @property
    def written(self) -> OwnFiles | None:
        """The same, in the one process that writes there."""
        return self.files if self.group.is_main else None

    def locked(self) -> AbstractContextManager[None]:
        """The folder as this run's alone, in the process that writes there."""
        return self.written.locked() if self.written else nullcontext()
