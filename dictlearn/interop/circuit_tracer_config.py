"""The `config.yaml` of circuit-tracer's folders: what kind of set it is, and at which hooks."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from dictlearn.core.errors import CorruptFileError, InputError
from dictlearn.core.files import parsed
from dictlearn.core.own_files import OwnFiles
from dictlearn.interop.files import count, entry

HOOK = re.compile(r"blocks\.(\d+)\.(.+)")
"""A hook as the configs name it: its layer, and its name within the block."""
CONFIG_FILE = "config.yaml"
SET, CROSS_LAYER = "transcoder_set", "cross_layer_transcoder"
_WEIGHTS = {SET: "layer_*.safetensors", CROSS_LAYER: "W_enc_*.safetensors"}
_SIZES = ("n_layers", "d_transcoder")
_ACTIVATIONS = (None, "topk", "relu", "jumprelu")


@dataclass(frozen=True)
class TracerConfig:
    """The entries that circuit-tracer requires, and those beside them that we read and write.

    Its own loader reads no others from a local folder.
    """

    model_kind: str
    feature_input_hook: str
    feature_output_hook: str
    model_name: str = ""
    activation: str | None = None
    """Of a set: "topk", or the activation function that its tensors show."""
    k: int | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Numbers of layers and features of a cross-layer transcoder."""

    def write(self, own: OwnFiles) -> None:
        """Write the file. The hooks come last, so that a truncated file lacks a required entry."""
        entries = {
            "model_kind": self.model_kind,
            "model_name": self.model_name,
            **({"activation": self.activation} if self.activation else {}),
            **({"k": self.k} if self.k else {}),
            **self.sizes,
            "feature_input_hook": self.feature_input_hook,
            "feature_output_hook": self.feature_output_hook,
        }
        text = "".join(f"{name}: {json.dumps(value)}\n" for name, value in entries.items())
        own.write_text(CONFIG_FILE, text)


def read_config(folder: Path) -> TracerConfig:
    """The content of the file in `folder`.

    Raises:
        CorruptFileError: it is absent, truncated or not YAML, or an entry is missing or of another
            type.
        InputError: it names an activation function that is unknown here.
    """
    path = folder / CONFIG_FILE
    data = parsed(path, _loaded, "YAML")
    if not isinstance(data, dict):
        raise CorruptFileError(f"{path}: required entries 'name: value', got {data!r:.80}")
    activation = data.get("activation")
    if activation not in _ACTIVATIONS:
        raise InputError(f"{path}: no kind of ours has the activation function {activation!r:.80}")
    return TracerConfig(
        entry(data, "model_kind", str, path),
        entry(data, "feature_input_hook", str, path),
        entry(data, "feature_output_hook", str, path),
        model_name=str(data.get("model_name") or ""),
        activation=activation,
        k=count(data, "k", path) if "k" in data else None,
        sizes={name: count(data, name, path) for name in _SIZES if name in data},
    )


def _loaded(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def require_kind(folder: Path, model_kind: str) -> None:
    """Check that `folder` holds no export of another kind, with which it would share one config.

    Raises:
        InputError: it does.
    """
    for other, pattern in _WEIGHTS.items():
        found = sorted(path.name for path in folder.glob(pattern))
        if other != model_kind and found:
            raise InputError(
                f"{folder} holds a {other} ({', '.join(found[:3])}{', …' * (len(found) > 3)}), and "
                f"one {CONFIG_FILE} cannot describe a {model_kind} as well; choose another folder"
            )
