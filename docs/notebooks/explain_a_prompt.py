# %% [markdown]
# # Explain a prompt
#
# Train transcoders for all MLPs of a small model, and find out by which of their features, at which
# tokens, it prefers " She" to " He" after a sentence about Lily. Takes less than a minute on one
# core.

# %%
import dictlearn as dl
from dictlearn.circuits.paths.path import paths_to_pandas

model = dl.load_model("builtin:stories")
tokens = dl.load_tokens("builtin:stories", model, n_tokens=40_000)
sites = {f"mlp{layer}": dl.mlp_sites(model, layer) for layer in range(4)}
activations = dl.harvest(model, tokens, list(sites.values()))
configs = {name: dl.TopKTranscoderConfig(n_features=512, k=16) for name in sites}
transcoders = dl.fit(configs, activations, dl.FitConfig(steps=200, batch_size=512), sites=sites)

# %% [markdown]
# ## Attribute
#
# Attention patterns, the scales of norms and the choice of active features are held at their
# values on the prompt. The model is then linear between features, so the difference of the two
# logits is a sum over nodes: features, tokens, errors of transcoders, and constants. The
# replacement score is the part of the influence that goes through features rather than errors.

# %%
prompt = "One day, Lily went to the park."
target = dl.LogitDifference(" She", " He")
graph = dl.attribute(model, prompt, transcoders, target, n_features=256)
graph.scores()

# %%
nodes = graph.nodes_to_pandas().query("kind == 'feature'").copy()
nodes["effect"] = graph.total_effects()[0, nodes.index].numpy()
top = nodes.nlargest(4, "effect")
top[["name", "value", "influence", "effect"]]

# %% [markdown]
# ## Look at it
#
# Tokens are from left to right, layers from below. The four features of the largest predicted
# effect are pinned as one group; select a node to see its edges, and more nodes to group.

# %%
graph = graph.grouped({"she": list(top.index)})
graph.show(title="Lily: she or he", node_share=0.6)

# %% [markdown]
# ## Remove the four features
#
# A graph predicts; an intervention tests. `predicted` is the negative sum of total effects, in
# which a path through two of the four counts twice; `held` is the change of the logit difference
# with attention patterns and norms held, `actual` that in the model itself.

# %%
for hold in (True, False):
    change = dl.removal_effects(model, graph, transcoders, target, [list(top.index)], hold=hold)
    print("held" if hold else "actual", change.item())
print("predicted", -top["effect"].sum())

# %% [markdown]
# ## Paths
#
# By which routes they act, attention heads included.

# %%
paths = dl.greedy_paths(model, prompt, transcoders, target, iterations=3, width=10)
paths_to_pandas(paths)[["path", "attribution"]].head()

# %% [markdown]
# ## Larger experiments
#
# One prompt proves little: [the pronoun's circuit](../results/circuit.md) has eight prompts,
# several seeds, longer training, and random features beside the chosen ones.
