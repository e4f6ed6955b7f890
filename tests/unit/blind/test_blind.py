"""Blind cases: nothing of the text is shown before a guess; a right guess scores 1."""

import json
import re
from dataclasses import replace

import pytest
import torch

from dictlearn.blind.case import CASE_FILE, GUESS_FILE, REVEALED_FILE, BlindCase
from dictlearn.blind.guess import seal_guess, sealed_guess
from dictlearn.blind.names import blind_name
from dictlearn.blind.reveal import reveal_case
from dictlearn.blind.show import blind_case
from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.paths.path import PathNode
from dictlearn.core.errors import CorruptFileError, InputError, ProvenanceError
from dictlearn.core.file_lists import LIST_FILE
from dictlearn.core.files import read_json, sha256, write_json
from tests.unit.blind.conftest import OTHER, PLANTED, WORD

COMMAS = r",(?![\"”’'])"
"""The planted feature's token; a comma and a quotation mark are a token of their own."""
NAME = re.compile(
    r"(feature|mlp0 \d+|head \d+\.\d+|token|position|(error|remainder) in layer \d+|bias|pruned)"
    r"( @ (0|-\d+))?"
)


@pytest.fixture(scope="module")
def case(planted):
    return blind_case(
        planted.model, planted.dictionaries, planted.tokens, ("mlp0", PLANTED), n_prompts=3
    )


@pytest.fixture
def folder(case, tmp_path):
    case.save(tmp_path)
    return tmp_path


def revealed(folder, planted, **options):
    return reveal_case(folder, planted.model, planted.dictionaries, planted.held_out, **options)


def test_the_circuit_names_the_planted_token(case, planted):
    """Alone on the direct way, of all the vocabulary; the token is the path, at the end."""
    assert case.routes[0].heads == []
    assert case.routes[0].tokens[0].name == WORD
    assert case.prompts[0].paths[0].nodes == ["feature @ 0", "token @ 0"]
    share = (planted.tokens.ids[planted.tokens.ordinary] == planted.token).double().mean()
    assert case.density == pytest.approx(share.item(), rel=1e-12)
    assert case.control == OTHER, "the only other live feature"


def test_nothing_of_the_text_is_shown(planted, tmp_path):
    """Every text in the file of a case is a name of a known form, without a token."""
    case = blind_case(
        planted.model, planted.dictionaries, planted.tokens, ("mlp0", PLANTED),
        n_prompts=3, de_embeddings=False,
    )  # fmt: skip
    assert all(not one.tokens for one in (*case.routes, *case.upstream))
    case.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {CASE_FILE, LIST_FILE}
    assert sha256(tmp_path / CASE_FILE) in (tmp_path / LIST_FILE).read_text()
    entries = read_json(tmp_path / CASE_FILE)["case"]
    about = [entries.pop(key) for key in ("dictionary", "tokens", "model", "weights_sha256")]
    assert about[:2] == ["mlp0", planted.tokens.describe()]
    names = [end for text in texts_in(entries) for end in text.split(" -> ")]
    assert len(names) > 10
    assert all(NAME.fullmatch(name) for name in names), set(names)


def texts_in(data):
    """All texts among values, not keys."""
    if isinstance(data, str):
        return [data]
    inner = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    return [text for item in inner for text in texts_in(item)]


def test_names_are_made_anew():
    """A node's own name, which can hold text, is not used; of any kind."""
    for kind in NodeKind:
        node = PathNode(kind, "token ' Lily' @ 3", 1, 3, "mlp0", 7, 2)
        assert NAME.fullmatch(blind_name(node, 5)), kind
        assert "-1" in blind_name(node, 5)


def test_restricted_paths_have_no_feature_of_the_first_layer(planted, pair):
    kinds = {}
    for restricted in (False, True):
        case = blind_case(
            planted.model, pair, planted.tokens, ("mlp1", 0), n_prompts=1, width=30,
            restricted=restricted, de_embeddings=False,
        )  # fmt: skip
        names = [node for path in case.prompts[0].paths for node in path.nodes]
        kinds[restricted] = any(name.startswith("mlp0 ") for name in names)
    assert kinds == {False: True, True: False}


def test_a_right_guess_is_right(folder, planted):
    seal_guess(folder, "commas", COMMAS)
    found = revealed(folder, planted)
    feature, control = found.scores
    assert (feature.precision.value, feature.recall.value) == (1.0, 1.0)
    assert feature.average_precision.value == 1.0
    assert feature.precision.low < 1.0, "the interval of a finite text"
    assert (control.precision.value, control.recall.value) == (0.0, 0.0)
    assert found.advantage.value == pytest.approx(1 - control.average_precision.value)
    ids, ordinary = planted.held_out.ids, planted.held_out.ordinary
    share = (ids == planted.token)[ordinary].double().mean().item()
    assert found.base_rate == pytest.approx(share, rel=1e-12)
    shown = [*found.top, *found.random]
    assert len(shown) == 16
    assert all(one.matched and one.context.marked().count(f"[{WORD}]") == 1 for one in shown)


def test_a_guess_that_names_too_much_loses_recall(folder, planted):
    """Every comma, those with a quotation mark too: counted by tokens, not by the pattern."""
    seal_guess(folder, "every comma", WORD)
    score = revealed(folder, planted).scores[0]
    ids = planted.held_out.ids[planted.held_out.ordinary]
    has_comma = [WORD in planted.model.tokenizer.decode([i]) for i in ids.tolist()]
    share, rate = (ids == planted.token).sum().item() / sum(has_comma), sum(has_comma) / len(ids)
    assert 0.5 < share < 1
    assert score.precision.value == 1.0
    assert score.recall.value == pytest.approx(share, rel=1e-12)
    ranked = share + (1 - share) * rate  # those without a coefficient are taken with all tokens
    assert score.average_precision.value == pytest.approx(ranked, rel=1e-12)


