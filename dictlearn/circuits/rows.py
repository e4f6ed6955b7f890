"""The rows of a graph, in memory or in a file that has no name."""

import errno
import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakValueDictionary, finalize

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.errors import StorageError
from dictlearn.core.files import writable_folder

_SPAN = 1 << 14
"""Numbers of a row that are written to a file together, or left out together if all are zero."""
_FILES: "WeakValueDictionary[int, mmap.mmap]" = WeakValueDictionary()
"""The files that are mapped to memory as tensors, by the address where each begins."""


class Rows:
    """A matrix that is written a few rows at a time, and is zero where nothing was written.

    Up to `in_memory` bytes it is in memory, otherwise in a file in the folder for temporary files
    (`TMPDIR`), mapped to memory. The file has no name: it is gone with the last tensor that shows
    it, or with the process, however that ends. Spans of zeros take no space on the disk.

    Raises:
        StorageError: the folder cannot be written, or lacks room for all numbers.
    """

    def __init__(self, n_rows: int, n_columns: int, dtype: torch.dtype, *, in_memory: int) -> None:
        self._shape, size = (n_rows, n_columns), n_rows * n_columns * dtype.itemsize
        self._file = None
        if size <= in_memory:
            self._rows = torch.zeros(self._shape, dtype=dtype)
            return
        folder = writable_folder(tempfile.gettempdir(), size)
        with self._stored():
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - it stays
            finalize(self, self._file.close)
            os.truncate(self._file.fileno(), size)
            mapped = mmap.mmap(self._file.fileno(), size)
        self._rows = torch.frombuffer(mapped, dtype=dtype).view(self._shape)
        _FILES[self._rows.data_ptr()] = mapped

    def write(self, first: int, rows: Float[Tensor, "m column"]) -> None:
        """Put rows in their places, from `first` on.

        Raises:
            StorageError: the disk is full.
        """
        if self._file is None:
            self._rows[first : first + len(rows)] = rows
            return
        with self._stored():
            for row, numbers in enumerate(rows.cpu().contiguous(), start=first):
                self._write(row * numbers.nbytes, numbers, self._file.fileno())

    def _write(self, start: int, numbers: Float[Tensor, " column"], file: int) -> None:
        """Write the spans of a row that are not zero to a file, from the byte `start` on.

        Not through the mapping: on a full disk, that ends the process without an error.
        """
        for span in numbers.split(_SPAN):
            data = span.view(torch.uint8).numpy()
            if data.any() and os.pwrite(file, data, start) < span.nbytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            start += span.nbytes

    @contextmanager
    def _stored(self) -> Iterator[None]:
        """Names what was asked for where the disk refuses."""
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"{tempfile.gettempdir()}: could not hold {self._shape[0]:,} rows of "
                f"{self._shape[1]:,} edges ({error}); free space, set TMPDIR to another folder, or "
                "ask for fewer features"
            ) from error

    def first(self, n: int) -> Float[Tensor, "n column"]:
        """The first `n` rows, as a view."""
        return self._rows[:n]


def blocks(rows: Float[Tensor, "row column"], size: int) -> Iterator[Tensor]:
    """Consecutive rows with at most about `size` numbers together, as views.

    Those of a file are in memory only until the next ones are asked for.
    """
    for part in rows.split(max(1, size // max(rows.shape[1], 1))):
        yield part
        _let_go(part)


def _let_go(part: Tensor) -> None:
    """Take rows of a mapped file out of memory; they are read again when they are used."""
    storage = part.untyped_storage()
    mapped = _FILES.get(storage.data_ptr())
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        start = part.storage_offset() * part.itemsize
        begin = start // mmap.PAGESIZE * mmap.PAGESIZE
        mapped.madvise(mmap.MADV_DONTNEED, begin, int(start + part.nbytes - begin))
