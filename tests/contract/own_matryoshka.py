"""A Matryoshka autoencoder as a user would add it: public names only, registered nowhere."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

import dictlearn as dl


@dataclass(frozen=True, kw_only=True)
class MyMatryoshkaConfig(dl.BatchTopKSAEConfig):
    """Batch top-k whose first features also reconstruct without the others."""

    kind = "my_matryoshka"
    prefixes: tuple[int, ...] = (4, 12)
    """Number of features in each prefix."""

    def objective(self) -> dl.Objective:
        """The squared error of each prefix is added to the loss of batch top-k."""
        of_batch_top_k = super().objective()

        def losses(fit_pass: dl.FitPass) -> dict[str, Tensor]:
            dictionary, acts = fit_pass.dictionary, fit_pass.acts
            terms = of_batch_top_k(fit_pass)
            for n in self.prefixes:
                prefix = acts.with_values(acts.values * (acts.indices < n))
                y_hat = (dictionary.decode(prefix) - dictionary.y_mean) / dictionary.y_scale
                terms[f"prefix_{n}"] = mse_loss(y_hat, fit_pass.t)
            return terms

        return losses


def main() -> None:
    """The contract, then one round of harvest, fit, evaluate, save and load."""
    outcomes = dl.check_dictionary(MyMatryoshkaConfig.tiny())
    assert all(outcome == "passed" for outcome in outcomes.values()), outcomes

    model = dl.load_model("builtin:stories")
    train = dl.load_tokens("builtin:stories", model, n_tokens=4_000)
    activations = dl.harvest(model, train, dl.hook_sites(model, "blocks.1.hook_mlp_out"))
    config = MyMatryoshkaConfig(n_features=128, k=8, prefixes=(16, 48))
    mine = dl.fit(config, activations, dl.FitConfig(steps=20, batch_size=256), progress=False)

    held_out = dl.load_tokens("builtin:stories", model, split="held_out", n_tokens=1_000)
    records = dl.evaluate({"mine": mine}, model, held_out, progress=False)
    assert records.dictionaries["mine"].kind == "my_matryoshka"
    assert records.to_pandas().loc["mine", "fraction_variance_unexplained"] < 1

    loaded = dl.load(dl.save(mine, "saved"), kinds=[MyMatryoshkaConfig])
    assert loaded.config == config
    for name, weights in mine.state_dict().items():
        assert torch.equal(weights, loaded.state_dict()[name]), name


if __name__ == "__main__":
    main()
