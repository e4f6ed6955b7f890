"""Figures of results and of single features, as plotly figures: `dl.plot.rate_distortion(records)`.

Those of records are the figures of reports.
"""

import numpy as np
import plotly.graph_objects as go
import torch

from dictlearn.comparison.figures.agreement import agreement_figure as agreement
from dictlearn.comparison.figures.density import density_figure as density
from dictlearn.comparison.figures.rates import rate_distortion_figure as rate_distortion
from dictlearn.comparison.figures.style import COLOURS, plain, stacked
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.tokens import Tokens
from dictlearn.evaluation.origins import require_fitting
from dictlearn.evaluation.stream.activations import ActivationStream
from dictlearn.lm.forward import default_batch_size
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.sites import require_readable
from dictlearn.progress import progress as progress_bar

__all__ = ["activations", "agreement", "density", "rate_distortion"]

_BINS = 40


@torch.no_grad()
def activations(
    dictionary: FeatureDictionary,
    feature: int,
    model: LanguageModel,
    tokens: Tokens,
    *,
    exclude_special: bool = True,
    allow_other_model: bool = False,
    progress: bool = True,
) -> go.Figure:
    """Histogram of the coefficients of one feature over the tokens at which it is active.

    Coefficients are in raw units of the dictionary. The heading has the number of tokens that are
    counted, at which the feature is active.

    Args:
        dictionary: the dictionary that has the feature.
        feature: its index.
        model: the language model that the dictionary was trained on.
        tokens: normally of the held-out split.
        exclude_special: leave out special tokens (BOS, EOS, padding).
        allow_other_model: also take a dictionary of another model.
        progress: show a progress bar.

    Raises:
        InputError: there is no such feature, or the dictionary does not fit the model.
        ProvenanceError: it was trained on another model, and `allow_other_model` is off.
        NonFiniteError: activations hold NaN or infinity.
    """
    kind, n_features = dictionary.kind, dictionary.n_features
    require_readable(model, tokens)
    require_fitting({kind: dictionary}, model, allow_other_model=allow_other_model)
    if not 0 <= feature < n_features:
        raise InputError(f"required a feature from 0 to {n_features - 1}, got {feature}")
    counted = tokens.counted(exclude_special=exclude_special)
    at_once = default_batch_size(model, tokens.ids.shape[1])
    stream = ActivationStream(model, tokens.ids, counted, dictionary.sites.source.hooks, at_once)
    wanted = torch.tensor([feature])
    found = []
    with (
        progress_bar("reading activations", len(tokens), show=progress) as done,
        stream.batches() as batches,
    ):
        for batch in batches:
            acts = batch.encode(dictionary)
            column = acts.columns(wanted.to(acts.values.device))[:, 0]
            found.append(column[column != 0].float().cpu())
            done(batch.part.stop)
    values, n = torch.cat(found), int(counted.sum())
    heading = f"{plain(kind)} {feature}: active at {len(values):,} of {n:,} tokens"
    counts, edges = np.histogram(values.numpy(), bins=_BINS)
    bars = go.Bar(
        x=(edges[:-1] + edges[1:]) / 2, y=counts, width=0.92 * np.diff(edges),
        marker={"color": COLOURS[0], "line": {"width": 0}},
        hovertemplate="%{y:,} tokens near %{x:.3g}<extra></extra>",
    )  # fmt: skip
    return stacked([(heading, bars)], "coefficient where active", each=220)
