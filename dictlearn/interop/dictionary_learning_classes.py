"""The classes of dictionary_learning: how each lays out its tensors, and how it selects."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dictlearn.core.errors import CorruptFileError, InputError
from dictlearn.dictionaries.batchtopk_sae import BatchTopK
from dictlearn.dictionaries.gated_sae import Gated
from dictlearn.dictionaries.jumprelu_sae import JumpReLU
from dictlearn.dictionaries.linear import Rule
from dictlearn.dictionaries.sae import ReLU
from dictlearn.dictionaries.topk_sae import TopK
from dictlearn.interop.files import TensorFile, count
from dictlearn.interop.weights import gates

CONFIG_FILE = "config.json"
Trainer = Mapping[str, Any]
UNSET = -1.0
"""The threshold of a dictionary whose training ended before it was ever measured."""


Learned = tuple[Rule, dict[str, Tensor]]
"""A rule, and what it has learned (`LinearWeights.learned`)."""


def _relu(file: TensorFile, trainer: Trainer, b_enc: Tensor) -> Learned:
    return ReLU(), {}


def _top_k(file: TensorFile, trainer: Trainer, b_enc: Tensor) -> Learned:
    return TopK(_k(file, trainer)), {}


def _jumprelu(file: TensorFile, trainer: Trainer, b_enc: Tensor) -> Learned:
    return JumpReLU(), {"threshold": file.take("threshold", len(b_enc))}


def _gated(file: TensorFile, trainer: Trainer, b_enc: Tensor) -> Learned:
    r_mag, b_mag = file.take("r_mag", len(b_enc)), file.take("mag_bias", len(b_enc))
    return Gated(), gates(r_mag, b_mag, b_enc)


def _batch_top_k(file: TensorFile, trainer: Trainer, b_enc: Tensor) -> Learned:
    threshold = file.take("threshold")
    if threshold < 0:
        raise InputError(
            f"{file.path}: its threshold was never set (it is {float(threshold):g}), so that every "
            "positive feature would stay; train it beyond threshold_start_step. To select the k "
            f"largest of each row instead, change dict_class in {CONFIG_FILE} from BatchTopKSAE "
            "to AutoEncoderTopK"
        )
    return BatchTopK(_k(file, trainer)), {"threshold": threshold}


def _k(file: TensorFile, trainer: Trainer) -> int:
    """The value from the tensors, or from the config in older files without the tensor."""
    k = file.count("k") if "k" in file else count(trainer, "k", file.path)
    if trainer.get("k", k) != k:
        raise CorruptFileError(
            f"{file.path}: holds k = {k}, and {CONFIG_FILE} has {trainer['k']!r:.80}"
        )
    return k


@dataclass(frozen=True)
class Layout:
    """Layout of a class: names of its biases, whether it subtracts `b_dec`, and its rule."""

    b_enc: str
    b_dec: str
    centred: bool
    rule: Callable[[TensorFile, Trainer, Tensor], Learned]
    unit_norm: bool = False
    """Whether its loader gives the decoder unit norm, and the encoder the scale instead."""


CLASSES: Mapping[str, Layout] = {
    "AutoEncoder": Layout("encoder.bias", "bias", True, _relu, unit_norm=True),
    "AutoEncoderNew": Layout("encoder.bias", "decoder.bias", False, _relu),
    "GatedAutoEncoder": Layout("gate_bias", "decoder_bias", True, _gated),
    "JumpReluAutoEncoder": Layout("b_enc", "b_dec", False, _jumprelu),
    "AutoEncoderTopK": Layout("encoder.bias", "b_dec", True, _top_k),
    "BatchTopKSAE": Layout("encoder.bias", "b_dec", True, _batch_top_k),
    "MatryoshkaBatchTopKSAE": Layout("b_enc", "b_dec", True, _batch_top_k),
}
