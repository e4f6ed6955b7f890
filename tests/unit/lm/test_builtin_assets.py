"""The shipped model and corpus are small, whole, and agree with what their card says."""

from __future__ import annotations

import importlib.util
import json
import lzma
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformer_lens.model_bridge import TransformerBridge

ROOT = Path(__file__).resolve().parents[3]
ASSETS = ROOT / "dictlearn" / "assets" / "stories"
LIMIT = 4_000_000


@pytest.fixture(scope="module")
def training() -> ModuleType:
    """The training script, loaded by its path: `benchmarks` is not installed."""
    name = "train_stories"
    spec = importlib.util.spec_from_file_location(
        name, ROOT / "benchmarks/builtin/train_stories.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclasses look themselves up here
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def config() -> dict:
    return json.loads((ASSETS / "config.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(ASSETS / "tokenizer.json"))


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    with lzma.open(ASSETS / "corpus.jsonl.xz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", ["model.safetensors", "corpus.jsonl.xz"])
def test_files_are_small(name: str) -> None:
    assert (ASSETS / name).stat().st_size <= LIMIT


def test_weights_are_float16() -> None:
    weights = load_file(ASSETS / "model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float16}
    assert all(w.isfinite().all() for w in weights.values())


def test_tokenizer_round_trips_any_text(tokenizer: Tokenizer, config: dict) -> None:
    assert tokenizer.get_vocab_size() == config["d_vocab"] == 2048
    assert tokenizer.token_to_id("<|endoftext|>") == 0
    for text in [
        "Once upon a time, Tom said \"Hi!\"\n\n  'No.'",
        " é — 猫 \t🐱\x00",
        "<|endoftext",
        "",
    ]:
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    assert tokenizer.encode("a<|endoftext|>b").ids.count(0) == 1


def test_bridge_gives_the_training_modules_logits(training: ModuleType, config: dict) -> None:
    shape = {key: value for key, value in config.items() if key != "held_out_loss"}
    bridge = TransformerBridge.boot_native(shape, device="cpu")
    # Not strict: the bridge also lists aliases such as `mlp.in`; equal logits show all was loaded.
    loaded = bridge.load_state_dict(load_file(ASSETS / "model.safetensors"), strict=False)
    assert loaded.unexpected_keys == []
    bridge.eval()
    model = training.load_model(ASSETS)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(config["d_vocab"], (2, config["n_ctx"]), generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(bridge(tokens), model(tokens), atol=1e-4, rtol=0)


def test_card_and_config_state_one_loss(config: dict) -> None:
    card = (ASSETS / "MODEL_CARD.md").read_text(encoding="utf-8")
    pooled = re.search(r"^\| pooled \| ([\d.]+) \|", card, re.MULTILINE)
    assert pooled is not None
    assert float(pooled[1]) == config["held_out_loss"]


def test_corpus_stories_are_unique_and_finished(
    training: ModuleType, corpus: list[str], tokenizer: Tokenizer
) -> None:
    assert len(set(corpus)) == len(corpus)
    assert all(training.ended(story) and story == story.strip() for story in corpus)
    encoded = tokenizer.encode_batch(corpus)
    assert sum(len(e.ids) for e in encoded) >= 1_350_000


def test_model_knows_the_corpus(
    training: ModuleType, corpus: list[str], tokenizer: Tokenizer, config: dict
) -> None:
    """The corpus is drawn like most of the held-out text, so its loss must be near that loss.

    Over 50 stories the mean's standard error is a few hundredths of a nat; a wrong tokenizer or
    rounding of the weights costs whole nats.
    """
    documents = training.tokenize(tokenizer, corpus[:50])
    nats, count = training.total_loss(training.load_model(ASSETS), documents, config["n_ctx"])
    assert nats / count < min(config["held_out_loss"] + 0.1, 2.5)
