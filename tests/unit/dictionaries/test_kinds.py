"""Each kind against numbers worked out by hand."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from dictlearn.activations.tensors import TensorActivations
from dictlearn.core.batches import Batch
from dictlearn.core.errors import ConfigError, InputError
from dictlearn.core.kinds import GradientConfig
from dictlearn.core.mlp_weights import MLPWeights
from dictlearn.core.sites import Site, Sites
from dictlearn.dictionaries.batchtopk_sae import BatchTopKSAEConfig
from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.dictionaries.cross_layer_transcoder import CrossLayerTranscoderConfig
from dictlearn.dictionaries.gated_sae import GatedSAEConfig
from dictlearn.dictionaries.ica import ICAConfig
from dictlearn.dictionaries.identity import IdentityConfig
from dictlearn.dictionaries.jumprelu_sae import JumpReLUSAEConfig
from dictlearn.dictionaries.kmeans import KMeansConfig
from dictlearn.dictionaries.matryoshka_sae import MatryoshkaSAEConfig
from dictlearn.dictionaries.mean import MeanConfig
from dictlearn.dictionaries.neurons import NeuronsConfig
from dictlearn.dictionaries.objectives import AuxK, SparsityL1
from dictlearn.dictionaries.pca import PCAConfig
from dictlearn.dictionaries.random import RandomConfig
from dictlearn.dictionaries.registry import KINDS
from dictlearn.dictionaries.residual_codebook import ResidualCodebookConfig
from dictlearn.dictionaries.sae import SAEConfig
from dictlearn.dictionaries.selection import top_k
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.dictionaries.topk_transcoder import TopKTranscoderConfig
from dictlearn.dictionaries.transcoder import TranscoderConfig
from dictlearn.training.config import FitConfig
from dictlearn.training.fit import fit

ONE = Sites(Site("h", 4), Site("h", 4))
TWO = Sites(Site("x", 3), Site("y", 4))


def rows(n=64, d=4, seed=0, dtype=torch.float32):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def autoencoder_batch(**kwargs):
    x = rows(**kwargs)
    return Batch(x, x)


def test_sae_is_relu_of_affine_with_a_tied_pre_bias():
    sae = SAEConfig(n_features=6).build(ONE).double()
    with torch.no_grad():
        sae.b_dec.copy_(torch.tensor([1.0, -2.0, 0.5, 0.0]))
        sae.b_enc.fill_(0.1)
    x = rows(dtype=torch.float64)
    acts = torch.relu((x - sae.b_dec) @ sae.W_enc + sae.b_enc)
    torch.testing.assert_close(sae.encode(x), acts)
    torch.testing.assert_close(sae(x), acts @ sae.W_dec + sae.b_dec)


def test_transcoder_reads_one_space_and_writes_another_without_pre_bias():
    transcoder = TranscoderConfig(n_features=6).build(TWO).double()
    with torch.no_grad():
        transcoder.b_dec.copy_(torch.arange(4.0))
    x = rows(d=3, dtype=torch.float64)
    acts = torch.relu(x @ transcoder.W_enc + transcoder.b_enc)
    torch.testing.assert_close(transcoder.encode(x), acts)
    torch.testing.assert_close(transcoder(x), acts @ transcoder.W_dec + torch.arange(4.0).double())


def test_sae_loss_is_mean_square_plus_l1_summed_over_features():
    config = SAEConfig(n_features=6, l1_coefficient=0.3)
    sae = config.build(ONE)
    fit_pass = sae.fit_pass(autoencoder_batch(), sparsity_scale=0.5)
    losses = SparsityL1(0.3)(fit_pass)
    x = autoencoder_batch().x
    acts = sae.encode(x)
    torch.testing.assert_close(losses["squared_error"], (x - sae(x)).pow(2).mean())
    torch.testing.assert_close(losses["sparsity"], 0.5 * 0.3 * acts.sum(dim=1).mean())


def test_top_k_keeps_exactly_the_largest_positive_scores():
    sae = TopKSAEConfig(n_features=8, k=3).build(ONE)
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.b_enc.copy_(torch.tensor([0.5, -1.0, 3.0, 0.1, 2.0, -0.2, 0.0, 1.0]))
    expected = torch.tensor([0.0, 0.0, 3.0, 0.0, 2.0, 0.0, 0.0, 1.0]).expand(2, 8)
    torch.testing.assert_close(sae.encode(rows(n=2)), expected)
    with torch.no_grad():
        sae.b_enc.fill_(-1.0)
    assert sae.encode(rows(n=2)).count_nonzero() == 0, "negative scores are never kept"


def test_batch_top_k_shares_its_budget_and_encodes_by_threshold():
    sae = BatchTopKSAEConfig(n_features=4, k=1).build(ONE)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(4))
        sae.b_enc.zero_()
    z = torch.tensor([[5.0, 4.0, 3.0, 0.0], [1.0, 0.5, 0.0, 0.0]])
    fit_pass = sae.fit_pass(Batch(z, z))
    kept = torch.tensor([[5.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(fit_pass.acts.to_dense().detach(), kept)
    sae.observe_(fit_pass)
    assert sae.threshold.item() == 4.0
    torch.testing.assert_close(sae.encode(torch.tensor([[4.5, 4.0, 0.0, 9.0]])),
                               torch.tensor([[4.5, 0.0, 0.0, 9.0]]))  # fmt: skip


def test_jumprelu_passes_scores_above_the_threshold_unchanged():
    sae = JumpReLUSAEConfig(n_features=4, initial_threshold=1.0).build(ONE)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(4))
    z = torch.tensor([[0.9, 1.1, -3.0, 2.0]])
    torch.testing.assert_close(sae.encode(z), torch.tensor([[0.0, 1.1, 0.0, 2.0]]))


def test_jumprelu_threshold_gradients_are_the_published_ones():
    """Rajamanoharan et al. 2024, equations 10 and 11, in float64 against the formulas by hand."""
    sae = JumpReLUSAEConfig(n_features=4, initial_threshold=1.0, bandwidth=0.5).build(ONE).double()
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(4))
    z = torch.tensor([[0.8, 1.2, 1.3, 2.0]], dtype=torch.float64)
    sae.rule.active(sae, sae.all_scores(z)).sum().backward()
    threshold = sae.log_threshold.exp().detach()
    inside = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(sae.log_threshold.grad, -inside / 0.5 * threshold)
    sae.log_threshold.grad = None
    weights = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    (weights * sae._train_encode(z).acts).sum().backward()
    by_hand = -threshold / 0.5 * inside * weights[0] * threshold
    torch.testing.assert_close(sae.log_threshold.grad, by_hand)


def test_gated_sae_opens_gates_and_scales_magnitudes_apart():
    sae = GatedSAEConfig(n_features=4).build(ONE)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(4))
        sae.b_enc.fill_(-1.0)
        sae.r_mag.fill_(torch.log(torch.tensor(2.0)))
        sae.b_mag.fill_(0.5)
    z = torch.tensor([[0.9, 1.5, -3.0, 2.0]])
    torch.testing.assert_close(sae.encode(z), torch.tensor([[0.0, 3.5, 0.0, 4.5]]))


def test_gate_error_never_reaches_the_decoder():
    config = GatedSAEConfig(n_features=6)
    sae = config.build(ONE)
    losses = config.objective()(sae.fit_pass(autoencoder_batch()))
    losses["gate_error"].backward()
    assert sae.W_dec.grad is None or not sae.W_dec.grad.any()
    assert sae.W_enc.grad is not None
    assert sae.W_enc.grad.any()


@pytest.mark.parametrize("combine", ["sum", "mean"])
def test_codebook_adds_the_k_codes_of_greatest_cosine(combine):
    codebook = CodebookConfig(n_codes=10, k=3, combine=combine).build(ONE)
    x = rows()
    codes = codebook.codes[0].detach()
    cosine = normalize(x, dim=1) @ normalize(codes, dim=1).T
    chosen = codes[cosine.topk(3, dim=1).indices]
    expected = chosen.sum(dim=1) if combine == "sum" else chosen.mean(dim=1)
    torch.testing.assert_close(codebook(x).detach(), expected)
    assert set(codebook.encode(x).unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(codebook.encode(7.0 * x), codebook.encode(x))


def test_groups_are_independent_codebooks_on_chunks():
    grouped = CodebookConfig(n_codes=5, k=2, n_groups=2).build(ONE)
    x = rows()
    halves = []
    for g in range(2):
        half = Sites(Site("h", 2), Site("h", 2))
        single = CodebookConfig(n_codes=5, k=2).build(half)
        with torch.no_grad():
            single.codes.copy_(grouped.codes[g : g + 1])
        halves.append(single(x[:, 2 * g : 2 * g + 2]))
    torch.testing.assert_close(grouped(x), torch.cat(halves, dim=1))


def test_euclidean_codebook_picks_the_nearest_code():
    codebook = CodebookConfig(n_codes=10, similarity="euclidean").build(ONE)
    x = rows()
    nearest = torch.cdist(x, codebook.codes[0].detach()).argmin(dim=1)
    torch.testing.assert_close(codebook.encode(x).argmax(dim=1), nearest)


def test_codebook_gradient_reaches_chosen_codes_only():
    """The squared error's gradient on a code is 2 (sum of estimates - sum of targets) over rows."""
    config = CodebookConfig(n_codes=10, k=2)
    codebook = config.build(ONE).double()
    batch = autoencoder_batch(n=5, dtype=torch.float64)
    fit_pass = codebook.fit_pass(batch)
    config.objective()(fit_pass)["squared_error"].backward()
    acts = fit_pass.acts.to_dense()
    by_hand = acts.T @ (-2 * fit_pass.residual.detach()) / 5
    torch.testing.assert_close(codebook.codes.grad[0], by_hand)
    unchosen = acts.sum(dim=0) == 0
    assert unchosen.any()
    assert not codebook.codes.grad[0][unchosen].any()


