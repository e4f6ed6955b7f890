"""Top-k transcoder, with a linear skip on request.

Paulo, Shabalin and Belrose 2025, "Transcoders Beat Sparse Autoencoders for Interpretability",
section 3 (skip transcoders); the selection is that of Gao et al. 2024.
"""

from dataclasses import dataclass

from dictlearn.core.sites import Sites
from dictlearn.dictionaries.topk_sae import TopK, TopKFields
from dictlearn.dictionaries.transcoder import LinearSkip


class TopKTranscoder(TopK):
    """`acts` = the `k` largest positive entries of `z @ W_enc + b_enc`."""


class SkipTopKTranscoder(LinearSkip, TopKTranscoder):
    """A top-k transcoder beside a linear map."""


@dataclass(frozen=True, kw_only=True)
class TopKTranscoderConfig(TopKFields[TopKTranscoder]):
    """A map from source to target through the k largest features of each row."""

    kind = "topk_transcoder"
    linear_skip: bool = False
    """Whether a linear map from source to target stands beside the features."""

    def sites(self, offered: Sites) -> Sites:
        """The sites as offered: source and target may differ."""
        return offered

    def _build(self, sites: Sites, seed: int) -> TopKTranscoder:
        """A fresh transcoder at `sites`."""
        maker = SkipTopKTranscoder if self.linear_skip else TopKTranscoder
        return maker(sites, self.n_features, k=self.k, seed=seed)

    @classmethod
    def tiny(cls) -> "TopKTranscoderConfig":
        """The smallest useful instance."""
        return cls(n_features=32, k=4, linear_skip=True)
