"""dictlearn, through the learner that its training loop drives."""

from collections.abc import Callable

import torch

from benchmarks.peers.peer import Kind, Maker, Peer, Plan, Trainee, aim_at_l0_
from dictlearn.core.batches import Batch
from dictlearn.core.kinds import GradientConfig
from dictlearn.core.sites import Site, Sites
from dictlearn.dictionaries.batchtopk_sae import BatchTopKSAEConfig
from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.dictionaries.elementwise import ElementwiseRule
from dictlearn.dictionaries.gated_sae import GatedSAEConfig
from dictlearn.dictionaries.jumprelu_sae import JumpReLUSAEConfig
from dictlearn.dictionaries.jumprelu_transcoder import JumpReLUTranscoderConfig
from dictlearn.dictionaries.linear import LinearDictionary
from dictlearn.dictionaries.residual_codebook import ResidualCodebookConfig
from dictlearn.dictionaries.sae import SAEConfig
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.dictionaries.topk_transcoder import TopKTranscoderConfig
from dictlearn.dictionaries.transcoder import TranscoderConfig
from dictlearn.training.config import FitConfig
from dictlearn.training.gradient import GradientLearner
from dictlearn.training.standardize import Standardization, fit_units


def _learner(
    config: GradientConfig, plan: Plan, first: Batch, *, int8: bool = False
) -> GradientLearner:
    run = FitConfig(
        steps=plan.steps,
        batch_size=len(first.x),
        learning_rate=plan.learning_rate,
        seed=plan.seed,
        warmup_fraction=plan.warmup,
        decay_fraction=plan.decay,
        int8_search=int8,
        device=str(first.x.device),
    )
    source = Site("x", first.x.shape[1])
    target = source if first.y is first.x else Site("y", first.y.shape[1])
    units = Standardization(fit_units(source, [first.x]), fit_units(target, [first.y]))
    return GradientLearner(config, Sites(source, target), run, units, lambda step: first)


def _trainee(learner: GradientLearner) -> Trainee:
    return Trainee(
        learner.update,
        torch.no_grad()(learner.dictionary),
        lambda: learner.state().values(),
    )


def _maker(config: Callable[[Plan], GradientConfig], *, int8: bool = False) -> Maker:
    return lambda plan, first: _trainee(_learner(config(plan), plan, first, int8=int8))


def _at_l0(config: Callable[[Plan], GradientConfig]) -> Maker:
    """As `_maker`, with a bias that starts at the wanted L0."""

    def make(plan: Plan, first: Batch) -> Trainee:
        learner = _learner(config(plan), plan, first)
        dictionary = learner.dictionary
        assert isinstance(dictionary, LinearDictionary)
        assert isinstance(dictionary.rule, ElementwiseRule)
        z = (first.x[:64] - dictionary.x_mean) / dictionary.x_scale
        thresholds = dictionary.rule.bounds(dictionary)
        scores = dictionary.all_scores(z) - (0.0 if thresholds is None else thresholds)
        aim_at_l0_(dictionary.b_enc, scores.detach(), plan.k)
        return _trainee(learner)

    return make


def _topk(plan: Plan) -> TopKSAEConfig:
    return TopKSAEConfig(n_features=plan.n_features, k=plan.k)


def _topk_transcoder(plan: Plan) -> TopKTranscoderConfig:
    return TopKTranscoderConfig(n_features=plan.n_features, k=plan.k)


def _codebook(plan: Plan) -> CodebookConfig:
    return CodebookConfig(n_codes=plan.n_features, k=plan.k)


OURS = Peer(
    "dictlearn",
    "dictlearn",
    {
        Kind.TOPK_SAE: _maker(_topk),
        Kind.BATCHTOPK_SAE: _maker(lambda p: BatchTopKSAEConfig(n_features=p.n_features, k=p.k)),
        Kind.RELU_SAE: _at_l0(lambda p: SAEConfig(n_features=p.n_features)),
        Kind.JUMPRELU_SAE: _at_l0(lambda p: JumpReLUSAEConfig(n_features=p.n_features)),
        Kind.GATED_SAE: _at_l0(lambda p: GatedSAEConfig(n_features=p.n_features)),
        Kind.TOPK_TRANSCODER: _maker(_topk_transcoder),
        Kind.RELU_TRANSCODER: _at_l0(lambda p: TranscoderConfig(n_features=p.n_features)),
        Kind.JUMPRELU_TRANSCODER: _at_l0(
            lambda p: JumpReLUTranscoderConfig(n_features=p.n_features, linear_skip=True)
        ),
        Kind.CODEBOOK: _maker(_codebook),
        Kind.ONE_CODE: _maker(
            lambda p: CodebookConfig(n_codes=p.n_features, k=1, similarity="euclidean")
        ),
        Kind.RESIDUAL_CODEBOOK: _maker(
            lambda p: ResidualCodebookConfig(n_codes=p.n_features, n_stages=p.k)
        ),
    },
)
OURS_INT8 = Peer(
    "dictlearn, int8 search",
    "dictlearn",
    {
        Kind.TOPK_SAE: _maker(_topk, int8=True),
        Kind.TOPK_TRANSCODER: _maker(_topk_transcoder, int8=True),
        Kind.CODEBOOK: _maker(_codebook, int8=True),
    },
    is_option=True,
)
