"""circuit-tracer's graph of a prompt, in an environment of its own that has no dictlearn.

`python -m benchmarks.peers.circuit_tracer_ FOLDER BATCH` reads `case.json` and transcoders from
the folder, writes the graph there, and prints one line of JSON.
"""

import json
import re
import sys
import warnings
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from circuit_tracer import ReplacementModel, attribute
from circuit_tracer.transcoder import TranscoderSet
from circuit_tracer.transcoder.activation_functions import TopK
from circuit_tracer.transcoder.single_layer_transcoder import load_relu_transcoder
from safetensors.torch import save_file
from transformer_lens import HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_llama_weights
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.peers.usage import limit_memory, used

CASE, GRAPH = "case.json", "circuit_tracer.safetensors"


def transcoders(folder: Path, case: dict[str, Any]) -> TranscoderSet:
    """The transcoders in `folder`, by circuit-tracer's loader.

    It knows ReLU and JumpReLU; top-k is set on what was loaded.
    """
    found = {}
    for layer in range(case["n_layers"]):
        path = str(folder / f"layer_{layer}.safetensors")
        found[layer] = load_relu_transcoder(path, layer, lazy_encoder=False, lazy_decoder=False)
        found[layer].activation_function = TopK(case["k"])
    return TranscoderSet(found, "mlp.hook_in", "mlp.hook_out")


@torch.no_grad()
def replacement_model(folder: Path, case: dict[str, Any]) -> Any:
    """The model of a local folder with the transcoders of `folder`.

    `from_pretrained_and_transcoders` refuses folders: TransformerLens has a list of names. So the
    model is made from a config, and gets weights as TransformerLens converts them.
    """
    original = LlamaForCausalLM.from_pretrained(case["model"], dtype=torch.float32).eval()
    told = original.config
    d_head = told.hidden_size // told.num_attention_heads
    config = HookedTransformerConfig(
        n_layers=told.num_hidden_layers, d_model=told.hidden_size, d_head=d_head,
        n_heads=told.num_attention_heads, n_ctx=told.max_position_embeddings,
        d_mlp=told.intermediate_size, d_vocab=told.vocab_size, eps=told.rms_norm_eps,
        act_fn="silu", gated_mlp=True, normalization_type="RMS", final_rms=True,
        positional_embedding_type="rotary", rotary_dim=d_head, rotary_adjacent_pairs=False,
        rotary_base=int(told.rope_theta), original_architecture="LlamaForCausalLM",
        model_name="local", device="cpu", dtype=torch.float32,
    )  # fmt: skip
    model: Any = ReplacementModel.from_config(config, transcoders(folder, case))
    weights = {
        re.sub(
            r"^(blocks\.\d+\.mlp|unembed)\.", lambda m: f"{m[0]}old_{m[1].split('.')[-1]}.", name
        ): w
        for name, w in convert_llama_weights(original, config).items()
    }
    absent, unknown = model.load_state_dict(weights, strict=False)
    own = {name for name, _ in model.named_parameters() if not name.startswith("transcoders.")}
    if unknown or own & set(absent):
        raise ValueError(f"weights that do not fit: {[*unknown, *own & set(absent)]}")
    model.tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=f"{case['model']}/tokenizer.json",
        bos_token="<s>", eos_token="</s>", unk_token="<unk>",
    )  # fmt: skip
    ids = torch.tensor([case["ids"]])
    torch.testing.assert_close(model(ids), original(ids).logits, rtol=1e-3, atol=1e-3)
    return model


def main() -> None:
    """Attribute once for a few tokens, then measure."""
    warnings.filterwarnings("ignore")
    folder, batch = Path(sys.argv[1]), int(sys.argv[2])
    case = json.loads((folder / CASE).read_text())
    torch.set_num_threads(case["threads"])
    limit_memory()
    model, ids = replacement_model(folder, case), torch.tensor(case["ids"])
    attribute(ids[:4], model, max_feature_nodes=4, batch_size=4)
    found = []
    usage = used(lambda: found.append(
        attribute(ids, model, max_feature_nodes=case["n_features"], batch_size=batch)
    ))  # fmt: skip
    graph = found[0]
    tensors = {
        "features": graph.active_features[graph.selected_features],
        "tokens": graph.logit_token_ids,
        "edges": graph.adjacency_matrix,
    }
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / GRAPH)
    print(json.dumps({"usage": asdict(usage), "version": version("circuit-tracer")}))


if __name__ == "__main__":
    main()
