"""The table of features and the histogram of one, beside matrices of all coefficients."""

import numpy as np
import pandas as pd
import pytest
import torch

import dictlearn as dl
from dictlearn.core.errors import InputError
from dictlearn.evaluation.agreement import correlations

DEAD = 5


@pytest.fixture(scope="module")
def model():
    return dl.load_model("builtin:stories", check=False)


@pytest.fixture(scope="module")
def tokens(model):
    return dl.load_tokens("builtin:stories", model, split="held_out", n_tokens=300, context=50)


@pytest.fixture(scope="module")
def three(model):
    """A transcoder, an SAE at its target with a dead feature, and an SAE at another hook."""
    sites = dl.mlp_sites(model, 1)
    s = dl.SAEConfig(n_features=16).build(sites.at_target(), seed=1)
    with torch.no_grad():
        s.W_enc[:, DEAD] = 0
        s.b_enc[DEAD] = -1
    away = dl.hook_sites(model, "blocks.0.hook_mlp_out")
    return {
        "t": dl.TopKTranscoderConfig(n_features=24, k=3).build(sites, seed=0),
        "s": s,
        "r": dl.SAEConfig(n_features=8).build(away, seed=2),
    }


@pytest.fixture(scope="module")
def acts(model, tokens, three):
    """The coefficients at all tokens that are not special, by dictionary, in float64."""
    _, cache = model.run_with_cache(tokens.ids)
    with torch.no_grad():
        return {
            name: d.encode(cache[d.sites.source.hook][tokens.ordinary]).double().numpy()
            for name, d in three.items()
        }


@pytest.fixture(scope="module")
def table(model, tokens, three):
    return dl.features(three, model, tokens, n_tokens=2, progress=False)


def test_every_feature_has_its_row_with_density_and_norm(table, acts, three):
    assert table.index.tolist() == [(n, i) for n, d in three.items() for i in range(d.n_features)]
    for name, own in acts.items():
        density = (own != 0).mean(axis=0)
        rows = table.loc[name]
        np.testing.assert_allclose(rows.density, density, rtol=1e-5)
        with np.errstate(divide="ignore"):
            np.testing.assert_allclose(rows.log10_density, np.log10(density), rtol=1e-4, atol=1e-5)
        norms = three[name].atoms.detach().norm(dim=1)
        np.testing.assert_allclose(rows.atom_norm, norms, rtol=1e-5)
    dead = table.loc["s", DEAD]
    assert (dead.density, dead.log10_density, dead.top_tokens) == (0, -np.inf, "")


def test_top_tokens_are_those_of_the_strongest_sequences(table, acts, model, tokens):
    dense = np.zeros((*tokens.ids.shape, 16))
    dense[tokens.ordinary.numpy()] = acts["s"]
    for feature in range(16):
        peaks = dense[..., feature]
        found: list[str] = []
        for sequence in np.argsort(-peaks.max(axis=1)):
            if peaks[sequence].max() > 0:
                token = int(tokens.ids[sequence, peaks[sequence].argmax()])
                text = repr(model.tokenizer.decode([token]))
                found += [] if text in found else [text]
        assert table.loc["s", feature].top_tokens == ", ".join(found[:2])


def test_promoted_tokens_are_those_of_the_card(table, model, tokens, three):
    card = dl.show(three, 3, model, tokens, progress=False).records.cards[0]
    expected = ", ".join(repr(one.token) for one in card.promoted[:5])
    assert table.loc["t", 3].promoted == expected


def test_nearest_by_direction_only_at_the_same_target(table, three):
    atoms = {
        name: torch.nn.functional.normalize(d.atoms.detach().double(), dim=1)
        for name, d in three.items()
    }
    for name, other in (("t", "s"), ("s", "t")):
        values, partners = (atoms[name] @ atoms[other].T).max(dim=1)
        assert table.loc[name, f"nearest_{other}"].tolist() == partners.tolist()
        np.testing.assert_allclose(table.loc[name, f"cosine_{other}"], values, atol=1e-5)
        assert table.loc[name, f"nearest_{name}"].isna().all()
        assert table.loc[name, "nearest_r"].isna().all()
        assert table.loc[name, "cosine_r"].isna().all()


