"""The built-in kinds. A new kind needs one file and one line here."""

from collections.abc import Sequence

from dictlearn.core.errors import ConfigError, nearest
from dictlearn.core.kinds import DictionaryConfig
from dictlearn.dictionaries.batchtopk_sae import BatchTopKSAEConfig
from dictlearn.dictionaries.batchtopk_transcoder import BatchTopKTranscoderConfig
from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.dictionaries.cross_layer_transcoder import CrossLayerTranscoderConfig
from dictlearn.dictionaries.crosscoder import CrosscoderConfig
from dictlearn.dictionaries.gated_sae import GatedSAEConfig
from dictlearn.dictionaries.ica import ICAConfig
from dictlearn.dictionaries.identity import IdentityConfig
from dictlearn.dictionaries.jumprelu_sae import JumpReLUSAEConfig
from dictlearn.dictionaries.jumprelu_transcoder import JumpReLUTranscoderConfig
from dictlearn.dictionaries.kmeans import KMeansConfig
from dictlearn.dictionaries.matryoshka_sae import MatryoshkaSAEConfig
from dictlearn.dictionaries.mean import MeanConfig
from dictlearn.dictionaries.neurons import NeuronsConfig
from dictlearn.dictionaries.pca import PCAConfig
from dictlearn.dictionaries.random import RandomConfig
from dictlearn.dictionaries.residual_codebook import ResidualCodebookConfig
from dictlearn.dictionaries.sae import SAEConfig
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.dictionaries.topk_transcoder import TopKTranscoderConfig
from dictlearn.dictionaries.transcoder import TranscoderConfig

KINDS: tuple[type[DictionaryConfig], ...] = (
    CodebookConfig,
    ResidualCodebookConfig,
    SAEConfig,
    TopKSAEConfig,
    BatchTopKSAEConfig,
    MatryoshkaSAEConfig,
    JumpReLUSAEConfig,
    GatedSAEConfig,
    TranscoderConfig,
    TopKTranscoderConfig,
    BatchTopKTranscoderConfig,
    JumpReLUTranscoderConfig,
    CrosscoderConfig,
    CrossLayerTranscoderConfig,
    NeuronsConfig,
    PCAConfig,
    ICAConfig,
    KMeansConfig,
    RandomConfig,
    IdentityConfig,
    MeanConfig,
)


def config_class(kind: str, own: Sequence[type[DictionaryConfig]] = ()) -> type[DictionaryConfig]:
    """The config class of `kind`, among the registered ones and the caller's `own`.

    Raises:
        ConfigError: there is none; the nearest names are suggested.
    """
    known = {config.kind: config for config in (*KINDS, *own)}
    if kind not in known:
        raise ConfigError(
            f"unknown kind {kind!r}; {nearest(kind, known)} (in Python, a kind of your own is "
            "passed by its config class: kinds=[MyConfig])"
        )
    return known[kind]
