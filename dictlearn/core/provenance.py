"""Origin of numbers, kept in stores, dictionaries and records, and compared between them."""

import platform
import subprocess
import warnings
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dictlearn.core.errors import ProvenanceError
from dictlearn.core.files import typed
from dictlearn.core.folders import path_from, path_in
from dictlearn.core.tokens import Tokens

_PATHS = ("model_path", "text_path")
_LATER_FIELDS = ("weights_hash", "dtype", "model_check", "training", "text", "context",
                 "text_files_hash", "text_settings", *_PATHS)  # fmt: skip
"""Fields that files of version 0.1 do not have."""
_LIBRARIES = ("dictlearn", "torch", "transformer-lens", "transformers")


def library_versions() -> dict[str, str]:
    """The versions of Python and of the libraries that results depend on."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def code_revision() -> str:
    """The git revision of this package, with "-dirty" if its files differ from that.

    Empty where the package is not in a clone of its own repository: one that it is installed into,
    in an environment inside somebody's project, has commits of that project.
    """
    try:
        if Path(_git("rev-parse", "--show-toplevel")) != Path(__file__).resolve().parents[2]:
            return ""
        revision = _git("rev-parse", "--short=12", "HEAD")
        return f"{revision}-dirty" if _git("status", "--porcelain", "--", "..") else revision
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@dataclass(frozen=True)
class Provenance:
    """The origin of activations, and of dictionaries trained on them.

    An empty string means unknown: activations given as tensors have no model.
    """

    model: str = ""
    """Name under which the language model was loaded."""
    model_hash: str = ""
    """Fingerprint of its weights as loaded: differs between revisions, finetunes and foldings, and
    between dtypes. Files of earlier versions have no other."""
    weights_hash: str = ""
    """Fingerprint of its weights, rounded to bfloat16: the same for float32 and bfloat16 copies of
    one checkpoint."""
    dtype: str = ""
    """Type of numbers that the model computed in, "float32" for instance."""
    weight_processing: str = ""
    """Processing of the weights by TransformerLens on loading ("none", or what was folded)."""
    model_check: str = ""
    """Whether its logits were compared with those of its original: "equal", or "skipped"."""
    text_hash: str = ""
    """Content hash of the tokens."""
    split: str = ""
    """Split of the text: "train", "held_out" or "all"."""
    exclude_special: bool = True
    """Whether special tokens were left out of rows and metrics."""
    text: str = field(default="", compare=False)
    """Source of the tokens; of a local file or folder, only its name."""
    text_files_hash: str = field(default="", compare=False)
    """Fingerprint of the local files that the text is in."""
    text_settings: dict[str, str | bool | None] = field(default_factory=dict, compare=False)
    """Settings by which the text was read and divided (`Tokens.settings`)."""
    context: int | None = field(default=None, compare=False)
    """Tokens per block."""
    model_path: str = field(default="", compare=False)
    """Absolute path of a local model. Only the folders of activations and of dictionaries keep the
    two paths, so that the model and the text are found again; results and exports do not."""
    text_path: str = field(default="", compare=False)
    """Absolute path of a local text."""
    seed: int | None = None
    """Seed of the training run; unset for activations."""
    training: dict[str, Any] = field(default_factory=dict, compare=False)
    """Settings of the training run (`fit_config`), the peak learning rate that this dictionary was
    trained with (`learning_rate`), which may be the default of its kind, the rows that it learned
    from, repeated ones counted each time (`rows`), rows left out (`left_out`), the hash of the
    weights that it started from (`init`), if any, and the last numbers of its log (`final`). Empty
    for activations."""
    versions: dict[str, str] = field(default_factory=library_versions, compare=False)

    def trained(self, seed: int, **settings: Any) -> "Provenance":
        """The same origin, with the seed and the settings of a training run."""
        return replace(self, seed=seed, training={k: v for k, v in settings.items() if v})

    def on(self, tokens: Tokens, *, exclude_special: bool) -> "Provenance":
        """The same model, run on `tokens`."""
        return replace(
            self, text_hash=tokens.hash, split=tokens.split, exclude_special=exclude_special,
            text=tokens.source, text_path=tokens.path, text_files_hash=tokens.files_hash,
            text_settings=dict(tokens.settings), context=tokens.ids.shape[1],
        )  # fmt: skip

    def to_dict(self, folder: Path | None = None) -> dict[str, Any]:
        """The JSON form, read back by `from_dict`, without later fields that are not known.

        Paths are written for a file in `folder` only, as they are seen from there: they are of no
        use on another machine, and may name what is private.
        """
        data = {k: v for k, v in asdict(self).items() if v or k not in _LATER_FIELDS}
        paths = {name: data.pop(name) for name in _PATHS if name in data}
        if folder is not None:
            data |= {name: path_from(folder, path) for name, path in paths.items()}
        return data

    def to_compare(self) -> dict[str, Any]:
        """The JSON form without the fields that earlier versions did not write.

        The fingerprint stands for them, so that a run that an earlier version began can go on.
        """
        return {k: v for k, v in self.to_dict().items() if k not in _LATER_FIELDS}

    @classmethod
    def from_dict(cls, data: dict[str, Any], folder: Path | None = None) -> "Provenance":
        """The provenance that `to_dict` wrote, for the same folder, wherever that is now.

        Fields of later versions are ignored.
        """
        found = typed(data, cls)
        paths = {name: getattr(found, name) for name in _PATHS}
        return replace(found, **{
            name: path_in(folder, path) if folder is not None and path else ""
            for name, path in paths.items()
        })  # fmt: skip

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the model that does not depend on its dtype, or the older one."""
        return self.weights_hash or self.model_hash

    def is_same_model(self, other: "Provenance") -> bool:
        """Whether the fingerprints of both models agree, or are not known."""
        pairs = ((p.weights_hash, p.model_hash) for p in (self, other))
        return next((a == b for a, b in zip(*pairs, strict=True) if a and b), True)

    def require_same_model(self, other: "Provenance", name: str) -> None:
        """Check that dictionary `name`, made from `self`, may be used on the model of `other`.

        Another dtype is a warning.

        Raises:
            ProvenanceError: both fingerprints are known and they differ.
        """
        if not self.is_same_model(other):
            older = "" if self.weights_hash or not other.weights_hash else (
                "; it was made by an earlier version, whose fingerprints differ between dtypes: if "
                "the model is the same, load it in the dtype that was used then"
            )  # fmt: skip
            raise ProvenanceError(
                f"dictionary {name!r} was trained on model {self.model_in_words()} but is used on "
                f"{other.model_in_words()}; load the same model with the same weight processing, "
                "train a dictionary on this one, or, to measure how it transfers, evaluate with "
                f"allow_other_model=True (--allow-other-model){older}"
            )
        if self.dtype and other.dtype and self.dtype != other.dtype:
            warnings.warn(
                f"dictionary {name!r} was trained on activations in {self.dtype} and is used on "
                f"those of the same model in {other.dtype}, which differ by rounding",
                stacklevel=3,
            )

    def model_in_words(self) -> str:
        """The model by its name, fingerprint, weight processing and dtype."""
        return (
            f"{self.model!r} (weights {self.fingerprint[:12]}, processing "
            f"{self.weight_processing or 'unknown'}, dtype {self.dtype or 'unknown'})"
        )
