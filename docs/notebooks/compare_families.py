# %% [markdown]
# # Compare families
#
# A codebook, a sparse autoencoder and a transcoder on one MLP, with the same activations, batches
# and held-out tokens, so that the numbers are comparable. The sizes are small, for less than a
# minute on one core; the last section says what to change.

# %%
import dictlearn as dl
from dictlearn.comparison.figures.rates import rate_distortion_figure
from dictlearn.comparison.report.html import write_report
from dictlearn.comparison.statistics.intervals import differences_frame, intervals_frame

model = dl.load_model("builtin:stories")
train = dl.load_tokens("builtin:stories", model, n_tokens=40_000)
held_out = dl.load_tokens("builtin:stories", model, split="held_out", n_tokens=4_000)
activations = dl.harvest(model, train, dl.mlp_sites(model, 1))

# %% [markdown]
# All are trained on one harvest: the transcoder maps the input of the MLP to its output, the others
# reconstruct the output. Principal components, the mean and the MLP's own neurons are baselines,
# without which the numbers below are hard to interpret.

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
# Read sparsity and quality together. L0 is the number of active features per token. A code is
# either on or off, while the features of the others also have a magnitude, so at equal L0 a
# codebook uses fewer bits; `dl.evaluate(..., bits=True)` measures these.

# %%
records = dl.evaluate(dictionaries, model, held_out)
columns = ["l0", "dead_fraction", "fraction_variance_unexplained", "loss_recovered_zero"]
records.to_pandas()[columns]

# %% [markdown]
# Confidence intervals are for the variation between sequences. Differences are paired over
# sequences, which is more sensitive than comparing two separate intervals.

# %%
intervals_frame(records).loc["codes"]

# %%
differences_frame(records, "loss_recovered_zero", reference="pca")

# %% [markdown]
# ## The figure
#
# Upper left is better: fewer active features, more of the loss recovered.

# %%
rate_distortion_figure(records, "l0", "loss_recovered_zero")

# %% [markdown]
# The report is one HTML file that needs no network. The records can be saved with
# `records.save("runs/families")` and compared later without a model.

# %%
write_report(records, "runs/families.html")

# %% [markdown]
# ## Larger experiments
#
# For a fair comparison, train each family at several sparsity levels (`k=4, 8, 16, 32`) and with
# several seeds (`FitConfig(seed=...)`), on at least 500,000 tokens for at least 2,000 steps, and
# evaluate on 50,000 held-out tokens. `dl.fit` trains as many configs together as fit in memory, and
# the figure then shows curves.
