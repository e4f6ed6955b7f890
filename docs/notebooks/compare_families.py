# %% [markdown]
# # Compare families
#
# A codebook, a sparse autoencoder and a transcoder on one MLP: the same activations, the same
# batches, the same held-out tokens, so that the numbers can be compared. Small sizes, less than a
# minute on one core; the last section says what to change.

# %%
import dictlearn as dl
from dictlearn.comparison.figures.rates import sparsity_figure
from dictlearn.comparison.report.html import write_report
from dictlearn.comparison.statistics.intervals import differences_frame, intervals_frame

model = dl.load_model("builtin:stories")
train = dl.load_tokens("builtin:stories", model, n_tokens=40_000)
held_out = dl.load_tokens("builtin:stories", model, split="held_out", n_tokens=4_000)
activations = dl.harvest(model, train, dl.mlp_sites(model, 1))

# %% [markdown]
# One harvest serves all: a transcoder reads what the MLP reads, the others read and write what it
# writes. Principal components, the mean and the MLP's own neurons stand beside them. Without such
# baselines no number below means much.

# %%
configs = {
    "codes": dl.CodebookConfig(n_codes=512, k=8),
    "topk": dl.TopKSAEConfig(n_features=512, k=16),
    "transcoder": dl.TopKTranscoderConfig(n_features=512, k=16),
    "pca": dl.PCAConfig(k=16),
    "mean": dl.MeanConfig(),
    "neurons": dl.NeuronsConfig(),
}
dictionaries = dl.fit(configs, activations, dl.FitConfig(steps=200, batch_size=512))

# %% [markdown]
# ## The table
#
# Sparsity stands beside quality: L0 is the number of active features of a token. A code is only on
# or off, where a feature of the others has a strength too: equal L0 is not an equal price.

# %%
records = dl.evaluate(dictionaries, model, held_out)
columns = ["l0", "dead_fraction", "fraction_variance_unexplained", "loss_recovered_zero"]
records.to_pandas()[columns]

# %% [markdown]
# Intervals come from resampled sequences. Differences are paired, sequence by sequence, which
# tells apart what two separate intervals leave open.

# %%
intervals_frame(records).loc["codes"]

# %%
differences_frame(records, "loss_recovered_zero", reference="pca")

# %% [markdown]
# ## The figure
#
# Left and up is better: fewer active features, more of the loss recovered.

# %%
sparsity_figure(records, "loss_recovered_zero")

# %% [markdown]
# The same and more in one HTML file that opens without a network. The records themselves can be
# saved and compared later without any model: `records.save("runs/families")`.

# %%
write_report(records, "runs/families.html")

# %% [markdown]
# ## Larger
#
# One point a family is not a comparison: families differ in how quality falls with sparsity. Train
# each at several sparsities (`k=4, 8, 16, 32`) and several seeds (`FitConfig(seed=...)`), with
# 500,000 tokens and 2,000 steps or more, and evaluate on 50,000 held-out tokens. `dl.fit` takes as
# many configs as memory has room for, and the figure then shows curves.
