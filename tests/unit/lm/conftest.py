"""Models in the Hugging Face layout, the same on every machine and under every TransformerLens."""

from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any], Path]:
    """Saves a model of an architecture, with parameters that no rounding touches; the folder."""

    def save(config: Any) -> Path:
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for i, parameter in enumerate(model.parameters()):
                values = (37 * torch.arange(parameter.numel()) + 11 * i) % 101
                parameter.copy_(values.view(parameter.shape) / 128 - 0.375)
        model.save_pretrained(tmp_path)
        with as_file(files("dictlearn.assets") / "stories" / "tokenizer.json") as path:
            (tmp_path / "tokenizer.json").write_bytes(path.read_bytes())
        return tmp_path

    return save
