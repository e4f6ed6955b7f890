"""A part of the page: what it is called, what it says first, and how its tables come about."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.page import Section, Table
from benchmarks.peers.registry import Contenders
from benchmarks.peers.sizes import Size

Done = Callable[[str], object]
"""Called with what is done now, for the progress bar."""


@dataclass(frozen=True)
class Run:
    """Everything that a part needs to know."""

    size: Size
    contenders: Contenders
    threads: int
    model: Path
    """The folder of a second language model; what needs it is left out where it is absent."""
    done: Done


@dataclass(frozen=True)
class Part:
    """One section of the page, before it is measured."""

    title: str
    introduction: str
    measure: Callable[[Run], list[Table]]

    def titled(self, instructions: str) -> str:
        """The title of the section that was measured with these instructions of the processor."""
        return f"{self.title}, with {instructions}"

    def section(self, run: Run, instructions: str, foot: Callable[[], str]) -> Section:
        """The section, measured; `foot` is asked afterwards for its last line."""
        tables = [table.markdown() for table in self.measure(run)]
        body = "\n\n".join([self.introduction, *tables, foot()])
        return Section(self.titled(instructions), body)
