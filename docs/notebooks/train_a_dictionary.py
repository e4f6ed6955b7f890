# %% [markdown]
# # Train a dictionary
#
# From a language model and a text to a dictionary of features at any hook point, its quality, and
# a file. Everything here is small and runs on one CPU core in less than a minute; the last section
# says what to change for results worth looking at.

# %%
import dictlearn as dl
from dictlearn.lm.hooks import hook_names

# %% [markdown]
# A model is the built-in one, a Hugging Face id, a local folder, or a TransformerLens model that
# is loaded already. Its hooks have the names that TransformerLens gives them.

# %%
model = dl.load_model("builtin:stories")
[name for name in hook_names(model) if name.startswith("blocks.2.hook")]

# %% [markdown]
# Text becomes blocks of tokens, and every document belongs to one split for good: nothing that is
# evaluated below was trained on.

# %%
train = dl.load_tokens("builtin:stories", model, n_tokens=40_000)
held_out = dl.load_tokens("builtin:stories", model, split="held_out", n_tokens=4_000)

# %% [markdown]
# Harvest the activations at one hook. With `out="runs/resid2"` they are kept on disk, so that the
# model need not run again. `dl.mlp_sites(model, 2)` in the place of `hook_sites` gives what an MLP
# reads beside what it writes, which transcoders need.

# %%
sites = dl.hook_sites(model, "blocks.2.hook_resid_post")
activations = dl.harvest(model, train, sites)

# %% [markdown]
# The config is the method: exchange it and nothing else. `dictlearn kinds` on the command line
# lists all of them.

# %%
config = dl.TopKSAEConfig(n_features=512, k=16)
dictionary = dl.fit(config, activations, dl.FitConfig(steps=300, batch_size=512))

# %% [markdown]
# How much of the activation the features explain, and how much of the model's loss survives when
# their estimate takes its place. One number never stands alone: 16 principal components, which
# cost nothing to learn, are what the 16 features of a token have to beat.

# %%
pca = dl.fit(dl.PCAConfig(k=16), activations, dl.FitConfig(steps=100, batch_size=512))
records = dl.evaluate({"topk": dictionary, "pca": pca}, model, held_out)
columns = ["l0", "fraction_variance_unexplained", "loss_recovered_zero", "dead_fraction"]
records.to_pandas()[columns]

# %% [markdown]
# What the features are about: the strongest contexts of a few of them, spread over how often
# they are active. `dl.show(dictionary, 17, model, held_out)` shows those that you name.

# %%
cards = dl.describe_features({"topk": dictionary}, model, held_out, 4, n_contexts=3)
cards.to_pandas()[["feature", "density", "top_context", "promoted"]]

# %% [markdown]
# A dictionary is a folder with a config and weights, read back as it was.

# %%
dl.save(dictionary, "runs/topk")
again = dl.load("runs/topk")
rows = activations.rows(seed=0, step=0, n=4).batch(sites)
assert again(rows.x).equal(dictionary(rows.x))

# %% [markdown]
# ## Larger
#
# * **Tokens**: 500,000 for a first real run, tens of millions for a paper. `out=` puts them on
#   disk; where the disk is too small, `dl.harvest` can also read the model while training.
# * **Steps**: 2,000 with a batch of 1,024 at least; the learning rate of each kind is set for that.
# * **Features**: 8 to 32 times the width of the hook.
# * **Model**: `dl.load_model("EleutherAI/pythia-160m-deduped")`, and your own text file in
#   `dl.load_tokens("corpus.txt", model)`.
# * **Device**: `dl.FitConfig(device="cuda")`.
