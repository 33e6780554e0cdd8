"""Receipts of other programs: the verdicts that BitNet tools share, and the claims that make them."""

import json
from pathlib import Path
from typing import Any

import pytest

from bitnet_numba.errors import EvidenceUnreadableError
from bitnet_numba.evidence.verify import verify_receipt
from tests.evidence.making import reasons, verdict

RECEIPTS = Path(__file__).parent.parent / "data" / "receipts"
EXPECTED: dict[str, str] = json.loads((RECEIPTS / "expected_verdicts.json").read_text())
ABSENT = {"docs/baselines/20251015-cpu.json", "tests/fixtures/baselines/cpu-baseline-2025.json"}
MEANING = {
    "empty kernels": "kernels: the list is empty",
    "compute_path mock": "compute_path: is 'mock'",
    "compute_path mocked": "compute_path: is 'mocked'",
    "compute_path fake": "compute_path: is 'fake'",
    "empty id": "kernels[0]: is no name of a kernel, or blank",
    "missing schema_version": "schema_version: is missing",
    "no cpu quantized kernels": "no quantized CPU kernel ran",
    "no gpu kernels": "no GPU kernel ran",
}
VALID: dict[str, Any] = {
    "schema_version": "1.0.0",
    "timestamp": "2025-10-15T12:00:00Z",
    "compute_path": "real",
    "backend": "cpu",
    "kernels": ["i2s_gemv", "rope_apply"],
}


@pytest.mark.parametrize("name", sorted(EXPECTED.keys() - ABSENT))
def test_known_receipts_get_their_verdict(name: str) -> None:
    checked = verify_receipt(RECEIPTS / name)
    found = "\n".join(map(str, checked.findings))
    assert (found == "") if EXPECTED[name] == "PASS" else (MEANING[EXPECTED[name]] in found)
    assert not checked.is_replayable


def test_the_listed_files_are_here_but_for_two() -> None:
    assert {name for name in EXPECTED if not (RECEIPTS / name).exists()} == ABSENT


@pytest.mark.parametrize(
    ("change", "flags", "reason"),
    [
        ({"schema_version": "2.0.0"}, {}, "schema_version: is '2.0.0'"),
        ({"schema_version": 1}, {}, "schema_version: is 1"),
        ({"compute_path": "mock"}, {}, "compute_path: is 'mock'"),
        ({"kernels": []}, {}, "the list is empty"),
        ({"kernels": "i2s_gemv"}, {}, "the list is empty"),
        ({"kernels": ["i2s_gemv", " "]}, {}, "kernels[1]: is no name of a kernel, or blank"),
        ({"kernels": ["i2s_gemv", 5]}, {}, "kernels[1]: is no name"),
        ({"kernels": ["i2s_" + "x" * 125]}, {}, "kernels[0]: has more than 128 bytes"),
        ({"kernels": ["i2s_" + "é" * 63]}, {}, "kernels[0]: has more than 128 bytes"),
        ({"kernels": ["i2s_gemv"] * 10_001}, {}, "10,001 ids"),
        ({"kernels": ["i2s_gemv", "MoCk_gemm"]}, {}, "kernels[1]: 'MoCk_gemm' is a mock"),
        ({"backend": "cuda"}, {}, "no GPU kernel ran"),
        ({"backend": "rocm"}, {}, "backend: is 'rocm'"),
        ({"backend": None}, {}, "backend: is None"),
        ({}, {"require_gpu": True}, "no GPU kernel ran"),
        ({"kernels": ["rope_apply"]}, {}, "no quantized CPU kernel ran"),
        ({"backend": "cuda", "kernels": ["gemm_fp16"]}, {"require_quantized": True}, "no quantized CPU kernel ran"),
        ({"kernels": ["i2s_quantize"]}, {}, "no quantized CPU kernel ran"),
        ({"kernels": ["i2s_gemv", "dequant_row"]}, {}, "'dequant_row' computes with dequantized weights"),
        ({"kernels": ["i2s_gemv", "matmul_f32"]}, {}, "'matmul_f32' computes with dequantized weights"),
        (
            {"backend": "cuda", "kernels": ["gemm_x", "head_dequant"], "model_info": {"quantization_type": "I2_S"}},
            {},
            "'head_dequant' computes with dequantized weights",
        ),
        ({"tokens_generated": 0}, {}, "tokens_generated: is 0"),
        ({"performance_baseline": {"tokens_generated": 0}}, {}, "performance_baseline.tokens_generated: is 0"),
        ({"timestamp": "yesterday"}, {}, "timestamp: 'yesterday' is no time"),
        ({"timestamp": "2025-13-15T12:00:00Z"}, {}, "is no time"),
        ({"timestamp": "1970-01-01T00:00:00Z"}, {}, "before 2020 or in the future"),
        ({"timestamp": "2999-01-01T00:00:00Z"}, {}, "before 2020 or in the future"),
    ],
)
def test_a_claim_that_does_not_hold_is_named(change: dict[str, Any], flags: dict[str, bool], reason: str) -> None:
    assert reason in reasons(VALID | change, **flags)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"schema_version": "1.0"},
        {"timestamp": "2025-10-23T00:39:09.569365214+00:00"},
        {"backend": "cuda", "kernels": ["wmma_int8"]},
        {"backend": "cuda", "kernels": ["i2s_dequantize"]},
        {"kernels": ["tq2_gemv"]},
    ],
)
def test_claims_that_hold_pass(change: dict[str, Any]) -> None:
    assert verdict(VALID | change).passed


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{", "not JSON"),
        (b'{"a": 1, "a": 2}', "the key 'a' occurs twice"),
        (b'{"a": NaN}', "not finite"),
        (b'{"a": 1e999}', "not finite"),
        (b'{"a": ' + b"9" * 5000 + b"}", "5,000 digits"),
        (b'{"a":' * 17 + b"1" + b"}" * 17, "more than 16 levels"),
        (b'{"a":' * 100_000, "more than 16 levels"),
        (b'{"a": "\xff"}', "not UTF-8 after 7 bytes"),
    ],
)
def test_what_is_no_document_is_refused(data: bytes, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "receipt.json"
    file.write_bytes(data)
    with pytest.raises(EvidenceUnreadableError, match=reason) as raised:
        verify_receipt(file)
    assert raised.value.exit_code == 2
    assert str(file) in str(raised.value)


def test_a_file_that_is_missing_or_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvidenceUnreadableError, match="no such file"):
        verify_receipt(tmp_path / "none.json")
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(EvidenceUnreadableError, match="16,777,217 bytes"):
        verify_receipt(large)
