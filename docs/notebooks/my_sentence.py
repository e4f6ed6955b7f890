# %% [markdown]
# # Features on my sentence
#
# Three families at two sparsities, on one MLP of the built-in model: which of their features are
# active on a sentence of one's own, what one of them is, which feature of another family is its
# twin, and how much of the loss they recover: ten lines. Sizes are small, for about a minute on one
# core.

# %%
import dictlearn as dl

model = dl.load_model("builtin:stories")
train, test = (dl.load_tokens("builtin:stories", model, s, 10_000) for s in ("train", "held_out"))
configs = dl.sweep(dl.CodebookConfig, n_codes=256, k=[4, 8])
configs |= dl.sweep(dl.TopKSAEConfig, dl.TopKTranscoderConfig, n_features=256, k=[4, 8])
trained = dl.fit(configs, dl.harvest(model, train, dl.mlp_sites(model, 1)), dl.FitConfig(steps=30))

# %% [markdown]
# The strongest features of each dictionary. Strengths are in raw units of each dictionary, so they
# compare within a dictionary, not between them. A code is chosen or not: all have strength 1, and
# the codes shown are the first of those chosen.

# %%
(active := dl.activating(trained, model, "Lily and Tom went to the park to play.", n_features=2))

# %% [markdown]
# The card of the strongest feature of one sparse autoencoder: where else it is active, and what it
# promotes.

# %%
dl.show(trained["topk_sae_k8"], active.of("topk_sae_k8")[0].feature, model, test)

# %% [markdown]
# Its twins: the feature of each other dictionary whose coefficient correlates most with its own
# over the held-out tokens, and the one with the nearest atom.

# %%
dl.features(trained, model, test).loc["topk_sae_k8", active.of("topk_sae_k8")[0].feature]

# %% [markdown]
# The sweep: how much of the loss each dictionary recovers, against its number of active features.

# %%
dl.plot.rate_distortion(dl.evaluate(trained, model, test), "l0", "loss_recovered_zero")
