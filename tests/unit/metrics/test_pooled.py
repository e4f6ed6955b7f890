import math

import pytest
import torch

from dictlearn.core.errors import InputError
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.metrics import reconstruction, rows
from dictlearn.metrics.pooled import METRICS, SUMS, pooled_metrics

NAMES = [
    "l0",
    "l1",
    "dead_fraction",
    "fraction_variance_unexplained",
    "massive_fraction",
    "fraction_variance_unexplained_typical",
    "explained_variance",
    "cosine",
    "norm_ratio",
    "cross_entropy_clean",
    "cross_entropy_spliced",
    "loss_recovered_zero",
    "loss_recovered_mean",
    "loss_recovered_resample",
    "kl",
    "kl_recovered_zero",
    "top1_agreement",
]
VARIANCE = ["fraction_variance_unexplained", "explained_variance"]
BY_NAME = {metric.name: metric for metric in METRICS}
DENSITY = torch.tensor([0.5, 0.0, 1.0, 0.0])


def totals(**changes: float) -> dict[str, torch.Tensor]:
    numbers = {
        "rows": 10, "l0": 30, "l1": 45, "squared_error": 20, "variance": 80, "cosine": 9,
        "typical_rows": 8, "typical_variance": 10, "typical_squared_error": 6,
        "norm": 50, "norm_hat": 40, "predictions": 8, "cross_entropy_clean": 16,
        "cross_entropy_spliced": 20, "cross_entropy_zero": 48, "cross_entropy_mean": 36,
        "cross_entropy_resample": 24, "kl": 4, "kl_zero": 40, "top1_agreement": 6,
    }  # fmt: skip
    return {name: torch.tensor(float(x)) for name, x in (numbers | changes).items()}


def test_every_metric_by_hand_and_in_order():
    metrics = pooled_metrics(totals(), DENSITY)
    assert list(metrics) == NAMES
    expected = [
        3,
        4.5,
        0.5,
        0.25,
        0.2,
        0.6,
        0.75,
        0.9,
        0.8,
        2,
        2.5,
        28 / 32,
        16 / 20,
        4 / 8,
        0.5,
        0.9,
        0.75,
    ]
    assert [m.value for m in metrics.values()] == pytest.approx(expected)
    assert all(m.reason == "" for m in metrics.values())


def test_the_sums_are_exactly_those_that_metrics_use():
    used = set().union(*(metric.sums for metric in METRICS if metric.name != "dead_fraction"))
    assert used == set(SUMS) == set(totals())


def test_rare_things_have_no_interval():
    assert [m.name for m in METRICS if not m.resampled] == ["dead_fraction", "massive_fraction"]


def test_bad_estimates_are_not_clipped():
    bad = totals(squared_error=200, norm_hat=100, cross_entropy_spliced=80, kl=60, cosine=-10)
    value = {name: m.value for name, m in pooled_metrics(bad, DENSITY).items()}
    assert value["fraction_variance_unexplained"] == 2.5
    assert value["explained_variance"] == -1.5
    assert value["norm_ratio"] == 2
    assert value["loss_recovered_zero"] == -1
    assert value["kl_recovered_zero"] == -0.5
    assert value["cosine"] == -1


@pytest.mark.parametrize(
    ("changes", "undefined", "reason"),
    [
        ({"variance": 0}, VARIANCE, "the target is constant"),
        ({"typical_variance": 0}, ["fraction_variance_unexplained_typical"], "is constant"),
        ({"norm": 0}, ["norm_ratio"], "every target is zero"),
        ({"cross_entropy_zero": 16}, ["loss_recovered_zero"], "nothing to recover"),
        ({"cross_entropy_mean": 16}, ["loss_recovered_mean"], "nothing to recover"),
        ({"cross_entropy_resample": 16}, ["loss_recovered_resample"], "nothing to recover"),
        ({"kl_zero": 0}, ["kl_recovered_zero"], "does not change the predictions"),
        ({"rows": 0}, ["l0", "l1", "dead_fraction", "massive_fraction", "cosine"], "no rows"),
        (
            {"predictions": 0},
            ["cross_entropy_clean", "cross_entropy_spliced", "kl", "top1_agreement"],
            "no next-token predictions",
        ),
        ({"kl": math.inf}, ["kl", "kl_recovered_zero"], "not finite"),
        ({"variance": math.inf}, VARIANCE, "not finite"),
    ],
)
def test_undefined_values_are_nan_with_a_reason(changes, undefined, reason):
    metrics = pooled_metrics(totals(**changes), DENSITY)
    missing = {name: m for name, m in metrics.items() if math.isnan(m.value)}
    assert list(missing) == undefined
    assert all(reason in m.reason for m in missing.values())
    assert all(m.reason == "" for name, m in metrics.items() if name not in missing)


