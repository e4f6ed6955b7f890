"""Rows of data and random directions, as a level of chance for the similarity of dictionaries."""

import json
import math
from itertools import permutations

import pytest
import torch
from torch.nn.functional import normalize

import dictlearn as dl
from dictlearn.core.tokens import Tokens
from dictlearn.evaluation.agreement.compare_features import compare_features
from dictlearn.evaluation.agreement.controls import Directions, controls
from dictlearn.lm.forward import activations_at
from dictlearn.metrics.agreement import matched_cosine_similarity, twin_share
from dictlearn.records.agreement import GAUSSIAN, MEASURES, ROWS, AgreementRecords

WIDTHS = (16, 64, 512)


@pytest.fixture(scope="module")
def model(native):
    return native(n_ctx=40)


@pytest.fixture(scope="module")
def tokens():
    ids = torch.randint(1, 40, (60, 40), generator=torch.Generator().manual_seed(1))
    ids[:, 0] = 0
    return Tokens(ids, ids != 0, source="random", split="held_out", hash="abc")


@pytest.fixture(scope="module")
def rows(model, tokens):
    hook = "blocks.1.hook_mlp_out"
    return activations_at(model, tokens.ids, [hook])[hook][tokens.ordinary]


@pytest.fixture(scope="module")
def sites(model):
    return dl.hook_sites(model, "blocks.1.hook_mlp_out")


def test_they_are_what_their_names_say(model, tokens, rows, sites):
    wide = {"sae": dl.SAEConfig(n_features=5000).build(sites)}
    found = controls(wide, model, tokens.ids, tokens.ordinary)
    assert list(found.widest) == [ROWS, GAUSSIAN]
    assert not found.narrower
    data, gaussian = (d.atoms for d in found.widest.values())
    assert len(data) == len(rows), "there are no more rows than tokens"
    assert len(gaussian) == 5000
    apart = normalize(rows - rows.mean(dim=0), dim=1)
    assert torch.allclose((data @ apart.T).amax(dim=1), torch.ones(len(data)), atol=1e-5)
    strongest = torch.linalg.svd(apart, full_matrices=False).Vh[0]
    isotropic = normalize(torch.randn(5000, rows.shape[1]), dim=1)
    along = [(some @ strongest).square().mean() for some in (gaussian, isotropic)]
    assert along[0] > 1.5 * along[1], "they lie where the data vary"


@pytest.fixture(scope="module")
def mixed(rows, sites):
    """Random dictionaries of three widths, and an untrained one of the middle width."""
    mean, draw = rows.mean(dim=0), torch.Generator().manual_seed(3)
    made = {"sae": dl.TopKSAEConfig(n_features=64, k=4).build(sites)}
    for width in WIDTHS:
        mixing = torch.randn(width, len(rows), generator=draw) / len(rows) ** 0.5
        made[f"nobody{width}"] = Directions(sites, mixing @ (rows - mean), mean)
    return made


@pytest.fixture(scope="module")
def compared(mixed, model, tokens):
    return compare_features(mixed, model, tokens, progress=False)


@pytest.mark.parametrize("measure", ["mmcs", "correlation"])
def test_what_nobody_learned_is_at_chance_whatever_its_width(compared, measure):
    frame = compared.to_pandas().set_index(["first", "second"])
    for first, second in permutations([f"nobody{width}" for width in WIDTHS], 2):
        level = frame.loc[first, second][f"{measure}_random_directions"]
        assert frame.loc[first, second][measure] == pytest.approx(level, abs=0.03)
        assert frame.loc["sae", second][measure] == pytest.approx(
            frame.loc["sae", second][f"{measure}_random_directions"], abs=0.03
        )
    random = compared.pair(GAUSSIAN, "sae").value(measure)
    assert compared.pair("nobody512", "sae").value(measure) == pytest.approx(random, abs=0.03)
    wide, narrow = (compared.level("sae", f"nobody{n}", measure) for n in (512, 16))
    assert wide > narrow + 0.1, "the maximum over more directions is larger"


