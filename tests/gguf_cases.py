"""GGUF files as data: a good one, and bad ones with words of the error that must follow."""

import struct
from collections.abc import Mapping
from dataclasses import replace

from bitnet_numba.formats.gguf_types import TensorType, TypedValue, ValueType
from tests.gguf_builder import Tensor, array, entry, gguf_bytes, stored, string, text, uint32

MINUS_ONE = 2**64 - 1

METADATA = {
    "general.architecture": string("bitnet-b1.58"),
    "general.file_type": uint32(40),
    "tokenizer.ggml.tokens": TypedValue(ValueType.STRING, ["a", "é", ""]),
    "tokenizer.ggml.scores": TypedValue(ValueType.FLOAT32, [0.0, -0.5, 1.5]),
    "tokenizer.ggml.add_bos_token": TypedValue(ValueType.BOOL, True),
}
CODES = struct.pack("<64B", *(0b01_10_00_01,) * 64)
I2_S = Tensor((2, 128), TensorType.I2_S, CODES + struct.pack("<f", 0.75) + b"\xc3" * 28)
NORM = Tensor((4,), TensorType.F32, struct.pack("<4f", 1.0, 2.0, 3.0, 4.0))
TENSORS = {"token_embd.weight": Tensor((3, 4), TensorType.F16, bytes(24)), "blk.0.attn_q.weight": I2_S, "norm": NORM}
GOOD = gguf_bytes(METADATA, TENSORS)
LLAMA = {"general.architecture": string("llama")}


def _keys(metadata: Mapping[str, TypedValue | bytes], *, n_keys: int | None = None, more_keys: bytes = b"") -> bytes:
    return gguf_bytes(metadata, TENSORS, n_keys=n_keys, more_keys=more_keys)


def _value(value: TypedValue | bytes) -> bytes:
    return gguf_bytes({"general.name": value}, TENSORS)


def _raw(value_type: int, body: bytes) -> bytes:
    return struct.pack("<I", value_type) + body


def _tensor(tensor: Tensor, name: str = "w") -> bytes:
    return gguf_bytes(METADATA, {name: tensor})


def _typed(number: int, metadata: Mapping[str, TypedValue | bytes] = METADATA, n_bytes: int = 64) -> bytes:
    return gguf_bytes(metadata, {"w": Tensor((1, 128), number, bytes(n_bytes))})


def _norms(*offsets: int | None) -> bytes:
    return gguf_bytes(METADATA, {f"n{i}": replace(NORM, offset=offset) for i, offset in enumerate(offsets)})


def _alignment(value: TypedValue | bytes) -> bytes:
    return gguf_bytes({"general.alignment": value}, TENSORS)


def _counts(n_tensors: int, n_keys: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys) + bytes(64)


_NESTED = struct.pack("<I", ValueType.ARRAY) + struct.pack("<IQ", ValueType.ARRAY, 1) * 5000
_3_MI = 3 * 2**20
_HEADER = len(gguf_bytes(METADATA, {"n": NORM})) - 32  # where data begin

_HEADERS = {
    "empty": (b"", "byte 0: a GGUF file has at least 24 bytes, this one has 0"),
    "three bytes": (b"GGU", "this one has 3"),
    "a header that stops in its counts": (GOOD[:23], "this one has 23"),
    "wrong magic": (b"GGML" + GOOD[4:], r"byte 0: expected b'GGUF', found b'GGML'"),
    "version 0": (gguf_bytes({}, {}, version=0) + bytes(8), "byte 4: GGUF version 0"),
    "version 1": (gguf_bytes({}, {}, version=1) + bytes(8), "byte 4: GGUF version 1"),
    "version 99": (gguf_bytes({}, {}, version=99) + bytes(8), "byte 4: GGUF version 99"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "byte 4: a big-endian GGUF file"),
    "-1 tensors": (_counts(MINUS_ONE, 0), "byte 8: 18,446,744,073,709,551,615 tensors"),
    "2^63 tensors": (_counts(2**63, 0), "byte 8: 9,223,372,036,854,775,808 tensors"),
    "16,385 tensors": (_counts(16385, 0), "16,385 tensors, at most 16,384"),
    "more tensors than bytes": (_counts(4, 0), "byte 8: 4 tensors cannot fit into a file of 88 bytes"),
    "-1 keys": (_counts(0, MINUS_ONE), "byte 16: 18,446,744,073,709,551,615 keys"),
    "4,097 keys": (_counts(0, 4097), "4,097 keys, at most 4,096"),
    "more keys than bytes": (_counts(0, 8), "byte 16: 8 keys cannot fit into a file of 88 bytes"),
    "one key more than there is": (
        _keys(METADATA, n_keys=len(METADATA) + 1),
        "the name of tensor 0 has 844,424,930,131,968",
    ),
    "one key less than there is": (_keys(METADATA, n_keys=len(METADATA) - 1), "tensor 'tokenizer.ggml.add_bos_token'"),
    "another data offset": (
        gguf_bytes(METADATA, {"n": NORM}, extension=(32, _HEADER)),
        f"byte 28: the data offset is {_HEADER:,}, but the header ends at",
    ),
    "two alignments": (
        gguf_bytes({"general.alignment": uint32(64)}, {}, extension=(32, 96)),
        "byte 24: alignment 32, but key 'general.alignment' says 64",
    ),
}