def test_residual_codebook_quantizes_what_is_left():
    codebook = ResidualCodebookConfig(n_codes=6, n_stages=3).build(ONE)
    x = rows()
    residual = x
    for stage in codebook.codes.detach():
        residual = residual - stage[torch.cdist(residual, stage).argmin(dim=1)]
    torch.testing.assert_close(codebook(x).detach(), x - residual)
    assert codebook.encode(x).view(64, 3, 6).sum(dim=2).eq(1).all(), "one code a stage"


def test_residual_codes_of_every_stage_start_apart():
    """A row that gave the first stage a code leaves nothing there for the second."""
    codebook = ResidualCodebookConfig(n_codes=16, n_stages=3).build(ONE)
    x = rows(n=300)
    codebook.initialize_(x, x)
    for stage in codebook.codes:
        assert len(stage.unique(dim=0)) == 16
        assert stage.norm(dim=1).min() > 0


def test_codes_start_as_distinct_rows_and_the_rest_at_random():
    codebook = CodebookConfig(n_codes=20, k=2).build(ONE)
    x = rows(n=12)
    codebook.initialize_(x, x)
    torch.testing.assert_close(codebook.codes[0, :12].detach(), x / 2)
    assert len(codebook.codes[0].unique(dim=0)) == 20


GRADIENT_KINDS = [kind for kind in KINDS if issubclass(kind, GradientConfig)]


