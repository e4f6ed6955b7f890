"""Train, evaluate and compare feature dictionaries on the activations of language models.

import dictlearn as dl

model = dl.load_model("builtin:stories")
train = dl.load_tokens("builtin:stories", model, split="train", n_tokens=500_000)
activations = dl.harvest(model, train, dl.mlp_sites(model, 1), out="runs/mlp1")
configs = {"sae": dl.SAEConfig(n_features=1024), "codes": dl.CodebookConfig(n_codes=1024, k=8)}
dictionaries = dl.fit(configs, activations, dl.FitConfig(steps=2000))
held_out = dl.load_tokens("builtin:stories", model, split="held_out", n_tokens=50_000)
dl.evaluate(dictionaries, model, held_out).to_pandas()
"""

import dictlearn._threads  # noqa: F401  (before torch)
from dictlearn.activations.store import ActivationStore
from dictlearn.circuits.attribute import attribute
from dictlearn.circuits.graph import CircuitGraph
from dictlearn.circuits.paths.graph import paths_to_graph
from dictlearn.circuits.paths.search import exhaustive_paths, greedy_paths
from dictlearn.circuits.targets import FeatureTarget, Logit, LogitDifference, TopLogits
from dictlearn.circuits.validation import compare_effects, removal_effects
from dictlearn.contract.check import check_dictionary
from dictlearn.core.batches import Activations
from dictlearn.core.dictionary import FeatureDictionary, Traits
from dictlearn.core.kinds import ClosedFormConfig, DictionaryConfig, GradientConfig
from dictlearn.core.learning import Encoding, FitPass, Objective, TrainableDictionary
from dictlearn.core.shortcuts import without_shortcuts
from dictlearn.core.sites import Site, Sites
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.core.tokens import Tokens
from dictlearn.dictionaries.batchtopk_sae import BatchTopKSAEConfig
from dictlearn.dictionaries.batchtopk_transcoder import BatchTopKTranscoderConfig
from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.dictionaries.cross_layer_transcoder import CrossLayerTranscoderConfig
from dictlearn.dictionaries.crosscoder import CrosscoderConfig
from dictlearn.dictionaries.gated_sae import GatedSAEConfig
from dictlearn.dictionaries.ica import ICAConfig
from dictlearn.dictionaries.identity import IdentityConfig
from dictlearn.dictionaries.indexed import FlatIndex, IVFIndex, indexed
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
from dictlearn.evaluation.agreement.compare_features import compare_features
from dictlearn.evaluation.cards.describe_features import describe_features
from dictlearn.evaluation.concepts.evaluate_concepts import evaluate_concepts
from dictlearn.evaluation.faithfulness.evaluate import evaluate
from dictlearn.evaluation.joint.evaluate_together import evaluate_together
from dictlearn.feature_cards import show
from dictlearn.finetuning.config import FinetuneConfig
from dictlearn.finetuning.finetune import finetune
from dictlearn.finetuning.finetuned import Finetuned
from dictlearn.formats import load, save
from dictlearn.harvesting import harvest
from dictlearn.interventions.choice import Activate, Disable
from dictlearn.interventions.direction import Cap, ProjectOut, Push
from dictlearn.interventions.edit import Ablate, Add, Clamp, Edit, Scale
from dictlearn.interventions.features import PassFeatures, Substitute
from dictlearn.interventions.inside import inside
from dictlearn.interventions.language import parse as parse_edit
from dictlearn.interventions.language import read_edits
from dictlearn.lm.generation import generate
from dictlearn.lm.loading import load_model
from dictlearn.lm.mlps import mlp_sites, mlp_weights
from dictlearn.lm.native import NativeModelConfig, new_model
from dictlearn.lm.saving import save_model
from dictlearn.lm.sites import hook_sites
from dictlearn.records.agreement import AgreementRecords
from dictlearn.records.joint import JointRecords
from dictlearn.records.results import Records
from dictlearn.text.concepts import Concept
from dictlearn.text.tokens import load_tokens
from dictlearn.training.config import FitConfig
from dictlearn.training.fit import fit

__all__ = [
    "Ablate",
    "Activate",
    "ActivationStore",
    "Activations",
    "Add",
    "AgreementRecords",
    "BatchTopKSAEConfig",
    "BatchTopKTranscoderConfig",
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
    "attribute",
    "check_dictionary",
    "compare_effects",
    "compare_features",
    "describe_features",
    "evaluate",
    "evaluate_concepts",
    "evaluate_together",
    "exhaustive_paths",
    "finetune",
    "fit",
    "generate",
    "greedy_paths",
    "harvest",
    "hook_sites",
    "indexed",
    "inside",
    "load",
    "load_model",
    "load_tokens",
    "mlp_sites",
    "mlp_weights",
    "new_model",
    "parse_edit",
    "paths_to_graph",
    "read_edits",
    "removal_effects",
    "save",
    "save_model",
    "show",
    "without_shortcuts",
]