_KEYS = {
    "key length -1": (_keys({}, n_keys=1, more_keys=text(b"", MINUS_ONE)), "byte 24: key 0 has 18,446,"),
    "empty key": (_keys({"": uint32(1)}), "byte 24: key 0 has 0 bytes"),
    "key of 257 bytes": (_keys({"k" * 257: uint32(1)}), "byte 24: key 0 has 257 bytes"),
    "key past the end": (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("abcd", 200), "byte 32: key 0 needs 200 bytes"),
    "key that is not UTF-8": (_keys({}, n_keys=1, more_keys=text(b"ab\xff")), "byte 34: key 0 is not UTF-8"),
    "the same key twice": (
        _keys({"a": uint32(1)}, n_keys=2, more_keys=text("a") + stored(uint32(1))),
        "byte 41: key 'a' occurs twice",
    ),
    "unknown value type": (_value(_raw(13, bytes(8))), "byte 44: key 'general.name': unknown value type 13"),
    "string length -1": (_value(_raw(8, text("x", MINUS_ONE))), "the value of key 'general.name' has 18,446,"),
    "string past the end": (_value(_raw(8, text("x", 4096))), "the value of key 'general.name' needs 4,096 bytes"),
    "string over 16 MiB": (_value(_raw(8, text("x", 2**24 + 1))), "has 16,777,217 bytes, expected 0 to 16,777,216"),
    "string that is not UTF-8": (_value(_raw(8, text(b"\xc3("))), "the value of key 'general.name' is not UTF-8"),
    "chat template over 64 KiB": (
        _keys({"tokenizer.chat_template": string("x" * 65537)}),
        "has 65,537 bytes, expected 0 to 65,536",
    ),
    "named chat template over 64 KiB": (
        _keys({"tokenizer.chat_template.tool": string("x" * 65537)}),
        "has 65,537 bytes, expected 0 to 65,536",
    ),
    "number past the end": (
        gguf_bytes({}, {}, n_keys=1, more_keys=text("a") + _raw(10, bytes(7)))[:44],
        "byte 37: the value of key 'a' needs 8 bytes, the file has 7 left",
    ),
    "array of 2^40 bytes": (_value(array(0, 2**40, bytes(8))), "byte 52: key 'general.name': 1,099,511,627,776 items"),
    "array of 2^40 strings": (_value(array(8, 2**40, bytes(8))), "1,099,511,627,776 items"),
    "array of -1 items": (_value(array(4, MINUS_ONE, bytes(8))), "18,446,744,073,709,551,615 items"),
    "array past the end": (_value(array(10, 100, bytes(8))), "the array of key 'general.name' needs 800 bytes"),
    "more strings than bytes": (_value(array(8, 100, bytes(8))), "the array of key 'general.name' needs 800 bytes"),
    "array item past the end": (
        _value(array(8, 2, text("a") + text("b", 2**32))),
        "item 1 of key 'general.name' needs 4,294,967,296 bytes",
    ),
    "array item length past the end": (
        gguf_bytes({}, {}, n_keys=1, more_keys=text("k") + array(8, 2, text("x" * 20)))[:80],
        "byte 77: item 1 of key 'k' needs 8 bytes, the file has 3 left",
    ),
    "array item length -1": (_value(array(8, 1, text("a", MINUS_ONE))), "item 0 of key 'general.name' needs 18,446,"),
    "array item that is not UTF-8": (_value(array(8, 2, text("a") + text(b"\xff"))), "item 1 of key 'general.name'"),
    "array of an unknown type": (_value(array(13, 1, bytes(8))), "byte 48: key 'general.name': unknown value type 13"),
    "array inside an array": (_value(array(9, 1, array(4, 1, bytes(4))[4:])), "an array inside an array"),
    "arrays nested 5,000 deep": (_value(_NESTED), "byte 48: key 'general.name': an array inside an array"),
    "arrays too large together": (
        _keys({key: array(0, _3_MI, bytes(_3_MI)) for key in ("a", "b")}),
        "key 'b': 3,145,728 items, the arrays of a file may hold 4,194,304 together",
    ),
    "bool 7": (_value(_raw(7, b"\7")), "byte 48: key 'general.name': a bool is 0 or 1, not 7"),
    "bool 7 in an array": (_value(array(7, 3, b"\1\0\7")), "byte 62: key 'general.name': a bool is 0 or 1, not 7"),
    "alignment 0": (_alignment(uint32(0)), "key 'general.alignment' is UINT32 0, expected UINT32, a power of two"),
    "alignment 4": (_alignment(uint32(4)), "UINT32 4, expected UINT32, a power of two from 8 to 65,536"),
    "alignment 13": (_alignment(uint32(13)), "UINT32 13, expected"),
    "alignment 2^31": (_alignment(uint32(2**31)), "UINT32 2,147,483,648, expected"),
    "signed alignment": (_alignment(TypedValue(ValueType.INT32, 32)), "INT32 32, expected UINT32"),
    "alignment as a string": (_alignment(string("32")), "STRING str, expected UINT32"),
    "alignments": (_alignment(TypedValue(ValueType.UINT32, [32])), "UINT32 list, expected UINT32"),
    "alignment that the data do not have": (
        gguf_bytes(METADATA | {"general.alignment": uint32(64)}, TENSORS),
        "is not a multiple of 64",
    ),
}