def test_a_wrong_guess_scores_as_chance(folder, planted):
    """Of every feature's tokens, a pattern that ignores it names the base rate."""
    seal_guess(folder, "letters a", r"a")
    found = revealed(folder, planted)
    feature = found.scores[0]
    assert (feature.precision.value, feature.recall.value) == (0.0, 0.0)
    assert found.base_rate > 0.05
    assert feature.average_precision.value == pytest.approx(found.base_rate, rel=0.15)
    assert not any(one.matched for one in found.top)


def test_a_pattern_without_match_has_no_recall(folder, planted):
    seal_guess(folder, "nothing", r"qqqq")
    path = revealed(folder, planted).save(folder)
    score = json.loads(path.read_text())["scores"][0]
    assert score["precision"][0] == 0.0
    assert score["recall"] == score["average_precision"] == [None, None, None]


def test_no_text_without_a_guess_and_one_guess_only(case, folder, planted):
    with pytest.raises(InputError, match="required a guess before any text"):
        revealed(folder, planted)
    for wrong, told in (((" ", "a"), "in words"), (("a", "("), "regular expression")):
        with pytest.raises(InputError, match=told):
            seal_guess(folder, *wrong)
    first = seal_guess(folder, "commas", ",")
    before = (folder / GUESS_FILE).read_bytes()
    with pytest.raises(InputError, match="no second one"):
        seal_guess(folder, "full stops", r"\.")
    with pytest.raises(InputError, match="stays as it is"):
        case.save(folder)
    assert (folder / GUESS_FILE).read_bytes() == before
    assert sealed_guess(folder)[1] == first
    (folder / GUESS_FILE).unlink()
    with pytest.raises(InputError, match="no second one"):
        seal_guess(folder, "full stops", r"\.")


def test_altered_files_are_refused(case, folder, planted):
    """As they are, and with a hash that fits; another case in the place of the one seen."""
    seal_guess(folder, "commas", ",")
    good = (folder / GUESS_FILE).read_bytes()
    data = read_json(folder / GUESS_FILE)
    data["guess"]["pattern"] = r"\."
    for reseal in (False, True):
        if reseal:
            write_json(folder / GUESS_FILE, data)
        else:
            (folder / GUESS_FILE).write_text(json.dumps(data))
        with pytest.raises(CorruptFileError, match=rf"{GUESS_FILE}: was altered"):
            revealed(folder, planted)
    (folder / GUESS_FILE).write_bytes(good)
    assert revealed(folder, planted).guess.pattern == ","
    other = folder / "other"
    replace(case, feature=OTHER).save(other)
    (folder / CASE_FILE).write_bytes((other / CASE_FILE).read_bytes())
    with pytest.raises(CorruptFileError, match="altered"):
        revealed(folder, planted)


def test_other_objects_than_those_of_the_case_are_refused(folder, planted):
    seal_guess(folder, "commas", ",")
    with pytest.raises(InputError, match="other text"):
        reveal_case(folder, planted.model, planted.dictionaries, planted.tokens)
    with pytest.raises(InputError, match="no dictionary 'mlp0'"):
        reveal_case(folder, planted.model, {"x": planted.dictionaries["mlp0"]}, planted.held_out)
    own = planted.dictionaries["mlp0"]
    own.b_dec.add_(1.0)
    with pytest.raises(ProvenanceError, match="other weights"):
        revealed(folder, planted)
    own.b_dec.sub_(1.0)


def test_a_users_files_stay(case, folder, planted):
    for name, act in (
        (GUESS_FILE, lambda: seal_guess(folder, "commas", ",")),
        (CASE_FILE, lambda: case.save(folder / "inner")),
    ):
        (folder / "inner").mkdir(exist_ok=True)
        path = folder / name if name == GUESS_FILE else folder / "inner" / name
        path.write_text("a user's")
        with pytest.raises(InputError):
            act()
        assert path.read_text() == "a user's"
        path.unlink()
    seal_guess(folder, "commas", ",")
    (folder / REVEALED_FILE).write_text("a user's")
    with pytest.raises(InputError, match=REVEALED_FILE):
        revealed(folder, planted).save(folder)
    assert (folder / REVEALED_FILE).read_text() == "a user's"


def test_a_case_in_a_file_is_the_same(case, folder):
    assert BlindCase.load(folder) == case


@pytest.mark.parametrize(
    ("feature", "told"),
    [
        (("mlp1", 0), "did you mean 'mlp0'"),
        (("mlp0", 8), "8 features from 0 on"),
        (("mlp0", 0), "not positive"),
    ],
)
def test_what_does_not_exist_is_refused(planted, feature, told):
    with pytest.raises(InputError, match=told):
        blind_case(planted.model, planted.dictionaries, planted.tokens, feature)


def test_a_drawn_feature_is_live_and_follows_from_the_seed(planted):
    drawn = [
        blind_case(
            planted.model, planted.dictionaries, planted.tokens, n_prompts=1, iterations=1,
            seed=seed, de_embeddings=False,
        )
        for seed in (0, 0, 1, 2, 3, 4)
    ]  # fmt: skip
    assert drawn[0] == drawn[1]
    assert {case.feature for case in drawn} == {PLANTED, OTHER}
    assert all({case.feature, case.control} == {PLANTED, OTHER} for case in drawn)
    assert torch.tensor([case.density for case in drawn]).gt(1e-4).all()
