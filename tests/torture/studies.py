"""The smallest study that writes every file that a study can write."""

import dictlearn as dl
from dictlearn.studies.study import MLP, Study


def tiny() -> Study:
    """Two kinds, two seeds."""
    return Study(
        name="tiny",
        question="Does a killed study end as if it had not been killed?",
        learned={
            "codes": dl.CodebookConfig(n_codes=32, k=4),
            "topk": dl.TopKSAEConfig(n_features=32, k=4),
        },
        baselines={"mean": dl.MeanConfig()},
        randoms_with=32,
        fit=dl.FitConfig(
            steps=8, batch_size=64, standardize_rows=128, log_every=2, checkpoint_every=3
        ),
        places=(MLP(0),),
        seeds=(0, 1),
        train_tokens=600,
        held_out_tokens=600,
        bits=True,
        inspected=("codes", "topk"),
        n_cards=1,
        concept_tokens=600,
    )


STUDIES = {"tiny": tiny}
