"""Folders that the authors' code of codebooks writes, by hand; and its pass, in plain torch."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import layer_norm

N_LAYERS, N_HEADS, D, D_MLP, N_CODES = 3, 4, 16, 24, 12
BLOCKS = {"gpt2": "transformer.h", "gpt_neo": "transformer.h", "gpt_neox": "gpt_neox.layers"}
ATTENTION = {"gpt2": "attn", "gpt_neo": "attn.attention", "gpt_neox": "attention"}
PROJECTION = {"gpt2": "c_proj", "gpt_neo": "out_proj", "gpt_neox": "dense"}
CONFIG: dict[str, Any] = {
    "architectures": ["GPTNeoXCodebookModel"], "codebook_at": ["attn_preproj", "mlp"],
    "codebook_kwargs": {"replace_after_steps": 0, "replace_rho": 1e-4},
    "codebook_type": ["group", "vanilla"], "k_codebook": [3, 2], "kmeans_init": False,
    "kmeans_init_examples": 1000, "kmeans_kwargs": None, "kmeans_path": None,
    "layers_to_snap": [0, 1, 2], "loss": "aeloss", "model_type": "codebook",
    "num_codebooks": [N_HEADS, 1], "num_codes": [N_CODES, N_CODES], "replace_codes": False,
    "similarity_metric": "inner_product", "torch_dtype": "float32",
    "transformers_version": "4.30.0",
}  # fmt: skip
"""That of the published TokFSM model, with fewer layers and codes."""


def base_config(model_type: str) -> Any:
    """The config of a small model without codebooks."""
    import transformers

    shared = {"vocab_size": 11, "bos_token_id": 10, "eos_token_id": 10}
    gpt = {"n_embd": D, "n_layer": N_LAYERS, "n_head": N_HEADS, "n_positions": 16}
    own = {
        "gpt2": {**gpt, "n_inner": D_MLP},
        "gpt_neo": {
            "hidden_size": D, "num_layers": N_LAYERS, "num_heads": N_HEADS, "window_size": 4,
            "intermediate_size": D_MLP, "attention_types": [[["global", "local", "global"], 1]],
            "max_position_embeddings": 16,
        },
        "gpt_neox": {
            "hidden_size": D, "num_hidden_layers": N_LAYERS, "num_attention_heads": N_HEADS,
            "intermediate_size": D_MLP, "max_position_embeddings": 16,
        },
    }  # fmt: skip
    return transformers.CONFIG_MAPPING[model_type](**shared, **own[model_type])


def base_model(model_type: str) -> Any:
    """A small model whose parameters are all random."""
    import transformers

    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(base_config(model_type))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def module_of(model_type: str, at: str, layer: int) -> str:
    """The module that holds a codebook."""
    attention = ATTENTION[model_type]
    inner = {"attn_preproj": attention, "attn": attention, "mlp": "mlp", "mlp_mid": "mlp.act"}
    return f"{BLOCKS[model_type]}.{layer}" + (f".{inner[at]}" if at in inner else "")


def random_codebook(d: int, n_groups: int | None, seed: int) -> dict[str, Tensor]:
    """The tensors of a codebook by their names in it; without groups if `n_groups` is None."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for group in range(n_groups or 1):
        prefix = "" if n_groups is None else f"codebook.{group}."
        width = d // (n_groups or 1)
        codes, scale, shift = (torch.randn(n, generator=generator)
                               for n in ((N_CODES, width), width, width))  # fmt: skip
        norms = 0.5 + 2 * torch.rand(N_CODES, 1, generator=generator)
        tensors[f"{prefix}codebook.weight"] = codes * norms
        tensors[f"{prefix}ln.weight"], tensors[f"{prefix}ln.bias"] = 1 + 0.3 * scale, 0.3 * shift
    return tensors


def snapped(
    x: Tensor, own: Mapping[str, Tensor], n_groups: int | None, k: int, metric: str
) -> Tensor:
    """The pass of a codebook layer: norm, nearest codes, and their mean, in each chunk of `x`."""
    outputs = []
    for group, chunk in enumerate(x.chunk(n_groups or 1, dim=-1)):
        prefix = "" if n_groups is None else f"codebook.{group}."
        codes = own[f"{prefix}codebook.weight"]
        z = layer_norm(chunk, chunk.shape[-1:], own[f"{prefix}ln.weight"], own[f"{prefix}ln.bias"])
        if metric == "euclidean":
            nearness = -(z.unsqueeze(-2) - codes).norm(dim=-1)
        else:
            nearness = z @ codes.T / codes.norm(dim=1)
        outputs.append(codes[nearness.topk(k).indices].sum(-2) / k)
    return torch.cat(outputs, dim=-1)


def replace_in(model: nn.Module, model_type: str, at: str, module: str, snap: Any) -> None:
    """Let passes of the model go through a codebook in its place."""
    held = model.get_submodule(module)
    if at == "attn_preproj":
        projection = held.get_submodule(PROJECTION[model_type])
        projection.register_forward_pre_hook(lambda _, args: (snap(args[0]),))
    else:
        held.register_forward_hook(
            lambda _, args, out: (snap(out[0]), *out[1:]) if isinstance(out, tuple) else snap(out)
        )


def write(folder: Path, model_type: str, config: Mapping[str, Any]) -> nn.Module:
    """Write a folder, and beside it one of the base model's config; the model that runs as theirs.

    `config` is a full one, as saved: with a list for each place, and layers counted from 0.
    """
    model = base_model(model_type)
    tensors = {name: p.detach().clone() for name, p in model.state_dict().items()}
    for layer in range(N_LAYERS):  # as older versions of transformers saved them
        mask = f"{module_of(model_type, 'attn', layer)}."
        tensors |= {
            f"{mask}bias": torch.ones(1, 1, 4, 4).bool(),
            f"{mask}masked_bias": -torch.ones(()),
        }
    for layer in config["layers_to_snap"]:
        for i, at in enumerate(config["codebook_at"]):
            module = module_of(model_type, at, layer)
            n_groups = config["num_codebooks"][i] if config["codebook_type"][i] == "group" else None
            own = random_codebook(D_MLP if at == "mlp_mid" else D, n_groups, 10 * layer + i)
            if at != "attn_preproj":  # the module moves into a wrapper
                tensors = {
                    name.replace(f"{module}.", f"{module}.module_layer.", 1): t
                    for name, t in tensors.items()
                }
            tensors |= {f"{module}.codebook_layer.{name}": t for name, t in own.items()}
            k, metric = config["k_codebook"][i], config["similarity_metric"]
            snap = partial(snapped, own=own, n_groups=n_groups, k=k, metric=metric)
            replace_in(model, model_type, at, module, snap)
    save(folder, config, {f"model.{name}": t for name, t in tensors.items()})
    base_config(model_type).save_pretrained(folder.with_name("base"))
    return model


def save(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write the two files."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "model.safetensors")
