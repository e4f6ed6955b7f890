# %% [markdown]
# # Features on my sentence
#
# Three families at two sparsities, on one MLP of the built-in model: which of their features are
# active on a sentence of one's own, what one of them is, and which feature of another family is its
# twin. Sizes are small, for about a minute on one core.

# %%
import dictlearn as dl

model = dl.load_model("builtin:stories")
train = dl.load_tokens("builtin:stories", model, n_tokens=20_000)
held_out = dl.load_tokens("builtin:stories", model, split="held_out", n_tokens=4_000)
configs = {f"codes_{k}": dl.CodebookConfig(n_codes=256, k=k) for k in (4, 8)}
configs |= {f"topk_{k}": dl.TopKSAEConfig(n_features=256, k=k) for k in (4, 8)}
configs |= {f"transcoder_{k}": dl.TopKTranscoderConfig(n_features=256, k=k) for k in (4, 8)}
activations = dl.harvest(model, train, dl.mlp_sites(model, 1))
dictionaries = dl.fit(configs, activations, dl.FitConfig(steps=100, batch_size=512))
three = {name: dictionaries[name] for name in configs if name.endswith("_8")}

# %% [markdown]
# The strongest features of each dictionary. Strengths are in raw units of each dictionary, so they
# compare within a dictionary, not between them.

# %%
active = dl.activating(three, model, "Lily and Tom went to the park to play.", n_features=3)
active

# %% [markdown]
# The card of the strongest feature of the sparse autoencoder: where else it is active, and what
# it promotes.

# %%
feature = active.of("topk_8")[0].feature
dl.show({"topk_8": three["topk_8"]}, feature, model, held_out)

# %% [markdown]
# Its twins: the feature of each other dictionary whose coefficient correlates most with its own
# over the held-out tokens, and the one with the nearest atom.

# %%
dl.features(three, model, held_out).loc[("topk_8", feature)]

# %% [markdown]
# The sweep: how much of the loss each dictionary recovers, against its number of active features.

# %%
dl.plot.rate_distortion(dl.evaluate(dictionaries, model, held_out), "l0", "loss_recovered_zero")
