from dataclasses import replace

import pytest

import dictlearn as dl
from dictlearn.builtin_studies import STUDIES
from dictlearn.core.errors import ConfigError
from dictlearn.core.own_files import OwnFiles
from dictlearn.experiments.experiment import Experiment
from dictlearn.studies.folder import STUDY
from dictlearn.studies.inputs import Inputs
from dictlearn.studies.study import MLP, Hook, RateSearch, Study
from dictlearn.studies.training import Training

SMALL = Study(
    name="small",
    question="Is it small?",
    learned={"topk": dl.TopKSAEConfig(n_features=8, k=2)},
    baselines={"mean": dl.MeanConfig()},
    fit=dl.FitConfig(steps=1),
    places=(MLP(1), Hook("blocks.0.hook_resid_post")),
)

TWO = {f"topk_{k}": dl.TopKSAEConfig(n_features=8, k=k) for k in (2, 4)}


@pytest.mark.parametrize("name", STUDIES)
def test_the_studies_describe_themselves(name):
    study = STUDIES[name]()
    described = study.to_dict()
    assert STUDIES[name].__doc__
    assert study.name == name
    if isinstance(study, Experiment):
        assert type(study).from_dict(described) == study
        return
    assert described["learned"].keys() == study.learned.keys()
    assert all("kind" in config for config in described["learned"].values())


def test_families_are_compared_at_several_sparsities_and_three_seeds():
    study = STUDIES["families"]()
    kinds = [config.kind for config in study.learned.values()]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "codebook": 3, "topk_sae": 3, "topk_transcoder": 3, "sae": 4, "transcoder": 4
    }  # fmt: skip
    assert study.lengths == (1500, 3000, 6000)
    assert study.seeds == (0, 1, 2)
    assert study.bits
    assert STUDIES["families"](steps=4).lengths == (1, 2, 4)
    with pytest.raises(ConfigError, match=r"required steps \(--steps\) of 4 or more, got 3"):
        STUDIES["families"](steps=3)


def test_what_changes_the_numbers_is_in_the_description():
    same = replace(SMALL, learned=dict(SMALL.learned))
    assert same.to_dict() == SMALL.to_dict()
    for change in (
        {"seeds": (0, 1)},
        {"places": (MLP(1),)},
        {"bits": True},
        {"fit": dl.FitConfig(steps=2)},
        {"held_out_tokens": 7},
        {"learned": TWO, "search": RateSearch(learning_rates=(1e-3,))},
        {"learned": {"topk": dl.TopKSAEConfig(n_features=8, k=3)}},
    ):
        assert replace(SMALL, **change).to_dict() != SMALL.to_dict(), change


def test_impossible_studies_are_refused():
    with pytest.raises(ConfigError, match="did you mean 'topk'"):
        replace(SMALL, inspected=("topc",))
    with pytest.raises(ConfigError, match="two dictionaries named 'topk'"):
        replace(SMALL, baselines={"topk": dl.MeanConfig()})
    with pytest.raises(ConfigError, match="belongs to `learned`"):
        replace(SMALL, baselines={"sae": dl.SAEConfig(n_features=8)})
    with pytest.raises(ConfigError, match="needs dictionaries, places and seeds"):
        replace(SMALL, seeds=())


def test_impossible_searches_are_refused():
    search = RateSearch(learning_rates=(1e-3, 1e-2, 1e-1, 1.0))
    assert search.around(1e-3) == (1e-3, 1e-2)
    assert search.around(1e-2) == (1e-3, 1e-2, 1e-1)
    assert search.around(1.0) == (1e-1, 1.0)
    with pytest.raises(ConfigError, match="ascending, got"):
        RateSearch(learning_rates=(1e-2, 1e-3))
    with pytest.raises(ConfigError, match="needs learning rates"):
        RateSearch(learning_rates=())
    with pytest.raises(ConfigError, match=r"'topk' of study 'small': .* two dictionaries or more"):
        replace(SMALL, search=search)
    with pytest.raises(ConfigError, match=r"must be below the 1 steps"):
        replace(SMALL, learned=TWO, search=replace(search, shorter=(1,)))


def test_runs_at_one_learning_rate_are_not_named_by_it(tmp_path):
    for places, names in ((SMALL.places[:1], {""}), (SMALL.places, set(map(str, SMALL.places)))):
        study = replace(SMALL, fit=dl.FitConfig(steps=1, learning_rate=3e-3), places=places)
        training = Training(Inputs(study, OwnFiles(tmp_path, STUDY)))
        assert training.logs().keys() == names


def test_places_of_a_search_have_different_targets(tmp_path):
    hook = "blocks.1.mlp.hook_out"
    search = RateSearch(learning_rates=(1e-3,))
    study = replace(SMALL, learned=TWO, search=search, places=(MLP(1), Hook(hook)))
    with pytest.raises(ConfigError, match=f"got {hook}, {hook}; study them one by one"):
        Inputs(study, OwnFiles(tmp_path, STUDY)).source()
