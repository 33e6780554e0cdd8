"""The oracle itself against what bitnet.cpp and transformers computed for the same files."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bitnet_numba.backends.numpy.backend import NumPyBackend
from bitnet_numba.backends.protocol import TokenChunk
from bitnet_numba.model.open import open_source
from tests.cut_references import BITNETCPP, HUGGINGFACE_TEXTS
from tests.generate.running import FIXTURES, needs_fixtures
from tests.oracle import oracle_logits
from tests.reference_logits import DATA, Agreement, ReferenceLogits

PACKED = DATA / "huggingface" / "tiny-packed"
EXACT_TEXTS = ("s0_bos", "s1_short", "s4_rep")  # no int8 rounding happens to lie so near a half that it flips
PROMPT = 10  # tokens of the greedy dump that were given

Floats = npt.NDArray[np.float32]


def agreement_of(model: Path, reference: ReferenceLogits, kv_type: str) -> Agreement:
    return reference.agreement(oracle_logits(open_source(model), reference.tokens, kv_type))


def keeps(agreement: Agreement, largest: float, correlation: float, same_best: float) -> None:
    assert agreement.largest <= largest
    assert agreement.correlation >= correlation
    assert agreement.same_best >= same_best


# ---- bitnet.cpp ------------------------------------------------------------------------------------------------------
def agrees_with_bitnetcpp(model: Path, reference: ReferenceLogits) -> None:
    agreement = agreement_of(model, reference, "f16")
    assert agreement.first <= 1e-5
    assert agreement.correlation >= 0.9995
    assert agreement.same_best >= 0.95


@pytest.mark.parametrize("name", BITNETCPP)
def test_agrees_with_bitnetcpp(name: str) -> None:
    folder = DATA / "bitnetcpp"
    agrees_with_bitnetcpp(folder / f"{name}-i2_s.gguf", ReferenceLogits.load(folder / f"{name}-cut.npz"))


@needs_fixtures
@pytest.mark.parametrize("name", BITNETCPP)
def test_agrees_with_the_full_dumps_of_bitnetcpp(name: str) -> None:
    folder = FIXTURES / "bitnetcpp"
    with np.load(folder / f"{name}-ref.npz") as dump:
        reference = ReferenceLogits.cut(dump["tokens"], dump["logits_prefill"], stride=1)
    agrees_with_bitnetcpp(folder / f"{name}-i2_s.gguf", reference)


# ---- transformers ----------------------------------------------------------------------------------------------------
def agrees_with_transformers(model: Path, reference: ReferenceLogits, kv_type: str, *, exact: bool) -> None:
    agreement = agreement_of(model, reference, kv_type)
    if kv_type == "f16":  # transformers keeps keys and values in float32
        keeps(agreement, 0.4, 0.9995, 0.93)
    elif exact:
        keeps(agreement, 2e-5, 0.9999999, 1)
    else:
        keeps(agreement, 0.35, 0.9998, 0.96)


@pytest.mark.parametrize("kv_type", ["f32", "f16"])
@pytest.mark.parametrize("text", HUGGINGFACE_TEXTS)
def test_agrees_with_transformers(text: str, kv_type: str) -> None:
    reference = ReferenceLogits.load(PACKED / "cut.npz", f"{text}.")
    agrees_with_transformers(PACKED, reference, kv_type, exact=text in EXACT_TEXTS)


@needs_fixtures
@pytest.mark.parametrize("text", HUGGINGFACE_TEXTS)
@pytest.mark.parametrize(("name", "dump"), [("tiny-packed", "packed_f32"), ("tiny-bf16", "online_f32")])
def test_agrees_with_the_full_dumps_of_transformers(name: str, dump: str, text: str) -> None:
    """Online, transformers multiplies floats, whose noise flips roundings of its own but for one token."""
    folder = FIXTURES / "huggingface"
    with np.load(folder / "tiny-packed" / "ref_logits.npz") as arrays:
        reference = ReferenceLogits.cut(arrays[f"ids_{text}"], arrays[f"logits_{dump}_{text}"], stride=1)
    exact = text == "s0_bos" or (dump == "packed_f32" and text in EXACT_TEXTS)
    agrees_with_transformers(folder / name, reference, "f32", exact=exact)


def test_has_the_hidden_states_of_transformers() -> None:
    backend = NumPyBackend(open_source(PACKED), kv_type="f32")
    tokens = ReferenceLogits.load(PACKED / "cut.npz", "s1_short.").tokens
    states = list(backend.hidden_states([TokenChunk(tokens, backend.new_cache(tokens.size))]))
    with np.load(PACKED / "cut.npz") as arrays:
        expected = [arrays[f"hidden_packed_f32_s1_{number}"] for number in range(5)]
    for state, reference in zip([*states[:4], states[-1]], expected, strict=True):
        assert np.abs(state - reference).max() <= 5e-6


def test_continues_a_text_like_transformers() -> None:
    with np.load(PACKED / "cut.npz") as arrays:
        expected = arrays["greedy_packed_f32"].astype(np.int32)
    backend = NumPyBackend(open_source(PACKED), kv_type="f32")
    cache, text = backend.new_cache(expected.size), list(expected[:PROMPT])
    while len(text) < expected.size:
        [[candidates]] = backend.forward([TokenChunk(np.array(text[cache.length :], np.int32), cache)])
        text.append(candidates.logits.argmax())
    assert text == list(expected)
