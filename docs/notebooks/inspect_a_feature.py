# %% [markdown]
# # Inspect a feature
#
# Find the feature that best detects a concept, look at its top activating contexts and its effect
# on the logits, and compare it with the most similar feature of another dictionary. Takes less
# than a minute on one core.

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
# ## Find a feature
#
# A concept is a regular expression. Features and thresholds are selected on one half of the
# held-out sequences and scored on the other half, as are the best of the model's own neurons.

# %%
concepts = [
    dl.Concept("speech verb", r"\b(?:said|asked|replied|shouted)\b"),
    dl.Concept("she", r"\b[Ss]he\b"),
    dl.Concept("full stop", r"\."),
]
found = dl.evaluate_concepts(dictionaries, model, held_out, concepts)
scores = found.to_pandas()
scores = scores[scores.family.isin(["features", "random", "neurons"])]
scores[["concept", "dictionary", "family", "candidate", "average_precision", "precision", "recall"]]

# %% [markdown]
# ## Its card
#
# This is the feature of the first dictionary that detects speech verbs best. Its card shows the
# top activating contexts, at most one per sequence, shaded by activation; the tokens that it
# promotes and suppresses by its direct effect on the logits; and the features of the other
# dictionary with the most similar decoder directions.

# %%
best = scores.query("dictionary == 'topk' and concept == 'speech verb' and family == 'features'")
feature = int(best.candidate.iloc[0])
card = dl.show(dictionaries, feature, model, held_out, n_contexts=8)
card

# %% [markdown]
# Top activating contexts make a feature look more specific than it is, since they do not show weak
# activations; precision and recall above include them. The direct effect on the logits does not
# include effects through later layers.

# %% [markdown]
# ## Its most similar feature
#
# A high cosine similarity means that the two features write in the same direction, not that they
# are active on the same tokens, so look at both.

# %%
neighbor = card.records.cards[0].nearest[0]
other = {neighbor.dictionary: dictionaries[neighbor.dictionary], **dictionaries}
dl.show(other, neighbor.feature, model, held_out, n_contexts=4)

# %% [markdown]
# ## A sample of features
#
# Hand-picked features do not represent a dictionary. Here is a sample, stratified by density and
# drawn in the same way from every dictionary.

# %%
sample = dl.describe_features(dictionaries, model, held_out, 4, n_contexts=4)
sample.save("runs/features")
sample

# %% [markdown]
# ## Larger experiments
#
# With 500,000 training tokens and 2,000 steps, features become more interpretable; with 200,000
# held-out tokens, rare features have contexts too. `describe_features` keeps only the top
# contexts of each feature, so memory does not grow with the number of tokens.
