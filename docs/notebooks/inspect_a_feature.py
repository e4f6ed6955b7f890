# %% [markdown]
# # Inspect a feature
#
# Find the feature that stands for a concept, look at where it is active and what it writes, and
# see what another dictionary has in its place. Less than a minute on one core.

# %%
import dictlearn as dl

model = dl.load_model("builtin:stories")
train = dl.load_tokens("builtin:stories", model, n_tokens=40_000)
held_out = dl.load_tokens(
    "builtin:stories", model, split="held_out", n_tokens=8_000, whole_documents=True
)
activations = dl.harvest(model, train, dl.mlp_sites(model, 1))
configs = {
    "topk": dl.TopKSAEConfig(n_features=512, k=16),
    "codes": dl.CodebookConfig(n_codes=512, k=8),
}
dictionaries = dl.fit(configs, activations, dl.FitConfig(steps=200, batch_size=512))

# %% [markdown]
# ## Find it
#
# A concept is a regular expression. Features and thresholds are chosen on one half of the held-out
# sequences and scored on the other, beside the best of the model's own neurons.

# %%
concepts = [
    dl.Concept("speech verb", r"\b(?:said|asked|replied|shouted)\b"),
    dl.Concept("she", r"\b[Ss]he\b"),
    dl.Concept("full stop", r"\."),
]
found = dl.evaluate_concepts(dictionaries, model, held_out, concepts, n_resamples=100)
scores = found.to_pandas()
scores = scores[scores.family.isin(["features", "neurons"])]
scores[["concept", "dictionary", "family", "candidate", "recall", "precision", "precision_low"]]

# %% [markdown]
# ## Look at it
#
# The feature of the first dictionary that finds speech verbs best. A card shows its strongest
# contexts, at most one from each sequence, shaded by how active it is; the tokens that it promotes
# and suppresses, by its direct effect on the logits; and the features of the other dictionary
# whose directions are nearest.

# %%
best = scores.query("dictionary == 'topk' and concept == 'speech verb' and family == 'features'")
feature = int(best.candidate.iloc[0])
card = dl.show(dictionaries, feature, model, held_out, n_contexts=8)
card

# %% [markdown]
# The strongest contexts flatter a feature: they say nothing of where it is weakly active. Its
# precision and recall above do. And a direct effect is only a part of what it does: later layers
# read it too.

# %% [markdown]
# ## Look at its neighbour
#
# A high cosine says that the two write in the same direction, not that they are active together:
# look at both.

# %%
neighbor = card.records.cards[0].nearest[0]
other = {neighbor.dictionary: dictionaries[neighbor.dictionary], **dictionaries}
dl.show(other, neighbor.feature, model, held_out, n_contexts=4)

# %% [markdown]
# ## Look at many
#
# Features that were looked for are no fair picture of a dictionary. A sample, drawn by the same
# rule from every dictionary and spread over how often features are active, is fairer.

# %%
sample = dl.describe_features(dictionaries, model, held_out, 4, n_contexts=4)
sample.save("runs/features")
sample

# %% [markdown]
# ## Larger
#
# With 500,000 training tokens and 2,000 steps features get clearer; with 200,000 held-out tokens
# rare ones have contexts at all. `describe_features` keeps only the best contexts of each feature,
# so that neither the tokens nor the width of a dictionary has to fit in memory as a table.
