# %% [markdown]
# # Train a dictionary
#
# Train a dictionary at a hook point of a language model, evaluate it, look at its features and save
# it. The sizes are small, for less than a minute on one CPU core; the last section says what to
# change for useful results.

# %%
import dictlearn as dl
from dictlearn.lm.hooks import hook_names

# %% [markdown]
# The model can be the built-in one, a Hugging Face id, a local folder, or a TransformerLens model
# that is already loaded. Hook points have the names that TransformerLens gives them.

# %%
model = dl.load_model("builtin:stories")
[name for name in hook_names(model) if name.startswith("blocks.2.hook")]

# %% [markdown]
# Text is tokenized and cut into blocks. Each document belongs to one split only, so no document is
# used for both training and evaluation.

# %%
train = dl.load_tokens("builtin:stories", model, n_tokens=40_000)
held_out = dl.load_tokens("builtin:stories", model, split="held_out", n_tokens=4_000)

# %% [markdown]
# Harvest the activations at one hook point. With `out="runs/resid2"` they are stored on disk, so
# that the model does not have to run again. For a transcoder, use `dl.mlp_sites(model, 2)`
# instead of `hook_sites`: it gives the input and the output of the MLP.

# %%
sites = dl.hook_sites(model, "blocks.2.hook_resid_post")
activations = dl.harvest(model, train, sites)

# %% [markdown]
# The config determines the method; to use another one, change only the config. `dictlearn kinds` on
# the command line lists all kinds.

# %%
config = dl.TopKSAEConfig(n_features=512, k=16)
dictionary = dl.fit(config, activations, dl.FitConfig(steps=300, batch_size=512))

# %% [markdown]
# Evaluate the fraction of variance unexplained and the loss recovered when the reconstruction
# replaces the activation. Compare with a baseline: 16 active features per token should be better
# than 16 principal components.

# %%
pca = dl.fit(dl.PCAConfig(k=16), activations, dl.FitConfig(steps=100, batch_size=512))
records = dl.evaluate({"topk": dictionary, "pca": pca}, model, held_out)
columns = ["l0", "fraction_variance_unexplained", "loss_recovered_zero", "dead_fraction"]
records.to_pandas()[columns]

# %% [markdown]
# Look at the top activating contexts of a few features, stratified by density. To see a particular
# feature, call `dl.show(dictionary, 17, model, held_out)`.

# %%
cards = dl.describe_features({"topk": dictionary}, model, held_out, 4, n_contexts=3)
cards.to_pandas()[["feature", "density", "top_context", "promoted"]]

# %% [markdown]
# A dictionary is saved as a folder with its config and weights.

# %%
dl.save(dictionary, "runs/topk")
again = dl.load("runs/topk")
rows = activations.rows(seed=0, step=0, n=4).batch(sites)
assert again(rows.x).equal(dictionary(rows.x))

# %% [markdown]
# ## Larger experiments
#
# * **Tokens**: 500,000 for a first experiment, tens of millions for a paper. `out=` stores
#   activations on disk; without it, `dl.harvest` computes them during training.
# * **Steps**: at least 2,000 with a batch size of 1,024; the default learning rates are chosen for
#   this.
# * **Features**: 8 to 32 times the width of the hook point.
# * **Model**: `dl.load_model("EleutherAI/pythia-160m-deduped")`, and your own text file in
#   `dl.load_tokens("corpus.txt", model)`.
# * **Device**: `dl.FitConfig(device="cuda")`.
