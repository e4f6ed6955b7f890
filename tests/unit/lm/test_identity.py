from pathlib import Path

import pytest
import torch

from dictlearn.lm import identity
from dictlearn.lm.identity import model_hash, model_name, model_provenance, weight_processing

DEPRECATED = "ignore:HookedTransformer is deprecated:DeprecationWarning"


def test_equal_weights_have_equal_hashes(native) -> None:
    assert model_hash(native()) == model_hash(native())
    assert model_hash(native()) != model_hash(native(seed=1))
    assert model_hash(native()) != model_hash(native().to(torch.bfloat16))


def test_hash_follows_a_change_of_weights(native) -> None:
    model = native()
    before = model_hash(model)
    with torch.no_grad():
        model.blocks[0].mlp.W_in[0, 0] += 1
    assert model_hash(model) != before


def test_hash_is_remembered(native, monkeypatch: pytest.MonkeyPatch) -> None:
    model = native()
    first = model_hash(model)
    monkeypatch.setattr(identity, "_sample", None)
    assert model_hash(model) == first


def test_large_parameters_are_sampled() -> None:
    assert len(identity._sample(torch.arange(200_000))) == 50_000 * 8
    assert len(identity._sample(torch.ones(3, 5, dtype=torch.bfloat16))) == 30
    assert identity._sample(torch.tensor(1.0)) == identity._sample(torch.ones(1, 1))


def test_processed_weights_are_another_model(native) -> None:
    model = native()
    raw = model_provenance(model)
    assert (raw.model, raw.weight_processing) == ("native", "none")
    model.enable_compatibility_mode(disable_warnings=True)
    processed = model_provenance(model)
    assert processed.weight_processing == "processed"
    assert processed.model_hash != raw.model_hash


@pytest.mark.filterwarnings(DEPRECATED)
def test_processing_of_a_hooked_transformer(hooked_transformer) -> None:
    assert weight_processing(hooked_transformer(normalization_type="LNPre")) == "fold_ln"
    assert weight_processing(hooked_transformer()) == ""


def test_name_does_not_tell_where_a_folder_lies(native, tmp_path: Path) -> None:
    model = native()
    for name, expected in [
        (str(tmp_path / "my-model"), "my-model"),
        ("./folder/other", "other"),
        ("openai-community/gpt2", "openai-community/gpt2"),
        ("builtin:stories", "builtin:stories"),
    ]:
        model.cfg.model_name = name
        assert model_name(model) == expected