@pytest.mark.parametrize("kind", GRADIENT_KINDS, ids=lambda kind: kind.kind)
@pytest.mark.parametrize("sunk", [False, True], ids=["dense", "sparse"])
def test_every_kind_trains_in_mixed_precision(kind, sunk):
    """What CUDA runs do, on the CPU: bfloat16 products beside float32 parameters."""
    config = kind.tiny()
    offered = Sites(Site("x", 8), Site("y", 8))
    dictionary = config.build(config.sites(offered))
    if sunk and hasattr(dictionary, "b_enc"):
        dictionary.b_enc.data -= 2.0
    x, y = rows(d=8), rows(d=8, seed=1)
    batch = Batch(x, x) if dictionary.sites.is_autoencoder else Batch(x, y)
    dead = torch.arange(dictionary.n_features) < 5
    with torch.autocast("cpu", torch.bfloat16):
        fit_pass = dictionary.fit_pass(batch, dead=dead)
        losses = config.objective()(fit_pass)
    sum(losses.values()).backward()
    dictionary.observe_(fit_pass)
    for name, parameter in dictionary.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_auxk_of_a_perfect_estimate_is_finite():
    config = TopKSAEConfig(n_features=8, k=2)
    sae = config.build(ONE)
    zeros = torch.zeros(5, 4)
    losses = config.objective()(sae.fit_pass(Batch(zeros, zeros), dead=torch.arange(8) < 3))
    assert losses["auxk"].isfinite()


