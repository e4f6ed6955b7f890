"""Folders of other libraries, written by hand as these libraries write them."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

D, L, K = 4, 7, 2


def tensors(d_out: int = D) -> dict[str, torch.Tensor]:
    """Row-vector weights, and biases and thresholds of every sort."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "W_enc": random(D, L), "W_dec": random(L, d_out), "b_enc": random(L),
        "b_dec": random(d_out), "b_mag": random(L), "r_mag": random(L),
        "threshold": random(L).abs(), "W_skip": random(d_out, D),
    }  # fmt: skip


def write(folder: Path, config: dict, weights: dict, file: str, config_file="cfg.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / config_file).write_text(json.dumps(config))
    if file.endswith(".pt"):
        torch.save(weights, folder / file)
    else:
        save_file({name: t.contiguous() for name, t in weights.items()}, folder / file)
    return folder


def pick(weights: dict, *names: str) -> dict:
    return {name: weights[name] for name in names}


def saelens(folder: Path, config: dict, weights: dict) -> Path:
    base = {"architecture": "standard", "apply_b_dec_to_input": True, "metadata": {}}
    return write(folder, base | config, weights, "sae_weights.safetensors")


STANDARD = ("W_enc", "b_enc", "W_dec", "b_dec")


def dictionary_learning(folder: Path, dict_class: str, weights: dict, **trainer) -> Path:
    config = {"trainer": {"dict_class": dict_class, "layer": 3, "lm_name": "tiny"} | trainer}
    return write(folder, config, weights, "ae.pt", "config.json")


def theirs(w: dict, **biases: str) -> dict:
    """Their linear layers hold columns, and name biases in many ways."""
    linear = {"encoder.weight": w["W_enc"].T, "decoder.weight": w["W_dec"].T}
    return linear | {name: w[ours] for name, ours in biases.items()}


def sparsify(folder: Path, weights: dict, **config) -> Path:
    base = {"activation": "topk", "expansion_factor": 2, "num_latents": L, "k": K, "d_in": D}
    return write(folder, base | config, weights, "sae.safetensors")


def circuit_tracer(folder: Path, text: str, weights: dict, layer: int = 0) -> Path:
    path = write(folder, {}, weights, f"layer_{layer}.safetensors", "config.yaml")
    (folder / "config.yaml").write_text(text)
    return path / f"layer_{layer}.safetensors"


YAML = """# a set of transcoders
model_kind: transcoder_set
model_name: "org/model"
feature_input_hook: 'mlp.hook_in'   # after the norm
feature_output_hook: mlp.hook_out  # of the same layer
transcoders:
  - hf://org/set/layer_0.safetensors
"""


def rows_first(w: dict) -> dict:
    return pick(w, "b_enc", "W_dec", "b_dec") | {"W_enc": w["W_enc"].T}
