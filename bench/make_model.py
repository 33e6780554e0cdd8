"""Write a model of a known shape with random weights, so that speed can be measured without a download.

    python bench/make_model.py 2B-4T /tmp/2b.gguf
    python bench/make_model.py 2B-4T /tmp/2b-tq2.gguf --for-llama-cpp

llama.cpp reads no I2_S and knows no bitnet-b1.58: for it, linear layers are TQ2_0 and the architecture is its own
bitnet, of the same sizes and matrices, with another activation. This engine reads both.

Weights are ternary with mean zero (other random codes let the activations collapse), scales keep the activations near
one, the tokenizer is one token a byte and as many unused ones as the vocabulary needs.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitnet_numba.formats.gguf import TensorType, TypedValue, ValueType
from bitnet_numba.formats.gguf_writer import TensorSource, write_gguf
from bitnet_numba.formats.packing.i2s import pack_i2s
from bitnet_numba.formats.packing.tq import pack_tq2_0
from bitnet_numba.formats.tensor_formats import FORMATS
from bitnet_numba.model.families import family_of

CODES = 1 << 22  # random weights, of which every matrix takes its own stretch
SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, by their standard names, and the architecture that GGUF names it by."""

    architecture: str
    n_layers: int
    hidden_size: int
    intermediate_size: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    max_seq_len: int = 4096
    tied: bool = True


SHAPES = {
    "0.7B": Shape("bitnet", 24, 1536, 4096, 16, 16, 32002, 2048),  # 1bitLLM/bitnet_b1_58-large
    "2B-4T": Shape("bitnet-b1.58", 30, 2560, 6912, 20, 5, 128256),  # microsoft/bitnet-b1.58-2B-4T
    "8B": Shape("llama", 32, 4096, 14336, 32, 8, 128256, 8192, tied=False),  # HF1BitLLM/Llama3-8B-1.58-100B-tokens
}


def byte_letters() -> list[str]:
    """Return the letters that stand for the 256 bytes, as GPT-2 chose them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + i) for i, byte in enumerate(sorted(set(range(256)) - set(printable)))}
    return [letters[byte] for byte in range(256)]


def metadata(name: str, shape: Shape, linear_type: TensorType = TensorType.I2_S) -> dict[str, object]:
    """Return the keys of a GGUF file."""
    words = byte_letters()
    words += [f"<unused{i}>" for i in range(shape.vocab_size - len(words) - len(SPECIAL))]
    kinds = [1] * 256 + [5] * (len(words) - 256) + [3] * len(SPECIAL)
    prefix = shape.architecture
    return {
        "general.architecture": prefix,
        "general.name": f"random {name}",
        f"{prefix}.vocab_size": shape.vocab_size,
        f"{prefix}.context_length": shape.max_seq_len,
        f"{prefix}.embedding_length": shape.hidden_size,
        f"{prefix}.block_count": shape.n_layers,
        f"{prefix}.feed_forward_length": shape.intermediate_size,
        f"{prefix}.rope.dimension_count": shape.hidden_size // shape.n_heads,
        f"{prefix}.attention.head_count": shape.n_heads,
        f"{prefix}.attention.head_count_kv": shape.n_kv_heads,
        f"{prefix}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{prefix}.rope.freq_base": 500000.0,
        "general.file_type": FORMATS[linear_type].file_type,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": [*words, *SPECIAL],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": TypedValue(ValueType.STRING, []),
        "tokenizer.ggml.bos_token_id": shape.vocab_size - 3,
        "tokenizer.ggml.eos_token_id": shape.vocab_size - 2,
        "tokenizer.ggml.add_bos_token": True,
    }


class RandomTensors:
    """Random tensors of a shape, made one at a time."""

    def __init__(self, shape: Shape, linear_type: TensorType = TensorType.I2_S) -> None:
        self._shape, self._linear_type = shape, linear_type
        self._rng = np.random.default_rng(0)
        self._ternary = self._rng.integers(-1, 2, CODES).astype(np.int8)

    def tensors(self) -> Iterator[TensorSource]:
        """Yield every tensor, in the order of the official file."""
        shape = self._shape
        hidden, ffn, kv = shape.hidden_size, shape.intermediate_size, shape.hidden_size * shape.n_kv_heads
        kv //= shape.n_heads
        for name in ["token_embd", *([] if shape.tied else ["output"])]:
            yield TensorSource(f"{name}.weight", TensorType.F16, (shape.vocab_size, hidden), self._embedding)
        for layer in range(shape.n_layers):
            rows_columns = {
                "attn_q": (hidden, hidden),
                "attn_k": (kv, hidden),
                "attn_v": (kv, hidden),
                "attn_output": (hidden, hidden),
                "ffn_gate": (ffn, hidden),
                "ffn_up": (ffn, hidden),
                "ffn_down": (hidden, ffn),
            }
            for role, size in rows_columns.items():
                yield self._linear(f"blk.{layer}.{role}.weight", size)
            norms = {"attn_norm": hidden, "ffn_norm": hidden}
            if family_of(shape.architecture).sub_norms:
                norms |= {"attn_sub_norm": hidden, "ffn_sub_norm": ffn}
            for role, length in norms.items():
                yield self._norm(f"blk.{layer}.{role}.weight", length)
        yield self._norm("output_norm.weight", hidden)

    def _embedding(self) -> npt.NDArray[np.float16]:
        shape = self._shape
        return self._rng.standard_normal((shape.vocab_size, shape.hidden_size), np.float32).astype(np.float16)

    def _linear(self, name: str, size: tuple[int, int]) -> TensorSource:
        def read() -> npt.NDArray[np.uint8]:
            start = int(self._rng.integers(CODES))
            weights = np.resize(np.roll(self._ternary, start), size)
            pack = pack_i2s if self._linear_type is TensorType.I2_S else pack_tq2_0
            return pack(weights, float(np.sqrt(1.5 / size[1])))  # two thirds of the weights are not zero

        return TensorSource(name, self._linear_type, size, read)

    def _norm(self, name: str, length: int) -> TensorSource:
        def read() -> npt.NDArray[np.float32]:
            return (1 + 0.1 * self._rng.standard_normal(length)).astype(np.float32)

        return TensorSource(name, TensorType.F32, (length,), read)


def make_model(name: str, path: Path, *, for_llama_cpp: bool = False) -> None:
    """Write the model of a shape, in a folder that is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape, linear_type = SHAPES[name], TensorType.I2_S
    if for_llama_cpp:
        linear_type = TensorType.TQ2_0
        if shape.architecture != "llama":
            shape = replace(shape, architecture="bitnet")
    write_gguf(path, metadata(name, shape, linear_type), RandomTensors(shape, linear_type).tensors())


def main() -> None:
    """Write the file that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--for-llama-cpp", action="store_true", help="write what it reads: TQ2_0, architecture bitnet")
    arguments = parser.parse_args()
    make_model(arguments.shape, arguments.out, for_llama_cpp=arguments.for_llama_cpp)


if __name__ == "__main__":
    main()