@pytest.mark.parametrize(
    "config", [TranscoderConfig(n_features=6), TopKTranscoderConfig(n_features=6, k=2)]
)
def test_skip_transcoder_adds_a_linear_map_outside_the_features(config):
    transcoder = replace(config, linear_skip=True).build(TWO)
    x = rows(d=3)
    torch.testing.assert_close(transcoder(x), transcoder.decode(transcoder.encode(x)))
    with torch.no_grad():
        transcoder.W_skip.normal_(generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        transcoder(x), transcoder.decode(transcoder.encode(x)) + x @ transcoder.W_skip
    )
    assert config.build(TWO).skip(x) is None


def random_mlp(gated):
    make = torch.Generator().manual_seed(1)
    return MLPWeights(
        W_in=torch.randn(3, 5, generator=make),
        b_in=torch.randn(5, generator=make),
        W_out=torch.randn(5, 4, generator=make),
        b_out=torch.randn(4, generator=make),
        act_name="silu" if gated else "gelu",
        W_gate=torch.randn(3, 5, generator=make) if gated else None,
    )


@pytest.mark.parametrize("gated", [False, True])
def test_neurons_on_an_mlp_are_the_mlp(gated):
    mlp = random_mlp(gated)
    neurons = NeuronsConfig(mlp=mlp).build(Sites(Site("x", 3), Site("y", 4)))
    x = rows(d=3)
    linear = x @ mlp.W_in + mlp.b_in
    if gated:
        hidden = torch.nn.functional.silu(x @ mlp.W_gate) * linear
    else:
        hidden = torch.nn.functional.gelu(linear)
    torch.testing.assert_close(neurons.encode(x), hidden)
    torch.testing.assert_close(neurons(x), hidden @ mlp.W_out + mlp.b_out)
    torch.testing.assert_close(neurons.atoms, mlp.W_out)


def test_neurons_without_weights_need_one_site():
    with pytest.raises(ConfigError, match="mlp_sites"):
        NeuronsConfig().build(TWO)
    x = rows()
    basis = NeuronsConfig().build(ONE)
    torch.testing.assert_close(basis(x), x)
    assert basis.n_features == 8


def learned(config, x):
    learner = config.learner(ONE, seed=0)
    for part in x.split(50):
        learner.update(Batch(part, part))
    return learner.finish()


def test_mean_predicts_the_mean_and_has_no_features():
    x = rows(n=200) + 3
    mean = learned(MeanConfig(), x)
    torch.testing.assert_close(mean(x[:2]), x.mean(dim=0).expand(2, 4))
    assert mean.encode(x).shape == (200, 0)


def test_identity_returns_its_input():
    x = rows()
    assert torch.equal(learned(IdentityConfig(), x)(x), x)


def test_pca_with_all_components_is_exact_and_with_k_is_the_best_truncation():
    x = rows(n=400) @ torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.5])) + 5
    torch.testing.assert_close(learned(PCAConfig(), x)(x), x, atol=1e-4, rtol=1e-4)
    one = learned(PCAConfig(n_features=1), x)
    centred = x - x.mean(dim=0)
    energy = torch.linalg.svdvals(centred).pow(2)
    error = (x - one(x)).pow(2).sum()
    torch.testing.assert_close(error, energy[1:].sum(), rtol=1e-3, atol=1e-3)
    assert learned(PCAConfig(k=2), x).encode(x).count_nonzero(dim=1).unique().tolist() == [2]


def test_ica_finds_independent_sources():
    source = torch.rand(4000, 4, generator=torch.Generator().manual_seed(0)) - 0.5
    mixing = rows(n=4, seed=3)
    x = source @ mixing
    ica = learned(ICAConfig(max_rows=4000), x)
    torch.testing.assert_close(ica(x), x, atol=1e-3, rtol=1e-3)
    correlation = torch.corrcoef(torch.cat([ica.encode(x).T, source.T]))[:4, 4:].abs()
    assert correlation.max(dim=0).values.min() > 0.98


def test_kmeans_finds_planted_centres():
    centres = 10 * torch.eye(4)
    x = centres.repeat(50, 1) + 0.1 * rows(n=200)
    kmeans = learned(KMeansConfig(n_features=4), x)
    assert (x - kmeans(x)).norm(dim=1).max() < 0.6


def test_random_directions_get_the_gain_of_least_squares():
    x = rows(n=500)
    random = learned(RandomConfig(n_features=32, k=3), x)
    best = (x - random(x)).pow(2).sum()
    for factor in (0.9, 1.1):
        other = copy.deepcopy(random)
        other.gain *= factor
        assert (x - other(x)).pow(2).sum() > best


