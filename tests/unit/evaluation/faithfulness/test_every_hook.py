"""The identity changes nothing, at every hook of every architecture, at every block length.

Widths of the model are told apart from block lengths nowhere by luck: blocks are shorter than, as
long as and longer than each of them.
"""

from importlib.resources import as_file, files

import pandas as pd
import pytest
import torch
import transformers

from dictlearn.core.errors import InputError
from dictlearn.core.shortcuts import without_shortcuts
from dictlearn.core.tokens import Tokens
from dictlearn.dictionaries.identity import IdentityConfig
from dictlearn.dictionaries.mean import Mean
from dictlearn.evaluation.faithfulness.evaluate import evaluate
from dictlearn.lm.loading import load_model
from dictlearn.lm.sites import hook_sites
from dictlearn.text.tokens import load_tokens

SMALL = {
    "vocab_size": 50,
    "hidden_size": 12,
    "intermediate_size": 17,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 64,
}
GROUPED = {**SMALL, "num_key_value_heads": 1, "head_dim": 4}
GPT2 = {"vocab_size": 50, "n_embd": 12, "n_inner": 17, "n_layer": 2, "n_head": 3, "n_positions": 64}
ARCHITECTURES = {
    "gpt2": transformers.GPT2Config(**GPT2, bos_token_id=0, eos_token_id=0),
    "gpt_neox": transformers.GPTNeoXConfig(**SMALL, rotary_pct=0.5),
    "opt": transformers.OPTConfig(**{**SMALL, "ffn_dim": 17}, word_embed_proj_dim=12),
    "bloom": transformers.BloomConfig(vocab_size=50, hidden_size=12, n_layer=2, n_head=3),
    "llama": transformers.LlamaConfig(**GROUPED),
    "gemma2": transformers.Gemma2Config(**GROUPED, attn_logit_softcapping=1.0),
    "mistral": transformers.MistralConfig(**GROUPED, sliding_window=8),
    "qwen3": transformers.Qwen3Config(**GROUPED),
}

# TransformerLens computes a normalisation in another order as soon as someone writes inside it.
pytestmark = [
    pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale:UserWarning"),
    pytest.mark.untyped,  # long, and of types that other tests pass
]


@pytest.fixture(scope="module", params=["native", *ARCHITECTURES])
def model(request, native, tmp_path_factory):
    """A random model with as much attention as a trained one, loaded as any other."""
    if request.param == "native":
        return native(d_model=12, n_heads=3, d_head=4, d_mlp=17, n_ctx=64)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(ARCHITECTURES[request.param])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    with as_file(files("dictlearn.assets") / "stories" / "tokenizer.json") as path:
        (folder / "tokenizer.json").write_bytes(path.read_bytes())
    return load_model(folder, "cpu")


def every_hook(model) -> list[str]:
    """One name of every hook that has a vector for every token."""
    named = {id(point): name for name, point in model.hook_dict.items()}
    found = []
    for name in named.values():
        try:
            hook_sites(model, name)
        except InputError:
            continue
        found.append(name)
    return found


def random_tokens(n: int) -> Tokens:
    ids = torch.randint(1, 40, (3, n), generator=torch.Generator().manual_seed(n))
    return Tokens(ids, ids != 1, source="random", split="held_out", hash="abc")


def require_exact_identity(model, hook: str, tokens: Tokens) -> None:
    sites = hook_sites(model, hook)
    dictionaries = {"identity": IdentityConfig().build(sites), "mean": Mean(sites)}
    found = evaluate(dictionaries, model, tokens, ablations=["zero"], progress=False)
    with without_shortcuts():
        plain = evaluate(dictionaries, model, tokens, ablations=["zero"], progress=False)
    assert plain.tokens["shortcuts"] == []
    identity = {
        name: metric.value for name, metric in found.dictionaries["identity"].metrics.items()
    }
    rounding = 1e-6 if hook.endswith(("hook_scale", "hook_normalized")) else 0.0
    assert abs(identity["kl"]) <= rounding, hook
    assert identity["top1_agreement"] == 1.0, hook
    a, b = found.to_pandas(), plain.to_pandas()
    shares = a.columns.str.startswith("loss_recovered")
    pd.testing.assert_frame_equal(a.loc[:, ~shares], b.loc[:, ~shares], rtol=1e-4, atol=1e-4)
    # A share is a quotient: rounding counts for more where ablation costs next to nothing.
    sums = {name: total.sum().item() for name, total in plain.dictionaries["mean"].sums.items()}
    cost = abs(sums["cross_entropy_zero"] - sums["cross_entropy_clean"]) / sums["predictions"]
    close = {"rtol": 1e-4, "atol": 1e-4 + 1e-6 / max(cost, 1e-9)}
    pd.testing.assert_frame_equal(a.loc[:, shares], b.loc[:, shares], **close)


def lengths(model) -> list[int]:
    cfg = model.cfg
    widths = {cfg.d_model, cfg.d_head, cfg.d_mlp, cfg.n_heads}
    return sorted({width + more for width in widths for more in (-1, 0, 1)})


def test_blocks_as_long_as_the_model_is_wide(model):
    for hook in every_hook(model):
        if not hook.startswith("blocks.0."):
            require_exact_identity(model, hook, random_tokens(model.cfg.d_model))


def test_blocks_of_every_length_at_some_hooks(model):
    hooks = every_hook(model)
    for i, n in enumerate(lengths(model)):
        for hook in hooks[i % 12 :: 12]:
            require_exact_identity(model, hook, random_tokens(n))


@pytest.mark.slow
def test_blocks_of_every_length_at_every_hook(model):
    for n in lengths(model):
        for hook in every_hook(model):
            require_exact_identity(model, hook, random_tokens(n))


@pytest.mark.parametrize("hook", ["blocks.1.hook_attn_out", "blocks.1.hook_mlp_out"])
@pytest.mark.parametrize("context", [64, 128])
def test_the_built_in_model_also_in_blocks_as_long_as_it_is_wide(hook, context):
    model = load_model("builtin:stories")
    tokens = load_tokens("builtin:stories", model, split="held_out", n_tokens=512, context=context)
    require_exact_identity(model, hook, tokens)
