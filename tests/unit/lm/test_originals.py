"""A model is what its Hugging Face original is, or it is refused."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from dictlearn.core.errors import InputError
from dictlearn.lm.hub import has_tokenizer
from dictlearn.lm.identity import model_name, model_provenance
from dictlearn.lm.loading import load_model
from dictlearn.lm.originals import TOLERANCES, Original, relative_difference
from dictlearn.text.tokens import load_tokens
from tests.unit.lm.architectures import EVERYWHERE, OTHERS, small_config

GPT2 = transformers.GPT2Config(
    vocab_size=4096, n_embd=32, n_layer=1, n_head=4, n_positions=16, bos_token_id=0, eos_token_id=0
)


def random_model(model_type: str, folder: Path) -> Any:
    """A model whose parameters are all random, biases and gains included; saved in `folder`."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(small_config(model_type))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.filterwarnings("ignore")  # transformers has some for several architectures
@pytest.mark.parametrize(
    "model_type", [*EVERYWHERE, *(pytest.param(t, marks=pytest.mark.slow) for t in OTHERS)]
)
def test_an_architecture_loads_equal_or_is_refused(model_type: str, tmp_path: Path) -> None:
    original = random_model(model_type, tmp_path)
    ids = torch.randint(3, 64, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = original(ids).logits
        try:
            found = load_model(tmp_path, "cpu")(ids)
        except InputError as error:
            assert "of their size" in str(error)  # noqa: PT017
            different = load_model(tmp_path, "cpu", check=False)
            assert relative_difference(different(ids), expected) > TOLERANCES[torch.float32]
        else:
            assert relative_difference(found, expected) < 2e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_weights_than_the_originals_are_refused(saved, dtype: torch.dtype) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    original = Original("cpu")
    model = TransformerBridge.boot_transformers(
        str(saved(GPT2)), device="cpu", dtype=dtype, model_class=original
    ).eval()
    original.require_equal(model, "mine", dtype)
    with torch.no_grad():
        model.blocks[0].mlp.W_in.mul_(2)
    number = f"{TOLERANCES[dtype]:g}"
    with pytest.raises(InputError, match=rf"'mine'.*differ by .* at most {number} in {dtype}"):
        original.require_equal(model, "mine", dtype)


def test_provenance_says_whether_a_model_was_compared(saved, native) -> None:
    folder = saved(GPT2)
    assert model_provenance(load_model(folder, "cpu")).model_check == "equal"
    assert model_provenance(load_model(folder, "cpu", check=False)).model_check == "skipped"
    assert model_provenance(native()).model_check == ""


def test_provenance_has_the_place_of_a_local_model(saved, native, monkeypatch) -> None:
    folder = saved(GPT2)
    monkeypatch.chdir(folder.parent)
    model = load_model(folder.name, "cpu", check=False)
    monkeypatch.chdir("/")
    found = model_provenance(model)
    assert found.model_path == str(folder.resolve())
    assert model_provenance(native()).model_path == ""


def test_a_constant_does_not_hide_a_difference() -> None:
    logits = torch.tensor([[1.0, 2.0, -torch.inf], [3.0, 5.0, -torch.inf]])
    assert relative_difference(logits + 1000, logits) == 0
    assert relative_difference(logits.flip(1)[:, 1:], logits[:, :2] + 1000) == 2
    assert relative_difference(logits[:, :2], logits) == torch.inf
    assert not relative_difference(logits * torch.nan, logits) <= 1


def test_a_model_without_tokenizer_files_loads_and_only_text_needs_one(saved) -> None:
    folder = saved(GPT2)
    with_one = load_model(folder, "cpu")
    (folder / "tokenizer.json").unlink()
    assert not has_tokenizer(str(folder))
    model = load_model(folder, "cpu")
    ids = torch.arange(10)[None]
    assert torch.equal(model(ids), with_one(ids))
    assert model.tokenizer is None
    with pytest.raises(InputError, match=r"a model with a tokenizer.*model\.tokenizer"):
        load_tokens("builtin:stories", model)
    model.tokenizer = with_one.tokenizer
    assert len(load_tokens("builtin:stories", model, n_tokens=100))


def test_whatever_fails_in_loading_is_an_error_of_ours(saved) -> None:
    folder = saved(GPT2)
    (folder / "model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(InputError, match=r"could not be loaded \(\w+: "):
        load_model(folder, "cpu")


def test_a_hub_that_does_not_answer(saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown name fails at once; a model in the cache needs no hub."""
    from huggingface_hub import constants

    saved(GPT2)
    cache = tmp_path / "hub"
    repository = cache / "models--someone--mine"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    for file in tmp_path.glob("*.*"):
        file.rename(repository / "snapshots" / ("0" * 40) / file.name)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    began = time.monotonic()
    with pytest.raises(InputError, match=r"'someone/else' is not in the local cache"):
        load_model("someone/else", "cpu")
    assert time.monotonic() - began < 4
    assert model_name(load_model("someone/mine", "cpu")) == "someone/mine"
