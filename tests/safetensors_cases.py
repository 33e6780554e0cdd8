"""Bad safetensors files and directories as data: what a stranger may send, and words of the error that must follow."""

import json
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt


def safetensors_file(header: object, data: bytes = b"") -> bytes:
    """Return a file with this header: an object, or its text as bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def safetensors_bytes(tensors: Mapping[str, tuple[str, npt.NDArray[np.generic]]]) -> bytes:
    """Return a file with these tensors, each a dtype name and the array as stored (bf16 as uint16)."""
    header, data = {}, b""
    for name, (dtype, array) in tensors.items():
        header[name] = tensor(dtype, list(array.shape), len(data), len(data) + array.nbytes)
        data += array.tobytes()
    return safetensors_file(header, data)


def tensor(dtype: object, shape: object, begin: object, end: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def _one(info: object, n_bytes: int = 16) -> bytes:
    return safetensors_file({"w": info}, bytes(n_bytes))


GOOD = safetensors_bytes(
    {"a": ("F32", np.arange(4, dtype="<f4")), "b": ("BF16", np.arange(6, dtype="<u2").reshape(2, 3))}
)
_INFO = b'{"dtype":"U8","shape":[4],"data_offsets":[0,4]}'
_TWO = {"a": tensor("U8", [4], 0, 4), "b": tensor("U8", [4], 4, 8)}

# name: (bytes of the file, words of the message)
BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "has 0 bytes"),
    "seven bytes": (bytes(7), "has 7 bytes"),
    "no header": (bytes(8), "byte 8: not a JSON object"),
    "header longer than the file": (GOOD[:40], "in a file of 40"),
    "header over the limit": ((100_000_001).to_bytes(8, "little") + b"{}", "at most 100,000,000"),
    "header of 2^64 - 1 bytes": (b"\xff" * 8 + b"{}", "18,446,744,073,709,551,615"),
    "pickle": (b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01K\x01s.", "byte 0: a header of"),
    "header is a list": (safetensors_file([]), "not a JSON object"),
    "header after a blank": (safetensors_file(b" {}"), "not a JSON object"),
    "header after a byte order mark": (safetensors_file(b"\xef\xbb\xbf{}"), "not a JSON object"),
    "header cut short": (safetensors_file(b'{"a": '), "byte 8: not JSON: Expecting value"),
    "header then rubbish": (safetensors_file(b"{} {}"), "byte 8: not JSON: Extra data"),
    "not UTF-8": (safetensors_file(b'{"\xff": 1}'), "not UTF-8 after 2 bytes"),
    "nested 100,000 deep": (safetensors_file(b'{"a":' + b"[" * 100_000), "nested too deep"),
    "number of 5,000 digits": (safetensors_file(b'{"a":' + b"9" * 5000 + b"}"), "not a whole number of 64 bits"),
    "number of 25 digits": (safetensors_file(b'{"a":' + b"9" * 25 + b"}"), "not a whole number of 64 bits"),
    "negative size": (_one(tensor("U8", [-16], 0, 16)), "not a whole number of 64 bits"),
    "negative offset": (_one(tensor("U8", [16], -16, 0)), "not a whole number of 64 bits"),
    "NaN": (_one(tensor("U8", [float("nan")], 0, 16)), "not a whole number of 64 bits"),
    "the same tensor twice": (
        safetensors_file(b'{"a":' + _INFO + b',"a":' + _INFO + b"}", bytes(4)),
        "'a' occurs twice",
    ),
    "a key twice": (safetensors_file(b'{"a":{"dtype":"U8","dtype":"I8"}}'), "'dtype' occurs twice"),
    "empty name": (safetensors_file({"": tensor("U8", [1], 0, 1)}, b"x"), "tensor name ''"),
    "endless name": (safetensors_file({"n" * 257: tensor("U8", [1], 0, 1)}, b"x"), "1 to 256 printable"),
    "name of control characters": (safetensors_file({"a\n\x1b[31m": tensor("U8", [1], 0, 1)}, b"x"), r"'a\n\x1b[31m'"),
    "name of half a surrogate pair": (safetensors_file(b'{"\\ud800":' + _INFO + b"}", bytes(4)), r"'\ud800'"),
    "metadata is a list": (safetensors_file({"__metadata__": []}), "'__metadata__'"),
    "metadata holds a number": (safetensors_file({"__metadata__": {"a": 1}}), "'__metadata__'"),
    "tensor is null": (_one(None), "tensor 'w': expected an object"),
    "key missing": (_one({"dtype": "U8", "shape": [16]}), "tensor 'w': expected an object"),
    "key too many": (_one(tensor("U8", [16], 0, 16) | {"strides": [1]}), "tensor 'w': expected an object"),
    "dtype is a number": (_one(tensor(1, [16], 0, 16)), "dtype is not a text"),
    "unknown dtype": (_one(tensor("F4", [32], 0, 16)), "dtype 'F4' is not supported"),
    "endless dtype": (_one(tensor("X" * 1000, [32], 0, 16)), "dtype 'XXXXXXXXXXXXXXXX' is not"),
    "shape is a text": (_one(tensor("U8", "16", 0, 16)), "shape is not a list"),
    "shape holds a fraction": (_one(tensor("U8", [16.0], 0, 16)), "shape is not a list"),
    "shape holds a truth value": (_one(tensor("U8", [16, True], 0, 16)), "shape is not a list"),
    "nine dimensions": (_one(tensor("U8", [16] + [1] * 8, 0, 16)), "shape is not a list of at most 8"),
    "elements overflow 64 bits": (_one(tensor("U8", [2**32, 2**32], 0, 0), 0), "18,446,744,073,709,551,616 bytes"),
    "bytes overflow 64 bits": (_one(tensor("F32", [2**62], 0, 0), 0), "18,446,744,073,709,551,616 bytes"),
    "2^48 bytes": (_one(tensor("U8", [2**48], 0, 2**48)), "281,474,976,710,656 bytes"),
    "shape larger than the bytes": (_one(tensor("F32", [5], 0, 16)), "F32 [5] is 20 bytes, the header gives 16"),
    "shape smaller than the bytes": (_one(tensor("BF16", [2, 3], 0, 16)), "BF16 [2, 3] is 12 bytes"),
    "one offset": (_one({"dtype": "U8", "shape": [16], "data_offsets": [0]}), "are not a beginning and an end"),
    "three offsets": (_one({"dtype": "U8", "shape": [16], "data_offsets": [0, 16, 16]}), "at most 2"),
    "offsets backwards": (_one(tensor("U8", [16], 16, 0)), "[16, 0] are not a beginning and an end"),
    "hole at the beginning": (_one(tensor("U8", [15], 1, 16)), "leaves a hole"),
    "hole between": (safetensors_file(_TWO | {"b": tensor("U8", [4], 5, 9)}, bytes(9)), "tensor 'b' at byte"),
    "overlap": (safetensors_file(_TWO | {"b": tensor("U8", [4], 3, 7)}, bytes(7)), "overlaps the one before"),
    "the same bytes twice": (safetensors_file(_TWO | {"b": tensor("U8", [4], 0, 4)}, bytes(4)), "overlaps"),
    "past the end": (safetensors_file(_TWO, bytes(4)), "the tensors end at byte"),
    "one byte short": (GOOD[:-1], "the tensors end at byte"),
    "a second file behind": (GOOD + b"PK\x03\x04", "the tensors end at byte"),
    "data without tensors": (safetensors_file({}, b"x"), "the tensors end at byte 10, the file has 11"),
}

_INDEX = "model.safetensors.index.json"


def _index(weight_map: object) -> bytes:
    return json.dumps({"metadata": {"total_size": 28}, "weight_map": weight_map}).encode()


_A = safetensors_bytes({"a": ("F32", np.arange(4, dtype="<f4"))})
_B = safetensors_bytes({"b": ("U8", np.arange(12, dtype="u1"))})
GOOD_SHARDS = {
    _INDEX: _index({"a": "model-1.safetensors", "b": "model-2.safetensors"}),
    "model-1.safetensors": _A,
    "model-2.safetensors": _B,
}

# name: (files of the directory, words of the message)
BAD_DIRECTORIES: dict[str, tuple[dict[str, bytes], str]] = {
    "nothing there": ({"config.json": b"{}"}, "neither model.safetensors nor"),
    "pickle only": ({"pytorch_model.bin": b"\x80\x02."}, "convert it to model.safetensors"),
    "pickle in shards": ({"pytorch_model-00001-of-00002.bin": b"\x80\x02."}, "convert it to model.safetensors"),
    "index is no object": (GOOD_SHARDS | {_INDEX: b"[]"}, "byte 0: not a JSON object"),
    "index with a key twice": (GOOD_SHARDS | {_INDEX: b'{"weight_map":{"a":"x","a":"y"}}'}, "'a' occurs twice"),
    "index too large": (GOOD_SHARDS | {_INDEX: b"{}" + b" " * (16 << 20)}, "at most 16,777,216"),
    "no weight_map": (GOOD_SHARDS | {_INDEX: b"{}"}, "'weight_map' is not"),
    "weight_map is a list": (GOOD_SHARDS | {_INDEX: _index(["a"])}, "'weight_map' is not"),
    "weight_map is empty": (GOOD_SHARDS | {_INDEX: _index({})}, "'weight_map' is not"),
    "name of control characters": (
        GOOD_SHARDS | {_INDEX: _index({"a\n": "model-1.safetensors"})},
        r"tensor name 'a\n'",
    ),
    "shard is a number": (GOOD_SHARDS | {_INDEX: _index({"a": 1})}, "shard of 'a' is not a file name"),
    "shard is another kind of file": (GOOD_SHARDS | {_INDEX: _index({"a": "model.bin"})}, "shard of 'a' is not"),
    "shard in the parent": (GOOD_SHARDS | {_INDEX: _index({"a": "../a.safetensors"})}, "shard of 'a' is not"),
    "shard in a folder": (GOOD_SHARDS | {_INDEX: _index({"a": "b/a.safetensors"})}, "shard of 'a' is not"),
    "shard with backslashes": (GOOD_SHARDS | {_INDEX: _index({"a": "..\\a.safetensors"})}, "shard of 'a' is not"),
    "absolute shard": (GOOD_SHARDS | {_INDEX: _index({"a": "/etc/a.safetensors"})}, "shard of 'a' is not"),
    "shard with NUL": (GOOD_SHARDS | {_INDEX: _index({"a": "a\0.safetensors"})}, "shard of 'a' is not"),
    "shard missing": ({_INDEX: GOOD_SHARDS[_INDEX], "model-1.safetensors": _A}, "shard model-2.safetensors is missing"),
    "tensor in no shard": (
        GOOD_SHARDS
        | {_INDEX: _index({"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"})},
        "tensor 'c' is not in its shard model-1.safetensors",
    ),
    "tensor in the other shard": (
        GOOD_SHARDS | {_INDEX: _index({"a": "model-2.safetensors", "b": "model-1.safetensors"})},
        "tensor 'a' is not in its shard model-2.safetensors",
    ),
    "tensor not in the index": (
        GOOD_SHARDS | {_INDEX: _index({"a": "model-1.safetensors"}), "model-1.safetensors": GOOD},
        "model-1.safetensors: tensor 'b' is not in model.safetensors.index.json",
    ),
    "tensor in two shards": (GOOD_SHARDS | {"model-2.safetensors": GOOD}, "tensor 'a' is in model-1.safetensors too"),
    "shard cut short": (GOOD_SHARDS | {"model-2.safetensors": _B[:-1]}, "model-2.safetensors: the tensors end at byte"),
}