def test_a_level_is_that_of_the_first_directions_of_the_widest_controls(
    mixed, compared, model, tokens
):
    found = controls(mixed, model, tokens.ids, tokens.ordinary)
    assert list(compared.dictionaries) == [*mixed, ROWS, GAUSSIAN], "narrower ones are not shown"
    for kind in (ROWS, GAUSSIAN):
        first = found.widest[kind]
        mean = first.decode(torch.zeros(1, first.n_features))[0]
        own = Directions(first.sites, first.atoms[:16], mean)
        both = {"sae": mixed["sae"], "own": own}
        alone = compare_features(both, model, tokens, chance=False, progress=False)
        for measure in MEASURES:
            level = compared.level("sae", "nobody16", measure, kind)
            assert level == pytest.approx(alone.pair("sae", "own").value(measure), abs=1e-5)
            widest = compared.pair("sae", kind).value(measure)
            assert compared.level("sae", "nobody512", measure, kind) == widest
    beside = compared.pair("nobody16", "sae").controls[GAUSSIAN]["matched"]
    cosines = matched_cosine_similarity(mixed["nobody16"].atoms, found.widest[GAUSSIAN].atoms[:64])
    assert beside == pytest.approx(cosines.mean().item(), abs=1e-5)


def test_levels_survive_their_file_and_older_files_have_those_of_the_widest(compared, tmp_path):
    path = compared.save(tmp_path)
    loaded = AgreementRecords.load(tmp_path)
    assert loaded.pair("sae", "nobody16").controls == compared.pair("sae", "nobody16").controls
    data = json.loads(path.read_text()) | {"format": 1}
    del data["sha256"]
    for pair in data["pairs"]:
        del pair["controls"]
    path.write_text(json.dumps(data))
    old = AgreementRecords.load(tmp_path)
    for kind in (ROWS, GAUSSIAN):
        levels = [old.level("sae", f"nobody{n}", "mmcs", kind) for n in WIDTHS]
        assert levels[-1] == compared.level("sae", "nobody512", "mmcs", kind)
        assert all(map(math.isnan, levels[:-1])), "unknown is not that of another width"
    assert len(old.to_pandas()) == len(compared.pairs)
    assert math.isnan(old.level(GAUSSIAN, "nobody512", "mmcs")), "not with itself"


def test_too_few_rows_are_no_control_of_a_wide_dictionary(model, tokens, sites):
    few = Tokens(tokens.ids[:2], tokens.ordinary[:2], source="random", split="held_out", hash="ab")
    wide = {
        n: dl.TopKSAEConfig(n_features=100, k=4).build(sites, seed=i) for i, n in enumerate("ab")
    }
    found = compare_features(wide, model, few, progress=False)
    assert found.dictionaries[ROWS].n_features == int(few.ordinary.sum()) < 100
    assert found.pair("a", "b").controls.keys() == {GAUSSIAN}
    assert math.isnan(found.level("a", "b", "mmcs", ROWS))


def test_they_are_left_out_on_request_and_without_text(model, tokens, sites):
    pair = {name: dl.SAEConfig(n_features=8).build(sites) for name in "ab"}
    assert compare_features(pair, model, tokens, chance=False).dictionaries.keys() == pair.keys()
    assert compare_features(pair).dictionaries.keys() == pair.keys()
    several = pair | {"c": dl.SAEConfig(n_features=8).build(dl.hook_sites(model, "hook_embed"))}
    found = compare_features(several, model, tokens, progress=False)
    assert f"{ROWS} at hook_embed" in found.dictionaries
    across = found.pair("a", "c").controls[GAUSSIAN]
    assert across["correlation"] == found.pair("a", f"{GAUSSIAN} at hook_embed").correlation
    assert "mmcs" not in across, "it has no cosines with another target"
    within = found.pair("a", "b").controls[GAUSSIAN]
    assert within["mmcs"] == found.pair("a", f"{GAUSSIAN} at {sites.target}").mmcs


def test_near_twins_are_counted(sites):
    twins = dl.SAEConfig(n_features=10).build(sites)
    with torch.no_grad():
        twins.W_dec[3] = twins.W_dec[7] + 0.1 * twins.W_dec[1]
    assert twin_share(twins.atoms.detach()).item() == pytest.approx(0.2)
    found = compare_features({"a": twins, "b": dl.SAEConfig(n_features=10).build(sites, seed=1)})
    assert found.dictionaries["a"].twin_share == pytest.approx(0.2)
    assert found.dictionaries["b"].twin_share == 0
