"""The names of the package; each is imported when it is first used."""

from . import plot
from .activations.store import ActivationStore
from .active_features import activating
from .blind.case import BlindCase
from .blind.guess import seal_guess
from .blind.reveal import reveal_case
from .blind.show import blind_case
from .circuits.aggregate import GraphAggregate, aggregate_graphs
from .circuits.attention import AttentionScore, explain_attention
from .circuits.attribute import attribute, attribute_all
from .circuits.curves import circuit_curves
from .circuits.graph import CircuitGraph
from .circuits.loadings import head_loadings
from .circuits.paths.graph import paths_to_graph
from .circuits.paths.search import exhaustive_paths, greedy_paths
from .circuits.targets import FeatureTarget, Logit, LogitDifference, TopLogits
from .circuits.validation import compare_effects, removal_effects
from .circuits.weights import de_embedding, pullback, virtual_weights
from .config_files import sweep
from .contract.check import check_dictionary
from .core.batches import Activations
from .core.dictionary import FeatureDictionary, Traits
from .core.kinds import ClosedFormConfig, DictionaryConfig, GradientConfig
from .core.learning import Encoding, FitPass, Objective, TrainableDictionary
from .core.shortcuts import without_shortcuts
from .core.sites import Site, Sites
from .core.sparse_acts import SparseActs
from .core.tokens import Tokens
from .dictionaries.batchtopk_sae import BatchTopKSAEConfig
from .dictionaries.batchtopk_transcoder import BatchTopKTranscoderConfig
from .dictionaries.codebook import CodebookConfig
from .dictionaries.cross_layer_transcoder import CrossLayerTranscoderConfig
from .dictionaries.crosscoder import CrosscoderConfig
from .dictionaries.files import load_all
from .dictionaries.gated_sae import GatedSAEConfig
from .dictionaries.ica import ICAConfig
from .dictionaries.identity import IdentityConfig
from .dictionaries.indexed import FlatIndex, IVFIndex, indexed
from .dictionaries.jumprelu_sae import JumpReLUSAEConfig
from .dictionaries.jumprelu_transcoder import JumpReLUTranscoderConfig
from .dictionaries.kmeans import KMeansConfig
from .dictionaries.matryoshka_sae import MatryoshkaSAEConfig
from .dictionaries.mean import MeanConfig
from .dictionaries.neurons import NeuronsConfig
from .dictionaries.overview import overview
from .dictionaries.pca import PCAConfig
from .dictionaries.random import RandomConfig
from .dictionaries.residual_codebook import ResidualCodebookConfig
from .dictionaries.sae import SAEConfig
from .dictionaries.topk_sae import TopKSAEConfig
from .dictionaries.topk_transcoder import TopKTranscoderConfig
from .dictionaries.transcoder import TranscoderConfig
from .evaluation.agreement.compare_features import compare_features
from .evaluation.cards.describe_features import describe_features
from .evaluation.concepts.evaluate_concepts import evaluate_concepts
from .evaluation.faithfulness.evaluate import evaluate
from .evaluation.joint.evaluate_together import evaluate_together
from .feature_cards import show
from .feature_table import features
from .finetuning.config import FinetuneConfig
from .finetuning.finetune import finetune
from .finetuning.finetuned import Finetuned
from .formats import load, save
from .harvesting import harvest
from .interventions.choice import Activate, Disable
from .interventions.direction import Cap, ProjectOut, Push
from .interventions.edit import Ablate, Add, Clamp, Edit, Scale
from .interventions.features import PassFeatures, Substitute
from .interventions.inside import inside
from .interventions.language import parse_edit, read_edits
from .lm.generation import generate
from .lm.loading import load_model
from .lm.mlps import mlp_sites, mlp_weights
from .lm.native import NativeModelConfig, new_model
from .lm.saving import save_model
from .lm.sites import hook_sites
from .records.agreement import AgreementRecords
from .records.joint import JointRecords
from .records.results import Records
from .reporting import Report, report
from .text.concepts import Concept
from .text.tokens import load_tokens
from .training.config import FitConfig
from .training.fit import fit

__all__ = [
    "Ablate",
    "Activate",
    "ActivationStore",
    "Activations",
    "Add",
    "AgreementRecords",
    "AttentionScore",
    "BatchTopKSAEConfig",
    "BatchTopKTranscoderConfig",
    "BlindCase",
    "Cap",
    "CircuitGraph",
    "Clamp",
    "ClosedFormConfig",
    "CodebookConfig",
    "Concept",
    "CrossLayerTranscoderConfig",
    "CrosscoderConfig",
    "DictionaryConfig",
    "Disable",
    "Edit",
    "Encoding",
    "FeatureDictionary",
    "FeatureTarget",
    "FinetuneConfig",
    "Finetuned",
    "FitConfig",
    "FitPass",
    "FlatIndex",
    "GatedSAEConfig",
    "GradientConfig",
    "GraphAggregate",
    "ICAConfig",
    "IVFIndex",
    "IdentityConfig",
    "JointRecords",
    "JumpReLUSAEConfig",
    "JumpReLUTranscoderConfig",
    "KMeansConfig",
    "Logit",
    "LogitDifference",
    "MatryoshkaSAEConfig",
    "MeanConfig",
    "NativeModelConfig",
    "NeuronsConfig",
    "Objective",
    "PCAConfig",
    "PassFeatures",
    "ProjectOut",
    "Push",
    "RandomConfig",
    "Records",
    "Report",
    "ResidualCodebookConfig",
    "SAEConfig",
    "Scale",
    "Site",
    "Sites",
    "SparseActs",
    "Substitute",
    "Tokens",
    "TopKSAEConfig",
    "TopKTranscoderConfig",
    "TopLogits",
    "TrainableDictionary",
    "Traits",
    "TranscoderConfig",
    "activating",
    "aggregate_graphs",
    "attribute",
    "attribute_all",
    "blind_case",
    "check_dictionary",
    "circuit_curves",
    "compare_effects",
    "compare_features",
    "de_embedding",
    "describe_features",
    "evaluate",
    "evaluate_concepts",
    "evaluate_together",
    "exhaustive_paths",
    "explain_attention",
    "features",
    "finetune",
    "fit",
    "generate",
    "greedy_paths",
    "harvest",
    "head_loadings",
    "hook_sites",
    "indexed",
    "inside",
    "load",
    "load_all",
    "load_model",
    "load_tokens",
    "mlp_sites",
    "mlp_weights",
    "new_model",
    "overview",
    "parse_edit",
    "paths_to_graph",
    "plot",
    "pullback",
    "read_edits",
    "removal_effects",
    "report",
    "reveal_case",
    "save",
    "save_model",
    "seal_guess",
    "show",
    "sweep",
    "virtual_weights",
    "without_shortcuts",
]