def test_auxk_equals_the_formula_and_is_silent_without_dead_features():
    config = TopKSAEConfig(n_features=8, k=2, auxk_coefficient=0.25, k_aux=2)
    sae = config.build(ONE)
    batch = autoencoder_batch()
    assert set(config.objective()(sae.fit_pass(batch))) == {"squared_error"}
    dead = torch.tensor([True, True, True, False, False, False, False, False])
    fit_pass = sae.fit_pass(batch, dead=dead)
    losses = AuxK(0.25, 2)(fit_pass)
    pre = (batch.x - sae.b_dec) @ sae.W_enc + sae.b_enc
    values, indices = pre[:, :3].topk(2, dim=1)
    acts = torch.zeros(64, 3).scatter(1, indices, values.relu())
    residual = fit_pass.residual.detach()
    error = (residual - acts @ sae.W_dec[:3]).pow(2).mean() / residual.pow(2).mean()
    torch.testing.assert_close(losses["auxk"], 0.25 * error)


def test_auxk_gradient_agrees_with_finite_differences():
    config = TopKSAEConfig(n_features=6, k=1, auxk_coefficient=1.0, k_aux=2)
    sae = config.build(ONE).double()
    dead = torch.tensor([True, True, True, False, False, False])
    batch = autoencoder_batch(n=3, dtype=torch.float64)
    residual = sae.fit_pass(batch, dead=dead).residual.detach()

    def auxk(W_enc, W_dec):
        pre = (batch.x - sae.b_dec.detach()) @ W_enc + sae.b_enc.detach()
        values, indices = pre[:, :3].topk(2, dim=1)
        acts = torch.zeros(3, 3, dtype=torch.float64).scatter(1, indices, values.relu())
        return (residual - acts @ W_dec[:3]).pow(2).mean() / residual.pow(2).mean()

    free = [
        sae.W_enc.detach().clone().requires_grad_(),
        sae.W_dec.detach().clone().requires_grad_(),
    ]
    assert torch.autograd.gradcheck(auxk, free)
    expected = torch.autograd.grad(auxk(*free), free)
    AuxK(1.0, 2)(sae.fit_pass(batch, dead=dead))["auxk"].backward()
    torch.testing.assert_close(sae.W_enc.grad, expected[0])
    torch.testing.assert_close(sae.W_dec.grad, expected[1])