def require_largest_correlations(table, acts):
    for name, other in ((a, b) for a in acts for b in acts if a != b):
        a, b = acts[name], acts[other]
        with np.errstate(invalid="ignore"):
            whole = np.corrcoef(a, b, rowvar=False)[: a.shape[1], a.shape[1] :]
        live = np.flatnonzero(a.std(axis=0) > 0)
        rows = table.loc[name]
        expected = np.where(np.isnan(whole[live]), -np.inf, whole[live])
        found = rows[f"correlated_{other}"].iloc[live].to_numpy(dtype=int)
        np.testing.assert_allclose(
            rows[f"correlation_{other}"].iloc[live], expected.max(axis=1), atol=1e-4
        )
        chosen = expected[np.arange(len(live)), found]
        np.testing.assert_allclose(chosen, expected.max(axis=1), atol=1e-4)
        silent = rows.drop(index=live)
        assert silent[[f"correlated_{other}", f"correlation_{other}"]].isna().all(axis=None)


def test_correlated_features_are_those_of_the_whole_matrix(table, acts):
    require_largest_correlations(table, acts)
    assert pd.isna(table.loc["s", DEAD].correlated_t)
    assert table.loc["t", ["correlated_t", "correlation_t"]].isna().all(axis=None)


def test_correlated_features_in_several_blocks_and_passes(model, tokens, three, acts, monkeypatch):
    monkeypatch.setattr(correlations, "_BLOCK", 50)
    monkeypatch.setattr(correlations, "_PASS", 100)
    found = dl.features(three, model, tokens, progress=False)
    require_largest_correlations(found, acts)


def test_one_dictionary_is_named_by_its_kind_and_may_have_no_features(model, tokens, three):
    alone = dl.features(three["r"], model, tokens, progress=False)
    assert alone.index.get_level_values("dictionary").unique().tolist() == ["sae"]
    assert list(alone.columns) == [
        "density", "log10_density", "atom_norm", "top_tokens", "promoted"
    ]  # fmt: skip
    mean = dl.MeanConfig().build(three["r"].sites)
    both = dl.features({"mean": mean, "r": three["r"]}, model, tokens, progress=False)
    assert len(both) == 8
    assert both["correlated_mean"].isna().all()
    assert len(dl.features(mean, model, tokens, progress=False)) == 0
    with pytest.raises(InputError, match="features needs a dictionary, or several"):
        dl.features({}, model, tokens)


def test_the_histogram_counts_every_active_token(model, tokens, three, acts):
    figure = dl.plot.activations(three["s"], 3, model, tokens, progress=False)
    (bars,) = figure.data
    own = acts["s"][:, 3]
    own = own[own != 0]
    counts, edges = np.histogram(own.astype(np.float32), bins=len(bars.y))
    assert sum(bars.y) == len(own) > 0
    np.testing.assert_allclose(bars.x, (edges[1:] + edges[:-1]) / 2, rtol=1e-3)
    assert np.abs(np.array(bars.y) - counts).sum() <= 2  # a value at the edge of a bin
    heading = figure.layout.annotations[0].text
    assert heading == f"sae 3: active at {len(own):,} of {tokens.n_tokens:,} tokens"
    silent = dl.plot.activations(three["s"], DEAD, model, tokens, progress=False)
    assert sum(silent.data[0].y) == 0
    with pytest.raises(InputError, match="a feature from 0 to 15, got 16"):
        dl.plot.activations(three["s"], 16, model, tokens)


def test_figures_of_records_are_those_of_reports():
    from dictlearn.comparison.figures.agreement import agreement_figure
    from dictlearn.comparison.figures.density import density_figure
    from dictlearn.comparison.figures.rates import rate_distortion_figure

    assert dl.plot.agreement is agreement_figure
    assert dl.plot.density is density_figure
    assert dl.plot.rate_distortion is rate_distortion_figure


@pytest.mark.untyped
@pytest.mark.parametrize("figure", ["agreement", "density", "rate_distortion"])
def test_figures_of_records_take_no_dictionaries(figure):
    with pytest.raises(InputError, match=r"Records, as \w+\(dictionaries, model, tokens\) returns"):
        getattr(dl.plot, figure)({"sae": None})
