"""A dictionary of another model is refused everywhere, unless the transfer is meant."""

from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch

from dictlearn.comparison.report.html import report_html
from dictlearn.comparison.report.markdown import results_page
from dictlearn.comparison.runs import combine
from dictlearn.comparison.tables.terminal import results_table
from dictlearn.core.errors import InputError, ProvenanceError
from dictlearn.core.tokens import Tokens
from dictlearn.dictionaries.identity import IdentityConfig
from dictlearn.evaluation.agreement.compare_features import compare_features
from dictlearn.evaluation.cards.describe_features import describe_features
from dictlearn.evaluation.concepts.evaluate_concepts import evaluate_concepts
from dictlearn.evaluation.faithfulness.evaluate import evaluate
from dictlearn.lm.identity import model_provenance
from dictlearn.lm.sites import hook_sites
from dictlearn.records.results import Records
from dictlearn.text.concepts import Concept


@pytest.fixture
def sibling(native) -> Any:
    """A model whose weights differ a little from those of the base."""
    model = native(d_vocab=512)
    model.tokenizer = load_tokenizer()
    with torch.no_grad():
        model.blocks[0].mlp.W_in.mul_(1.1)
    return model


def load_tokenizer() -> Any:
    from dictlearn.lm.loading import load_model

    return load_model("builtin:stories", "cpu").tokenizer


@pytest.fixture
def dictionaries(native) -> dict[str, Any]:
    base = native(d_vocab=512)
    found = {}
    for name in ("a", "b"):
        found[name] = IdentityConfig().build(hook_sites(base, "blocks.0.hook_resid_post"))
        found[name].provenance = replace(model_provenance(base), model="base")
    return found


@pytest.fixture
def tokens() -> Tokens:
    ids = torch.randint(1, 512, (8, 12), generator=torch.Generator().manual_seed(0))
    return Tokens(ids, torch.ones_like(ids, dtype=torch.bool), "random", "held_out", "abc")


@pytest.mark.parametrize(
    ("measure", "options"),
    [
        (evaluate, {}),
        (describe_features, {"features": {"a": [0]}}),
        (evaluate_concepts, {"concepts": [Concept("e", "e")], "min_matches": 1}),
        (compare_features, {}),
    ],
)
def test_a_transfer_is_refused_unless_named_and_then_recorded(
    measure, options, dictionaries, sibling, tokens, tmp_path: Path
) -> None:
    with pytest.raises(ProvenanceError, match=r"on model 'base' .*allow_other_model=True"):
        measure(dictionaries, sibling, tokens, **options, progress=False)
    records = measure(
        dictionaries, sibling, tokens, **options, allow_other_model=True, progress=False
    )
    records.save(tmp_path)
    others = type(records).load(tmp_path).tokens["other_models"]
    assert list(others) == ["a", "b"]
    assert others["a"].startswith("'base' (weights ")
    assert records.provenance.model == "native"


@pytest.mark.parametrize("measure", [evaluate, describe_features, evaluate_concepts])
def test_one_dictionary_alone_has_the_name_of_its_kind(
    measure, dictionaries, sibling, tokens
) -> None:
    own, options = _own(dictionaries["a"], sibling), {"progress": False}
    if measure is evaluate_concepts:
        options |= {"concepts": [Concept("e", "e")], "min_matches": 1}
    alone = measure(own, sibling, tokens, **options)
    named = measure({own.kind: own}, sibling, tokens, **options)
    assert repr(alone) == repr(named), "NaN is not equal to itself"


def test_one_dictionary_is_compared_with_the_controls_or_not_at_all(
    dictionaries, sibling, tokens
) -> None:
    own = _own(dictionaries["a"], sibling)
    found = compare_features(own, sibling, tokens, progress=False)
    assert list(found.dictionaries) == [own.kind, "rows of data", "random directions"]
    for arguments, options in (((sibling, tokens), {"chance": False}), ((), {})):
        with pytest.raises(InputError, match="two or more"):
            compare_features(own, *arguments, **options, progress=False)


@pytest.mark.untyped
@pytest.mark.parametrize("given", [{}, None, [1], {"a": 1}])
def test_what_is_no_dictionary_is_refused(given, sibling, tokens) -> None:
    for measure in (evaluate, describe_features, evaluate_concepts, compare_features):
        with pytest.raises(InputError, match=r"required a FeatureDictionary|needs"):
            measure(given, sibling, tokens)


def test_the_switch_changes_nothing_on_the_same_model(dictionaries, native, tokens) -> None:
    model = native(d_vocab=512)
    plain = evaluate(dictionaries, model, tokens, progress=False)
    allowed = evaluate(dictionaries, model, tokens, allow_other_model=True, progress=False)
    assert plain.tokens == allowed.tokens
    assert "other_models" not in plain.tokens


def test_every_report_names_the_other_model(dictionaries, sibling, tokens) -> None:
    records = evaluate(dictionaries, sibling, tokens, allow_other_model=True, progress=False)
    sentence = "Trained on another model than the one evaluated here: a on 'base'"
    assert sentence in str(results_table(records).caption)
    assert sentence in unescape(report_html(records))
    assert sentence in unescape(results_page(records, "title"))
    both = combine({"one": records, "two": Records(records.provenance, records.tokens, {})})
    assert sentence in unescape(results_page(both, "title"))
    own = evaluate({"a": _own(dictionaries["a"], sibling)}, sibling, tokens, progress=False)
    assert "another model" not in results_page(own, "title")


def _own(dictionary: Any, model: Any) -> Any:
    dictionary.provenance = model_provenance(model)
    return dictionary