_TABLES = {
    "name of 64 bytes": (_tensor(NORM, "n" * 64), "the name of tensor 0 has 64 bytes, expected 1 to 63"),
    "empty name": (_tensor(NORM, ""), "the name of tensor 0 has 0 bytes"),
    "name with NUL": (_tensor(NORM, "a\0b"), r"tensor name 'a\x00b' has characters"),
    "name with a line break": (_tensor(NORM, "a\nb"), r"tensor name 'a\nb' has characters"),
    "name that is a path": (_tensor(NORM, "../x"), "tensor name '../x' has characters"),
    "name beyond ASCII": (_tensor(NORM, "é"), "tensor name 'é' has characters"),
    "the same name twice": (
        gguf_bytes({}, {"a": NORM}, n_tensors=2, more_entries=entry("a", NORM, 32)),
        "tensor 'a' occurs twice",
    ),
    "no dimensions": (_tensor(replace(NORM, shape=())), "tensor 'w': 0 dimensions, expected 1 to 4"),
    "five dimensions": (_tensor(replace(NORM, shape=(1, 1, 1, 1, 4))), "tensor 'w': 5 dimensions"),
    "dimension 0": (_tensor(replace(NORM, shape=(4, 0))), "tensor 'w': 4 x 0 weights, expected at least 1"),
    "dimension -1": (_tensor(replace(NORM, shape=(MINUS_ONE,))), "tensor 'w': 18,446,744,073,709,551,615 weights"),
    "2^48 weights": (_tensor(replace(NORM, shape=(2**24, 2**24))), "fewer than 2^48 in all"),
    "weights that wrap to 0": (_tensor(replace(NORM, shape=(2**32, 2**32))), "fewer than 2^48 in all"),
    "bytes that wrap": (
        _tensor(replace(NORM, shape=(2**62 + 4,))),
        "tensor 'w': 4,611,686,018,427,387,908 weights, expected",
    ),
    "a table cut short": (GOOD[:326], "the type of tensor 'token_embd.weight' needs 4 bytes, the file has 2 left"),
    "unknown type": (_typed(77), "tensor 'w': unknown type 77; use a file that holds only F16, BF16, F32"),
    "row that is not whole blocks": (
        _tensor(Tensor((32, 255), TensorType.TQ2_0, bytes(64))),
        "tensor 'w': a row of 255 weights is not a multiple of the block of 256",
    ),
    "I2_S tensor that is not whole blocks": (
        _tensor(Tensor((1, 130), TensorType.I2_S, bytes(64))),
        "tensor 'w': a tensor of 130 weights is not a multiple of the block of 128",
    ),
    "offset -1": (_norms(MINUS_ONE), "tensor 'n0': offset 18,446,744,073,709,551,615 is not a multiple of 32"),
    "unaligned offset": (_norms(None, 33), "tensor 'n1': offset 33 is not a multiple of 32"),
    "offset 2^64 - 96, into the header": (_norms(2**64 - 96), "tensor 'n0': offset 18,446,744,073,709,551,520 leaves"),
    "offset over the tensor before": (_norms(None, 0), "tensor 'n1': offset 0 overlaps the tensor before it"),
    "offset after a gap": (_norms(None, 64), "tensor 'n1': offset 64 leaves a gap, 32 comes next"),
    "tensors in another order": (_norms(32, 0), "tensor 'n0': offset 32 leaves a gap, 0 comes next"),
    "offset past the end": (_norms(None, None, 2**40), "tensor 'n2': offset 1,099,511,627,776 leaves a gap"),
    "tensor past the end": (
        _tensor(replace(NORM, shape=(9,))),
        "tensor 'w': 9 weights need 36 bytes, the file has 32",
    ),
    "two sizes that wrap together": (
        gguf_bytes(
            METADATA,
            {name: Tensor((2**47,), TensorType.F32, b"", offset) for name, offset in (("a", 0), ("b", 2**49))},
        ),
        "tensor 'a': 140,737,488,355,328 weights need 562,949,953,421,312 bytes, the file has 0",
    ),
}

