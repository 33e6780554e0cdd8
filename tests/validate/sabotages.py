"""Damages of the embedded model, and the stage that finds each: the table of the tests and the documentation."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bitnet_numba.formats.gguf_types import TypedValue
from bitnet_numba.formats.packing.i2s import pack_i2s, unpack_i2s
from bitnet_numba.model.roles import LINEAR_ROLES
from tests.tiny_files import GGUFModel, permuted
from tests.validate.spoilt import LAYERS, NORM_NAMES, Spoil, data_of, put, scale_norms, set_scale

THETA = "bitnet-b1.58.rope.freq_base"
KV_ROWS = 128
HEADS = {"attn_q": 4, "attn_k": 2}
Weights = npt.NDArray[np.int8]


class Sabotage(NamedTuple):
    """A damage, and the exit code of the stage that finds it; 0 where none does."""

    spoil: Spoil
    code: int


def weights_of(model: GGUFModel, name: str) -> tuple[Weights, float]:
    rows, columns = model.tensors[name].shape
    weights, scale = unpack_i2s(data_of(model, name), (rows, columns))
    return weights, float(scale)


def shuffle(layer: int, roles: tuple[str, ...] = LINEAR_ROLES, seed: int = 0) -> Spoil:
    """Shuffle the weights of some matrices of a layer; counts, scales and so the RMS do not change."""

    def spoil(model: GGUFModel) -> None:
        rng = np.random.default_rng(seed)
        for role in roles:
            name = f"blk.{layer}.{role}.weight"
            weights, scale = weights_of(model, name)
            put(model, name, pack_i2s(rng.permutation(weights.reshape(-1)).reshape(weights.shape), scale))

    return spoil


def _swap_q_and_k(model: GGUFModel) -> None:
    """Exchange the rows of k with the same number of rows of q, since the matrices differ in size."""
    for layer in LAYERS:
        query, key = f"blk.{layer}.attn_q.weight", f"blk.{layer}.attn_k.weight"
        (q, q_scale), (k, k_scale) = weights_of(model, query), weights_of(model, key)
        put(model, query, pack_i2s(np.concatenate([k, q[KV_ROWS:]]), q_scale))
        put(model, key, pack_i2s(np.ascontiguousarray(q[:KV_ROWS]), k_scale))


def _permute_rope(model: GGUFModel) -> None:
    """Permute the rows of q and k for interleaved RoPE, as in llama files."""
    for layer in LAYERS:
        for role, n_heads in HEADS.items():
            name = f"blk.{layer}.{role}.weight"
            weights, scale = weights_of(model, name)
            put(model, name, pack_i2s(permuted(weights, n_heads), scale))


def _theta(value: float) -> Spoil:
    return lambda model: model.metadata.update({THETA: value})


def _shuffle_vocabulary(model: GGUFModel) -> None:
    """Permute the tokens except special ones: the tokenizer of another model with the same size."""
    typed = model.metadata["tokenizer.ggml.tokens"]
    plain, special = typed.value[:4092], typed.value[4092:]
    order = np.random.default_rng(0).permutation(len(plain))
    model.metadata["tokenizer.ggml.tokens"] = TypedValue(typed.type, [plain[i] for i in order] + special)


def _smaller_vocabulary(model: GGUFModel) -> None:
    for key in ("tokens", "token_type"):
        typed = model.metadata[f"tokenizer.ggml.{key}"]
        model.metadata[f"tokenizer.ggml.{key}"] = TypedValue(typed.type, typed.value[:-1])


def _invert_scales(roles: tuple[str, ...]) -> Spoil:
    def spoil(model: GGUFModel) -> None:
        for layer in LAYERS:
            for role in roles:
                set_scale(model, f"blk.{layer}.{role}.weight", lambda scale: 1 / scale)

    return spoil


def _nan_in_norm(model: GGUFModel) -> None:
    values = data_of(model, "blk.3.ffn_norm.weight").view("<f4")
    values[17] = np.nan
    put(model, "blk.3.ffn_norm.weight", values.view(np.uint8))


def _nan_in_embedding(model: GGUFModel) -> None:
    bits = data_of(model, "token_embd.weight").view("<u2")
    bits[300 * 256 + 5] = 0x7FC0
    put(model, "token_embd.weight", bits.view(np.uint8))


def _flip_one_weight(model: GGUFModel) -> None:
    weights, scale = weights_of(model, "blk.2.ffn_up.weight")
    weights[5, 7] = 1 if weights[5, 7] < 1 else -1
    put(model, "blk.2.ffn_up.weight", pack_i2s(weights, scale))


def _remove(*names: str) -> Spoil:
    def spoil(model: GGUFModel) -> None:
        for name in names:
            del model.tensors[name]

    return spoil


SABOTAGES: dict[str, Sabotage] = {
    "no norms at all": Sabotage(_remove(*NORM_NAMES), 12),
    "norms times 0.02": Sabotage(lambda model: scale_norms(model, 0.02), 11),
    "one NaN in a norm": Sabotage(_nan_in_norm, 11),
    "one NaN for a scale": Sabotage(lambda model: set_scale(model, "blk.3.ffn_up.weight", lambda _: np.nan), 13),
    "one NaN in the embedding": Sabotage(_nan_in_embedding, 14),
    "a projection missing": Sabotage(_remove("blk.2.attn_v.weight"), 13),
    "scales inverted": Sabotage(_invert_scales(LINEAR_ROLES), 13),
    "scales of attn_q inverted": Sabotage(_invert_scales(("attn_q",)), 13),
    "a vocabulary of another size": Sabotage(_smaller_vocabulary, 13),
    "a wrong tokenizer of the same size": Sabotage(_shuffle_vocabulary, 15),
    "q and k swapped": Sabotage(_swap_q_and_k, 15),
    "q and k permuted for another RoPE": Sabotage(_permute_rope, 15),
    "RoPE theta 500,000 for 10,000": Sabotage(_theta(500000.0), 15),
    "RoPE theta 100 for 10,000": Sabotage(_theta(100.0), 15),
    **{f"layer {layer} shuffled": Sabotage(shuffle(layer), 15) for layer in LAYERS},
    "attn_q of layer 0 shuffled": Sabotage(shuffle(0, ("attn_q",)), 15),
    "attn_q of layer 5 shuffled": Sabotage(shuffle(5, ("attn_q",)), 0),
    "RoPE theta 12,000 for 10,000": Sabotage(_theta(12000.0), 0),
    "one weight flipped": Sabotage(_flip_one_weight, 0),
}
"""A truncated file (10) is tested apart, since it is not damage of the contents."""
