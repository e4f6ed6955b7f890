"""Arguments that cannot work, or would have no effect, are refused before the first step."""

import pytest
import torch

from dictlearn.core.errors import ConfigError, InputError, ProvenanceError
from dictlearn.core.tokens import Tokens
from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.finetuning.config import FinetuneConfig
from dictlearn.finetuning.finetune import finetune
from dictlearn.lm.identity import model_provenance
from dictlearn.lm.sites import hook_sites
from tests.unit.finetuning.small import MLP, SHAPE, Counting, Z, built

ONE = FinetuneConfig(steps=1, batch_size=4)
CODES = CodebookConfig(n_codes=8, k=2)


def refused(match, dictionaries, config=ONE, blocks=None, error=InputError, **arguments):
    model = built(torch.float32)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(error, match=match):
        finetune(model, dictionaries, blocks or Counting(), config, progress=False, **arguments)
    assert all(map(torch.equal, before, model.parameters()))


def ready(seed=0):
    """A dictionary of the model with this seed."""
    model = built(torch.float32, seed)
    dictionary = CODES.build(hook_sites(model, MLP))
    dictionary.provenance = model_provenance(model)
    return dictionary


def test_a_dictionary_of_another_model():
    refused("'d' was trained on model", {"d": ready(seed=1)}, error=ProvenanceError)
    for d, allow in ((ready(), False), (ready(seed=1), True)):
        found = finetune(
            built(torch.float32), {"d": d}, Counting(), ONE, allow_other_model=allow, progress=False
        )
        assert found.dictionaries["d"].provenance.is_same_model(ready().provenance)


def test_sites_are_those_of_configs():
    at = hook_sites(built(), MLP)
    refused("did you mean 'mlp'", {"mlp": CODES}, sites={"mlp": at, "mpl": at})
    refused("sites has 'mlp', which is a ready", {"mlp": ready()}, sites={"mlp": at})


@pytest.mark.untyped
def test_values_of_other_types():
    refused(r"hook_sites\(model, hook\).*got 'blocks", {"a": CODES}, sites={"a": MLP})
    refused("sites as a dict of Sites", {MLP: CODES}, sites=hook_sites(built(), MLP))
    refused("required a dict of configs.*got CodebookConfig", CODES)
    refused("becomes a folder.*got 3", {3: CODES})


def test_something_has_to_learn():
    refused("nothing would learn", {}, error=ConfigError)


def test_k_start_falls_to_the_k_of_codebooks():
    sae = TopKSAEConfig(n_features=8, k=2)
    for k_start, dictionaries, match in (
        (4, {MLP: sae}, "without one"),
        (1, {MLP: sae, Z: CODES}, f"{Z!r} .2 and 8.* got 1"),
        (9, {MLP: CODES}, f"{MLP!r} .2 and 8.* got 9"),
    ):
        config = FinetuneConfig(steps=1, batch_size=4, k_start=k_start)
        refused(match, dictionaries, config, error=ConfigError)
    for k_start in (2, 8):
        config = FinetuneConfig(steps=1, batch_size=4, k_start=k_start)
        finetune(built(torch.float32), {MLP: CODES}, Counting(), config, progress=False)


class Given:
    """A source of the same ids at every step."""

    def __init__(self, ids):
        self.ids = ids

    def sample(self, n, seed):
        return self.ids


def test_one_token_predicts_nothing():
    ids = torch.zeros(4, 1, dtype=torch.long)
    tokens = Tokens(ids, ids == 0, "one", "train", "hash")
    refused("at least 2 tokens", {MLP: CODES}, blocks=tokens)
    refused(r"Given\.sample.*at least 2 tokens", {MLP: CODES}, blocks=Given(ids))


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("ids", "match"),
    [
        (torch.full((4, 5), SHAPE.d_vocab), "from 0 to 10"),
        (torch.zeros(4, SHAPE.n_ctx + 1, dtype=torch.long), "at most 16 tokens"),
        (torch.zeros(4, 5, dtype=torch.int32), "torch.long"),
        (torch.zeros(4, 5), "torch.long"),
        (torch.zeros(4, dtype=torch.long), "torch.long"),
        (torch.zeros(3, 5, dtype=torch.long), r"n=4 blocks.*got \(3, 5\)"),
        ([[0, 1]] * 4, "n=4 blocks.*got list"),
    ],
)
def test_samples_that_the_model_cannot_read(ids, match):
    refused(rf"Given\.sample\(n, seed\): .*{match}", {MLP: CODES}, blocks=Given(ids))


def test_samples_are_checked_at_every_step():
    class Later(Counting):
        def sample(self, n, seed):
            return super().sample(n, seed) + (20 if seed == 2 else 0)

    config = FinetuneConfig(steps=4, batch_size=4, standardize_rows=48)
    with pytest.raises(InputError, match=r"Later\.sample.*from 0 to 10"):
        finetune(built(torch.float32), {MLP: CODES}, Later(), config, progress=False)
