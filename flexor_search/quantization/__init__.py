"""How a weight trains: the surrogate gradient, the encrypted weight as a parametrization, conversion of models."""

from flexor_search.quantization.convert import (
    flexor_weights,
    quantize_,
    set_s_tanh,
    share_parametrization,
    shared_s_tanh,
)
from flexor_search.quantization.describe import QUANTIZABLE, batch_norm_folds, check_float32, describe
from flexor_search.quantization.flexor_weight import FlexorWeight, in_weight_order, spread_scale, sum_of_planes
from flexor_search.quantization.supernet import SharedWeight, set_profile, share_, shared_weights, why_not_shared
from flexor_search.quantization.surrogate import SURROGATES, decode_signs

__all__ = [
    "QUANTIZABLE",
    "SURROGATES",
    "FlexorWeight",
    "SharedWeight",
    "batch_norm_folds",
    "check_float32",
    "decode_signs",
    "describe",
    "flexor_weights",
    "in_weight_order",
    "quantize_",
    "set_profile",
    "set_s_tanh",
    "share_",
    "share_parametrization",
    "shared_s_tanh",
    "shared_weights",
    "spread_scale",
    "sum_of_planes",
    "why_not_shared",
]
