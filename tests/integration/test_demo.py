"""The main job at full size: what the project promises of it. It takes minutes."""

import pytest

from dictlearn.demo import BASELINES, DemoSize, demo_study, learned_kinds
from dictlearn.studies.run import run_study


@pytest.mark.slow
def test_the_demo_keeps_its_promises(tmp_path):
    frame = run_study(demo_study(), tmp_path).to_pandas()
    learned = list(learned_kinds(DemoSize().n_features))
    randoms = frame[frame.index.str.startswith("random_k")]
    assert set(frame.index) == {*learned, *BASELINES, *randoms.index}
    for exact in ("neurons", "identity"):
        assert frame.loc[exact, "loss_recovered_zero"] == pytest.approx(1, abs=1e-4)
        assert frame.loc[exact, "fraction_variance_unexplained"] <= 1e-6
    assert frame.loc["mean", "explained_variance"] == pytest.approx(0, abs=2e-3)
    assert frame.loc["mean", "loss_recovered_mean"] == pytest.approx(0, abs=5e-3)
    for name in learned:
        equal = randoms[randoms.l0 >= frame.loc[name, "l0"]].sort_values("l0").iloc[0]
        for metric in ("loss_recovered_zero", "explained_variance", "kl_recovered_zero"):
            assert frame.loc[name, metric] > equal[metric], (name, metric)
    for name in ("sae", "transcoder"):
        assert frame.loc[name, "l0"] <= 40
        assert frame.loc[name, "loss_recovered_zero"] >= 0.90