@pytest.mark.parametrize(
    ("config", "select"),
    [
        (TopKSAEConfig(n_features=12, k=3), lambda pre: top_k(pre, 3)),
        (TopKTranscoderConfig(n_features=12, k=3, linear_skip=True), lambda pre: top_k(pre, 3)),
        (
            BatchTopKSAEConfig(n_features=12, k=3),
            lambda pre: pre * (pre >= pre.flatten().topk(3 * 20).values.min()) * (pre > 0),
        ),
    ],
    ids=["topk_sae", "topk_transcoder", "batchtopk_sae"],
)
def test_sparse_gradients_equal_the_dense_ones(config, select):
    """The step computes selected entries only; autograd through dense matrices is the reference.

    AuxK is included: its scores must reach the encoder although selection is outside the graph.
    """
    square = Sites(Site("x", 4), Site("y", 4))
    dictionary = config.build(config.sites(square)).double()
    make = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=make, dtype=torch.float64)
    x = rows(n=20, dtype=torch.float64)
    y = x if dictionary.sites.is_autoencoder else rows(n=20, seed=9, dtype=torch.float64)
    dead = torch.arange(12) < 5
    fit_pass = dictionary.fit_pass(Batch(x, y), dead=dead)
    parameters = list(dictionary.parameters())
    loss = sum(config.objective()(fit_pass).values())
    sparse = torch.autograd.grad(loss, parameters)

    pre = dictionary.all_scores(x)
    t_hat = select(pre) @ dictionary.W_dec + dictionary.b_dec
    skip = dictionary._skip(x)
    t_hat = t_hat if skip is None else t_hat + skip
    residual = (y - t_hat).detach()
    values, indices = pre[:, :5].topk(2, dim=1)
    aux = torch.zeros(20, 5).double().scatter(1, indices, values.relu()) @ dictionary.W_dec[:5]
    auxk = (residual - aux).pow(2).mean() / residual.pow(2).mean()
    reference = (y - t_hat).pow(2).mean() + config.auxk_coefficient * auxk
    dense = torch.autograd.grad(reference, parameters)
    torch.testing.assert_close(loss, reference)
    for name, a, b in zip(dict(dictionary.named_parameters()), sparse, dense, strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_grouped_codes_are_written_group_by_group():
    codebook = CodebookConfig(n_codes=5, k=2, n_groups=2, combine="mean").build(ONE).double()
    acts = codebook.encode_sparse(rows(dtype=torch.float64))
    torch.testing.assert_close(codebook._write(acts), acts.to_dense() @ codebook._atoms)


def test_unit_norm_and_its_gradient():
    sae = SAEConfig(n_features=6).build(ONE)
    sae.W_dec.data *= 3
    sae.project_()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(6))
    sae.fit_pass(autoencoder_batch()).residual.pow(2).sum().backward()
    sae.project_gradient_()
    parallel = (sae.W_dec.grad * sae.W_dec).sum(dim=1)
    torch.testing.assert_close(parallel, torch.zeros(6), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SAEConfig(n_features=0), "n_features"),
        pytest.param(lambda: SAEConfig(n_features=2.5), "n_features", marks=pytest.mark.untyped),
        (lambda: SAEConfig(n_features=8, l1_coefficient=-1.0), "l1_coefficient"),
        (lambda: SAEConfig(), "needs a value for n_features"),
        (lambda: SAEConfig(n_features=8, l1_coefficient=float("inf")), "l1_coefficient"),
        (lambda: SAEConfig.from_dict({"n_features": 8, "resample_steps": 100}), "list of whole"),
        (
            lambda: TopKTranscoderConfig.from_dict({"n_features": 8, "k": 2, "linear_skip": "no"}),
            "true or false",
        ),
        (lambda: SAEConfig(n_feature=8), "did you mean 'n_features'"),
        (lambda: TopKSAEConfig(n_features=8, k=9), "at most n_features"),
        (lambda: TopKSAEConfig(n_features=8, k=0), "k must be"),
        (lambda: CodebookConfig(n_codes=8, k=9), "at most n_codes"),
        (lambda: CodebookConfig(n_codes=8, similarity="cosin"), "did you mean 'cosine'"),
        (lambda: CodebookConfig(n_codes=8, n_groups=3).build(ONE), "divide"),
        (lambda: PCAConfig(n_features=5).build(ONE), "at most 4"),
        (lambda: JumpReLUSAEConfig(n_features=8, bandwidth=0.0), "bandwidth"),
        (lambda: RandomConfig(n_features=8, k=9), "at most"),
    ],
)
def test_bad_configs_are_refused_at_once(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_matryoshka_adds_the_errors_of_prefixes_by_hand():
    """Value and gradients against dense sums, in float64."""
    config = MatryoshkaSAEConfig(n_features=12, k=3, prefixes=(0.25, 0.5), auxk_coefficient=0.0)
    assert config.widths == (3, 6)
    sae = config.build(ONE).double()
    x = rows(n=20, dtype=torch.float64)
    fit_pass = sae.fit_pass(Batch(x, x))
    acts = fit_pass.acts.to_dense()
    expected = sum(
        (acts[:, :width] @ sae.W_dec[:width] + sae.b_dec - x).pow(2).mean() for width in (3, 6, 12)
    )
    found = sum(config.objective()(fit_pass).values())
    torch.testing.assert_close(found, expected)
    parameters = list(sae.parameters())
    for a, b in zip(
        torch.autograd.grad(found, parameters, retain_graph=True),
        torch.autograd.grad(expected, parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    with pytest.raises(ConfigError, match="increasing fractions"):
        MatryoshkaSAEConfig(n_features=12, k=3, prefixes=(0.5, 0.25))


def test_weights_of_another_mlp_are_refused():
    x, y = Site("x", 3), Site("y", 4)
    mlp = random_mlp(gated=False)
    for sites in (Sites(x, Site("y", 5)), Sites(Site("x", 2), y), Sites(y, y)):
        with pytest.raises(ConfigError, match="required its input and output"):
            NeuronsConfig(mlp=mlp).build(sites)
    rows = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
    given = TensorActivations(rows, mlp.hidden(rows) @ mlp.W_out + mlp.b_out, sites=Sites(x, y))
    learned = fit(NeuronsConfig(mlp=mlp), given, FitConfig(steps=1, batch_size=8), progress=False)
    assert torch.equal(learned.atoms, mlp.W_out)
    other = replace(mlp, W_out=mlp.W_out.flip(1))
    with pytest.raises(InputError, match="they are of another layer or model"):
        fit(NeuronsConfig(mlp=other), given, FitConfig(steps=1, batch_size=8), progress=False)


def test_scores_reach_components_that_were_not_kept():
    pca = PCAConfig(n_features=4, k=1).build(Sites(Site("x", 4), Site("x", 4)))
    x = torch.tensor([[3.0, 2.0, -1.0, 0.5]], requires_grad=True)
    scores = pca.scores(x, torch.arange(4))
    assert scores.tolist() == [[3.0, 2.0, -1.0, 0.5]]
    (gradient,) = torch.autograd.grad(scores[0, 1], x)
    assert gradient.tolist() == [[0.0, 1.0, 0.0, 0.0]]


@pytest.mark.parametrize("config", [TopKSAEConfig(n_features=8, k=2), SAEConfig(n_features=8)])
def test_a_second_derivative_is_an_error_and_not_a_wrong_number(config):
    sae = config.build(Sites(Site("x", 4), Site("x", 4))).double()
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    y = sae.estimate(x, sae.encode_sparse(x))
    (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


@pytest.mark.parametrize(
    ("hooks", "words"),
    [
        (["blocks.1.x", "blocks.0.x"], "layers in increasing order"),
        (["blocks.0.x", "blocks.0.x2"], "layers in increasing order"),
        (["blocks.0.y", "blocks.1.y"], "input and output of one MLP"),
        (["blocks.1.x", "blocks.0.z"], "input and output of one MLP"),
    ],
)
def test_a_cross_layer_transcoder_needs_pairs_of_layers(hooks, words):
    targets = {"x": "y", "y": "y", "x2": "y2", "z": "y"}
    after = [hook.rpartition(".")[0] + "." + targets[hook.rpartition(".")[2]] for hook in hooks]
    if hooks[-1].endswith("z"):
        after.reverse()
    sites = Sites(Site(hooks, [3, 3]), Site(after, [3, 3]))
    with pytest.raises(ConfigError, match=words):
        CrossLayerTranscoderConfig(n_features=4).build(sites)


def test_few_features_need_prefixes_of_their_own():
    with pytest.raises(ConfigError, match=r"n_features must be at least 17 with the default pre"):
        MatryoshkaSAEConfig(n_features=16, k=3)
    for n in range(17, 200):
        MatryoshkaSAEConfig(n_features=n, k=3)
    assert MatryoshkaSAEConfig(n_features=16, k=3, prefixes=[0.25, 0.5]).widths == (4, 8)
    with pytest.raises(ConfigError, match=r"prefixes must be increasing.*, got \(0\.01, 0\.5\)"):
        MatryoshkaSAEConfig(n_features=16, k=3, prefixes=[0.01, 0.5])


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("features", "words"),
    [
        (torch.tensor([99]), "features from 0 to 5, got 99 to 99"),
        (torch.tensor([-1, 2]), "features from 0 to 5, got -1 to 2"),
        (3, "a vector of whole numbers as features"),
        ([3], "a vector of whole numbers as features"),
        (torch.tensor(3), "a vector of whole numbers as features"),
        (torch.tensor([1.0]), "a vector of whole numbers as features"),
        (torch.ones(6, dtype=torch.bool), "a vector of whole numbers as features"),
    ],
)
def test_scores_are_asked_for_by_indices(features, words):
    sae = SAEConfig(n_features=6).build(ONE)
    with pytest.raises(InputError, match=words):
        sae.scores(rows(), features)
    assert sae.scores(rows(), torch.tensor([], dtype=torch.long)).shape == (64, 0)


def test_kmeans_does_not_depend_on_the_number_of_threads():
    from threadpoolctl import threadpool_limits

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 32, generator=generator) * torch.linspace(0.2, 2, 32)
    found = []
    for n in (1, 2):
        with threadpool_limits(n):
            run = FitConfig(steps=4, batch_size=1000)
            found.append(fit(KMeansConfig(n_features=60), x, run, progress=False).atoms)
    torch.testing.assert_close(*found, rtol=0, atol=1e-6)
