"""Weights without a prompt: products of matrices, and the factors of a prompt's edges."""

from itertools import product

import pytest
import torch

from dictlearn.circuits.attribute import attribute
from dictlearn.circuits.encoders import encoder_directions
from dictlearn.circuits.local_model import local_model
from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.targets import FeatureTarget
from dictlearn.circuits.weights import de_embedding, pullback, virtual_weights
from dictlearn.core.errors import InputError
from dictlearn.dictionaries.neurons import NeuronsConfig
from dictlearn.dictionaries.registry import KINDS
from dictlearn.dictionaries.topk_transcoder import TopKTranscoderConfig
from dictlearn.lm.mlps import mlp_sites, mlp_weights
from tests.unit.circuits.conftest import measured


def through(weights, *args, heads, **kwargs):
    """The weights through these heads; zero where parallel blocks leave no way through the last."""
    model, (layer, _) = args[0], heads[-1]
    if layer == 1 and getattr(model.cfg, "parallel_attn_mlp", False):
        with pytest.raises(InputError, match="come before"):
            weights(*args, heads=heads, **kwargs)
        return torch.zeros(())
    return weights(*args, heads=heads, **kwargs)[0]


def test_an_edge_is_coefficient_times_weight_over_scales(model, mixes, prompt):
    """For every token and every feature before, direct and through heads of every chain."""
    dictionaries = mixes["transcoders"]
    up, down = dictionaries.values()
    (n0, n1), (A0, A1) = measured(model, prompt, dictionaries)
    t, n_heads = 6, model.cfg.n_heads
    with local_model(model, prompt, dictionaries) as local:
        feature = int(local.acts["mlp1"].indices[local.acts["mlp1"].rows() == t][0])
    target = FeatureTarget("mlp1", feature, t)
    graph = attribute(model, prompt, dictionaries, target, n_features=0, progress=False)
    heads = range(n_heads)
    last = n1["ln2"][t]
    through_0 = A0[:, t] * n0["ln1"] * n0["ln1_post"][t] * last  # [head, source]
    through_1 = A1[:, t] * n1["ln1"] * n1["ln1_post"][t] * last
    between = n0["ln1_post"] * n1["ln1"] * n1["ln1_post"][t] * last  # [middle]
    here = torch.zeros(len(prompt), dtype=torch.float64)
    here[t] = last

    edges = here.unsqueeze(1) * virtual_weights(model, up, down, features=[feature])
    for head in heads:
        V = through(virtual_weights, model, up, down, features=[feature], heads=[(1, head)])
        edges = edges + through_1[head].unsqueeze(1) * V
    of = (graph.nodes.kinds == NodeKind.FEATURE) & (graph.nodes.owners == 0)
    s, values = graph.nodes.positions[of], graph.nodes.values[of]
    wanted = values * n0["ln2_post"][s] * edges[s, graph.nodes.features[of]]
    torch.testing.assert_close(graph.rows[0, of], wanted, rtol=1e-5, atol=1e-7)
    assert wanted.abs().max() > 1e-3

    edges = here * de_embedding(model, down, [feature])[0, prompt]
    for head in heads:
        for layer, factor in ((0, through_0), (1, through_1)):
            D = through(de_embedding, model, down, [feature], heads=[(layer, head)])
            edges = edges + factor[head] * D.expand(model.cfg.d_vocab)[prompt]
    for first, second in product(heads, heads):
        D = through(de_embedding, model, down, [feature], heads=[(0, first), (1, second)])
        passed = (A1[second, t] * between) @ A0[first] * n0["ln1"]
        edges = edges + passed * D.expand(model.cfg.d_vocab)[prompt]
    tokens = graph.nodes.of_kind(NodeKind.TOKEN)
    torch.testing.assert_close(graph.rows[0, tokens], edges, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", [kind.kind for kind in KINDS])
def test_a_direction_is_the_reading_of_an_active_feature(small, trained, prompt, kind):
    """Of every kind; up to the slope where a coefficient is not its score."""
    dictionary = trained[kind]
    with local_model(small, prompt, {"own": dictionary}) as local:
        x, acts = local.sources["own"], local.acts["own"]
    rows, features = acts.rows()[::3], acts.indices[::3]
    found = encoder_directions(dictionary, features)
    expected = dictionary.reading(x[rows], features).readers
    if kind in ("gated_sae", "neurons"):
        slopes = (expected * found).sum(dim=1) / found.pow(2).sum(dim=1)
        assert not torch.allclose(slopes, torch.ones_like(slopes))
        expected = expected / slopes.unsqueeze(1)
    torch.testing.assert_close(found, expected)


def test_neurons_read_by_their_input_weights(small, trained):
    every = torch.arange(trained["neurons"].n_features)
    wanted = trained["neurons"].W_in.T / trained["neurons"].x_scale
    torch.testing.assert_close(encoder_directions(trained["neurons"], every), wanted)


def test_a_cross_layer_feature_counts_where_it_writes_before(small, trained):
    """By hand: gain and centring of the norm, encoder, and the atoms at the first hook alone."""
    up = trained["cross_layer_transcoder"]
    down = TopKTranscoderConfig(n_features=16, k=4).build(mlp_sites(small, 1)).double()
    down.x_scale.fill_(2.0)
    read = down.W_enc.T.detach() / 2 * small.blocks[1].ln2.weight
    read = read - read.mean(dim=1, keepdim=True)
    first = up.atoms.split(up.sites.target.widths, dim=1)[0]
    assert up.atoms[:, first.shape[1] :].abs().max() > 0
    torch.testing.assert_close(virtual_weights(small, up, down), read @ first.T)
    torch.testing.assert_close(pullback(small, down, [3], "hook_embed")[0], read[3])
    own = virtual_weights(small, up, up)  # a feature reads what is written before its own layer
    half = up.n_features // 2
    assert not own[:half].any()
    assert not own[half:, half:].any()
    assert own[half:, :half].any()


def test_what_has_no_weight_is_refused(small, model, trained, mixes):
    first, second = mixes["transcoders"].values()
    for told, call in (
        ("come before", lambda: virtual_weights(model, second, first)),
        ("come before", lambda: de_embedding(model, first, heads=[(1, 0)])),
        ("increasing order", lambda: de_embedding(model, second, heads=[(1, 0), (0, 0)])),
        ("increasing order", lambda: de_embedding(model, second, heads=[(0, model.cfg.n_heads)])),
        ("features from 0 to 31", lambda: de_embedding(model, second, [32])),
        ("has no hook", lambda: pullback(model, second, [0], "hook_embedd")),
    ):  # fmt: skip
        with pytest.raises(InputError, match=told):
            call()


def test_a_gated_neuron_reads_no_one_direction(native):
    model = native(normalization_type="RMS", gated_mlp=True, act_fn="silu").double()
    sites = mlp_sites(model, 1)
    with pytest.raises(InputError, match="without a prompt"):
        de_embedding(model, NeuronsConfig(mlp=mlp_weights(model, sites)).build(sites).double(), [0])