def test_leading_axes_are_resamples():
    single, double = totals(), totals(squared_error=40, cross_entropy_zero=16, rows=20)
    batch = {name: torch.stack([single[name], double[name]]) for name in SUMS}
    for metric in METRICS:
        if metric.resampled:
            expected = torch.stack([metric(single), metric(double)])
            torch.testing.assert_close(metric(batch), expected, equal_nan=True)


def test_pooling_is_a_ratio_of_sums_and_not_a_mean_of_ratios():
    squared_error, variance = torch.tensor([1.0, 1.0]), torch.tensor([1.0, 9.0])
    pooled = BY_NAME["fraction_variance_unexplained"](
        {"squared_error": squared_error.sum(), "variance": variance.sum()}
    )
    assert pooled.item() == pytest.approx(0.2)


def test_pooled_sums_agree_with_whole_tensor_functions():
    generator = torch.Generator().manual_seed(0)
    y, y_hat = torch.randn(2, 40, 6, generator=generator).double()
    acts = SparseActs.from_dense(torch.randn(40, 12, generator=generator).double().relu())
    logits = torch.randn(3, 40, 9, generator=generator).double()
    targets = torch.randint(9, (40,), generator=generator)
    clean, spliced, zero = (rows.cross_entropy(x, targets) for x in logits)
    sums = {
        "rows": torch.ones(40), "l0": rows.l0(acts), "l1": rows.l1(acts),
        "squared_error": rows.squared_error(y, y_hat),
        "variance": rows.squared_error(y, y.mean(dim=0).expand_as(y)),
        "cosine": rows.cosine_similarity(y, y_hat),
        "norm": rows.squared_norm(y).sqrt(), "norm_hat": rows.squared_norm(y_hat).sqrt(),
        "predictions": torch.ones(40), "cross_entropy_clean": clean,
        "cross_entropy_spliced": spliced, "cross_entropy_zero": zero,
        "kl": rows.kl_divergence(logits[0], logits[1]),
    }  # fmt: skip
    pooled = {**totals(), **{name: per_row.sum() for name, per_row in sums.items()}}
    metrics = pooled_metrics(pooled, acts.firing_counts() / 40)
    fvu = reconstruction.fraction_variance_unexplained(y, y_hat)
    expected = {
        "fraction_variance_unexplained": fvu, "explained_variance": 1 - fvu,
        "cosine": sums["cosine"].mean(), "norm_ratio": sums["norm_hat"].sum() / sums["norm"].sum(),
        "dead_fraction": (acts.firing_counts() == 0).float().mean(),
        "loss_recovered_zero": (zero - spliced).mean() / (zero - clean).mean(),
        "kl": sums["kl"].mean(),
    }  # fmt: skip
    for name, value in expected.items():
        assert metrics[name].value == pytest.approx(float(value)), name


def test_an_absent_sum_is_named():
    short = totals()
    del short["kl_zero"]
    with pytest.raises(InputError, match="the sum 'kl_zero' is required"):
        pooled_metrics(short, DENSITY)


def test_no_features_have_no_dead_fraction():
    metric = pooled_metrics(totals(), torch.empty(0))["dead_fraction"]
    assert math.isnan(metric.value)
    assert "no features" in metric.reason