_DATA = {
    "one byte short": (GOOD[:-17], "tensor 'norm': 4 weights need 16 bytes, the file has 15"),
    "no data at all": (GOOD[: -len(I2_S.data) - 64], "tensor 'token_embd.weight': 12 weights need 24 bytes"),
    "one byte of another file": (GOOD + b"P", "17 bytes follow the last tensor"),
    "another file behind": (GOOD + b"PK\5\6" + bytes(18), "38 bytes follow the last tensor"),
    "data without tensors": (gguf_bytes(METADATA, {}) + b"P", "1 bytes follow the last tensor"),
}

_TYPES = {
    "Q8_1": (_typed(9), "tensor 'w': type Q8_1 is not read; use a file that holds only F16, BF16, F32, I2_S"),
    "NVFP4": (_typed(40), "type NVFP4 is not read; use a file that holds only"),
    "I8_S": (_typed(37), "type I8_S is not read; it holds activations, not weights; take the I2_S file"),
    "TL1": (_typed(38), "type TL1 is not read; its order depends on the program that made it; take the I2_S file"),
    "TL2": (_typed(39), "type TL2 is not read; its order depends on the program that made it; take the I2_S file"),
    "Q1_0": (_typed(41), "type Q1_0 is not read; take the model's I2_S, TQ1_0 or TQ2_0 file"),
    "Q2_0": (_typed(42), "type Q2_0 is not read; take the model's I2_S, TQ1_0 or TQ2_0 file"),
    "IQ1_BN": (_typed(134), "type IQ1_BN is not read; only ik_llama.cpp reads it; take the I2_S file"),
    "IQ2_BN": (_typed(135), "type IQ2_BN is not read; only ik_llama.cpp reads it; take the I2_S file"),
    "PQ2_0": (_typed(142), "type PQ2_0 is not read; its weights are Hadamard-folded"),
    "PTQ1_0": (_typed(143), "type PTQ1_0 is not read; its weights are Hadamard-folded"),
    "IQ4_NL_4_4, the other 36": (_typed(36, LLAMA, 72), "type IQ4_NL_4_4 is not read; use a file that holds only"),
    "MXFP4 of no architecture": (_typed(39, {}, 68), "type MXFP4 is not read"),
    "MXFP4 of an architecture that is a list": (
        _typed(39, {"general.architecture": TypedValue(ValueType.STRING, ["bitnet"])}, 68),
        "type MXFP4 is not read",
    ),
    "IQ4_NL_4_8, the other 37": (_typed(37, LLAMA, 72), "type IQ4_NL_4_8 is not read"),
    "IQ4_NL_8_8, the other 38": (_typed(38, LLAMA, 72), "type IQ4_NL_8_8 is not read"),
    "MXFP4, the other 39": (_typed(39, LLAMA, 68), "type MXFP4 is not read; use a file that holds only"),
    "TL2 in a llama, in rows that MXFP4 cannot have": (
        gguf_bytes(LLAMA, {"w": Tensor((1, 130), TensorType.TL2, bytes(64))}),
        "type TL2 is not read",
    ),
    "TL2 in a llama": (_typed(39, LLAMA, 32), "type TL2 is not read"),
    "36 of neither size in a llama": (_typed(36, LLAMA, 128), "64 bytes follow the last tensor"),
    "36 of the other size in a bitnet": (_typed(36, METADATA, 72), "32 bytes follow the last tensor"),
}

BAD_FILES: dict[str, tuple[bytes, str]] = {**_HEADERS, **_KEYS, **_TABLES, **_DATA, **_TYPES}
"""name: (bytes of the file, words of the message)."""
