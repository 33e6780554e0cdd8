"""Comparison of logits against plain NumPy, and strangers' dumps of them."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.errors import BitNetError, EvidenceUnreadableError, ParameterError
from bitnet_numba.evidence.differential.parity import Thresholds, compare_logits, first_difference
from bitnet_numba.evidence.differential.reference import read_reference

VOCAB = 11


def logits(seed: int, n: int = 6) -> Any:
    return np.random.default_rng(seed).standard_normal((n, VOCAB)).astype(np.float32) * 3


@given(seed=st.integers(0, 1000), noise=st.sampled_from([0.0, 0.01, 3.0]))
def test_the_figures_are_those_of_their_definitions(seed: int, noise: float) -> None:
    tokens = np.random.default_rng(seed).integers(0, VOCAB, 6).tolist()
    a = logits(seed)
    b = a + np.float32(noise) * logits(seed + 1)
    found = compare_logits(tokens, a, b)
    p, q = (np.exp(x.astype(np.float64)) / np.exp(x.astype(np.float64)).sum(1, keepdims=True) for x in (a, b))
    cosines = (a * b).sum(1, dtype=np.float64) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert found.min_cosine == pytest.approx(cosines.min(), abs=1e-6)
    assert found.mean_cosine == pytest.approx(cosines.mean(), abs=1e-6)
    assert found.max_difference == pytest.approx(np.abs(a - b).max(), rel=1e-6)
    assert found.mean_kl == pytest.approx((p * np.log(p / q)).sum(1).mean(), abs=1e-9)
    same = a.argmax(1) == b.argmax(1)
    assert found.exact_match_rate == same.mean()
    assert found.first_divergence == (None if same.all() else same.tolist().index(False))
    top = [len(set(np.argsort(-x)[:5]) & set(np.argsort(-y)[:5])) / 5 for x, y in zip(a, b, strict=True)]
    assert found.top5_rate == pytest.approx(np.mean(top))
    nll = [-np.log(row[token]) for row, token in zip(p, tokens[1:], strict=False)]
    assert found.perplexity_a == pytest.approx(np.exp(np.mean(nll)), rel=1e-6)


def test_thresholds_decide() -> None:
    a = logits(1)
    parity = compare_logits([1] * 6, a, a)
    assert (parity.min_cosine, parity.exact_match_rate, parity.first_divergence) == (pytest.approx(1), 1, None)
    assert parity.to_dict(Thresholds())["parity"]["status"] == "passed"
    other = compare_logits([1] * 6, a, -a)
    assert not other.passes(Thresholds())
    assert not other.passes(Thresholds(cosine=-1, exact_match_rate=0.5))
    assert other.passes(Thresholds(cosine=-1.1, exact_match_rate=0))
    assert other.to_dict(Thresholds())["parity"] == {
        "cpp_available": False,
        "cosine_similarity": other.min_cosine,
        "exact_match_rate": 0.0,
        "status": "failed",
    }


def test_zeros_and_one_token() -> None:
    zeros = np.zeros((1, VOCAB), np.float32)
    assert compare_logits([1], zeros, zeros).min_cosine == 1
    assert compare_logits([1], zeros, logits(1, 1)).min_cosine == 0
    assert compare_logits([1], zeros, zeros).perplexity_a is None


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ParameterError, match="for 6 tokens"):
        compare_logits([1] * 6, logits(1), logits(1, 5))
    with pytest.raises(ParameterError, match="for 5 tokens"):
        compare_logits([1] * 5, logits(1), logits(1))


def test_where_tokens_part() -> None:
    assert first_difference([1, 2], [1, 2]) is None
    assert first_difference([1, 2, 3], [1, 5, 3]) == 1
    assert first_difference([1, 2], [1, 2, 3]) == 2


# ---- dumps of another engine -----------------------------------------------------------------------------------------
def dump(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint16])
def test_a_dump_is_read(tmp_path: Path, dtype: Any, kind: Any) -> None:
    values = logits(2).astype(dtype)
    tokens, read = read_reference(dump(tmp_path / "a.npz", tokens=np.arange(6, dtype=kind), logits=values), VOCAB)
    assert tokens == list(range(6))
    np.testing.assert_array_equal(read, values)


GOOD = {"tokens": np.arange(6), "logits": logits(2)}
BAD = {
    "no logits": ({"tokens": np.arange(6)}, "no array 'logits'"),
    "no tokens": ({"logits": logits(2)}, "no array 'tokens'"),
    "another vocabulary": (GOOD | {"logits": logits(2)[:, :5]}, r"logits is float32\[6, 5\], expected \[6, 11\]"),
    "fewer logits": (GOOD | {"logits": logits(2)[:5]}, r"expected \[6, 11\]"),
    "objects": (GOOD | {"tokens": np.array([1, None], object)}, "tokens is object"),
    "floats for tokens": (GOOD | {"tokens": np.arange(6.0)}, "tokens is float64"),
    "a matrix of tokens": (GOOD | {"tokens": np.zeros((2, 3), int)}, r"expected \[None\]"),
    "ids outside": (GOOD | {"tokens": np.array([0, 1, 2, 3, 4, 11])}, "ids from 0 to 10"),
    "negative ids": (GOOD | {"tokens": np.array([0, 1, 2, 3, 4, -1])}, "ids from 0 to 10"),
    "no tokens at all": ({"tokens": np.zeros(0, int), "logits": np.zeros((0, VOCAB))}, "ids from 0 to 10"),
    "a square that overflows": (GOOD | {"logits": np.full((6, VOCAB), 1e300)}, "above 3.4e"),
    "infinity": (GOOD | {"logits": np.where(logits(2) > 5, np.inf, logits(2)) * np.inf}, "infinite, NaN"),
}


@pytest.mark.parametrize(("arrays", "message"), BAD.values(), ids=BAD)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_dump_of_another_form_is_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(EvidenceUnreadableError, match=message):
        read_reference(dump(tmp_path / "a.npz", **arrays), VOCAB)


def test_a_header_that_promises_too_much_is_refused_unread(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (10**12,)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("tokens.npy", header.getvalue())
    with pytest.raises(EvidenceUnreadableError, match="dump fewer tokens"):
        read_reference(tmp_path / "a.npz", VOCAB)


HEADERS = {
    "unclosed bracket": "{'descr': '<i8', 'shape': (6,",
    "unclosed string": "{'descr': '''<i8",
    "indented": "  {\n 'a'\n   b",
    "nested": "(" * 9000,
    "many signs": "-" * 9000 + "1",
    "many sums": "1" + "+1j" * 3000,
    "a key that is no text": "{1: 2, 'a': 3}",
    "a key that is a list": "{[]: 2}",
    "a size beyond floats": "{'descr': '<i8', 'fortran_order': False, 'shape': (%s,)}" % ("9" * 400),
    "a negative size": "{'descr': '<i8', 'fortran_order': False, 'shape': (-6,)}",
    "no dtype": "{'descr': 'i8,,', 'fortran_order': False, 'shape': (6,)}",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_header_that_is_none_is_told_in_one_line(tmp_path: Path, header: str) -> None:
    data = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode()
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("tokens.npy", data)
    with pytest.raises(EvidenceUnreadableError, match=r"a\.npz: .+; (write|dump) .+") as caught:
        read_reference(tmp_path / "a.npz", VOCAB)
    assert "\n" not in str(caught.value)


def test_a_long_list_of_members_is_refused_unread(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        for number in range(2000):
            file.writestr(f"{number}", b"")
    with pytest.raises(EvidenceUnreadableError, match="more members than two arrays"):
        read_reference(tmp_path / "a.npz", VOCAB)


@pytest.mark.parametrize("data", [b"", b"PK", b"not a zip at all" * 9])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(EvidenceUnreadableError, match="cannot be read"):
        read_reference(tmp_path / "a.npz", VOCAB)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_any_damage_is_told_in_one_line(tmp_path: Path, method: int) -> None:
    dump(tmp_path / "a.npz", **GOOD)
    with zipfile.ZipFile(tmp_path / "a.npz") as arrays, zipfile.ZipFile(tmp_path / "b.npz", "w", method) as packed:
        for name in arrays.namelist():
            packed.writestr(name, arrays.read(name))
    good = (tmp_path / "b.npz").read_bytes()
    assert read_reference(tmp_path / "b.npz", VOCAB)[0] == list(range(6))
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(good)
        damaged[rng.integers(len(good))] ^= 1 << rng.integers(8)
        (tmp_path / "b.npz").write_bytes(bytes(damaged))
        try:
            read_reference(tmp_path / "b.npz", VOCAB)
        except BitNetError as error:
            assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null", "/no/such/file.npz", "/tmp"])
def test_what_is_no_file_is_unreadable(name: str) -> None:
    with pytest.raises(EvidenceUnreadableError, match=name):
        read_reference(Path(name), VOCAB)
