"""The forward pass as an ONNX graph, in the order and arithmetic of ``backends/numpy/operators.py``."""

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from bitnet_numba.export.onnx.builder import CONTRIB, GraphBuilder
from bitnet_numba.export.portable import linear_weights, rotations, stored_matrix
from bitnet_numba.model.source import ModelSource

BLOCK = 256  # weights that share a scale, here always 1; the largest block of onnxruntime
ZERO_CODE = 2  # MatMulNBits' zero where no zero points are given: 1, 2, 3 are -1, 0, +1
PRODUCER = "bitnet-numba"
INPUT, OUTPUT = "token_ids", "logits"


def build_model(source: ModelSource, max_context: int) -> onnx.ModelProto:
    """Return the graph from int64[n_tokens] token ids, at most ``max_context``, to float32[n_tokens, vocab_size]."""
    graph = _ModelGraph(source, max_context)
    x = graph.embedding()
    for layer in range(source.config.n_layers):
        x = graph.builder.add("Add", x, graph.attention(x, layer))
        x = graph.builder.add("Add", x, graph.feed_forward(x, layer))
    ids = helper.make_tensor_value_info(INPUT, TensorProto.INT64, ["n_tokens"])
    logits = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n_tokens", source.config.vocab_size])
    return graph.builder.model([ids], graph.head(x), logits, PRODUCER)


def pack_nbits(weights: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Pack int8[rows, columns] four a byte, lowest bits first, padded to blocks: uint8[rows, blocks, BLOCK // 4].

    References
    ----------
    onnxruntime, docs/ContribOperators.md: com.microsoft.MatMulNBits.
    """
    rows, columns = weights.shape
    n_blocks = -(-columns // BLOCK)
    codes = np.full((rows, n_blocks * BLOCK), ZERO_CODE, np.uint8)
    codes[:, :columns] = weights + ZERO_CODE
    quarters = codes.reshape(rows, n_blocks, BLOCK // 4, 4)
    return np.asarray(
        quarters[..., 0] | quarters[..., 1] << 2 | quarters[..., 2] << 4 | quarters[..., 3] << 6, np.uint8
    )


class _ModelGraph:
    """The parts of a model's graph; values are [n_tokens, features] unless noted."""

    def __init__(self, source: ModelSource, max_context: int) -> None:
        self.builder = GraphBuilder()
        self._source, self._config = source, source.config
        add, integers = self.builder.add, self.builder.integers
        n_tokens = add("Shape", INPUT)
        cosines, sines = rotations(source, max_context)
        self._cosines, self._sines = (
            add("Slice", self.builder.constant(name, table[:, None, :]), integers(0), n_tokens, integers(0))
            for name, table in (("cosines", cosines), ("sines", sines))
        )
        positions = add("Range", self._integer(0), add("Squeeze", n_tokens, integers(0)), self._integer(1))
        self._causal_mask = add(
            "LessOrEqual", self.builder.reshape(positions, 1, -1), self.builder.reshape(positions, -1, 1)
        )

    def embedding(self) -> str:
        """Gather the rows of the tokens."""
        rows = self.builder.add("Gather", self._matrix("token_embd"), INPUT)
        return self.builder.add("Cast", rows, to=TensorProto.FLOAT)

    def head(self, x: str) -> str:
        """Compute the logits."""
        matrix = self._matrix("token_embd" if self._source.tied else "output")
        transposed = self.builder.add("Transpose", self.builder.add("Cast", matrix, to=TensorProto.FLOAT), perm=[1, 0])
        return self.builder.add("MatMul", self._norm(x, "output_norm", None), transposed)

    def attention(self, x: str, layer: int) -> str:
        """Compute causal attention with its norms and projections."""
        config, add, reshape = self._config, self.builder.add, self.builder.reshape
        h = self._quantized(self._norm(x, "attn_norm", layer))
        group = config.n_heads // config.n_kv_heads
        query = self._rotated(self._linear(h, "attn_q", layer), config.n_heads)
        key = self._rotated(self._linear(h, "attn_k", layer), config.n_kv_heads)
        value = self._linear(h, "attn_v", layer)
        # [n_kv_heads, group, n_tokens, head_dim]; keys with the last two axes swapped
        queries = add("Transpose", reshape(query, -1, config.n_kv_heads, group, config.head_dim), perm=[1, 2, 0, 3])
        keys = add("Transpose", reshape(key, -1, config.n_kv_heads, 1, config.head_dim), perm=[1, 2, 3, 0])
        values = add("Transpose", reshape(value, -1, config.n_kv_heads, 1, config.head_dim), perm=[1, 2, 0, 3])
        scores = add("Mul", add("MatMul", queries, keys), self.builder.number(config.head_dim**-0.5))
        scores = add("Where", self._causal_mask, scores, self.builder.number(-np.inf))
        attention_output = add("MatMul", add("Softmax", scores, axis=-1), values)
        out = reshape(add("Transpose", attention_output, perm=[2, 0, 1, 3]), -1, config.n_heads * config.head_dim)
        if config.sub_norms:
            out = self._norm(out, "attn_sub_norm", layer)
        return self._linear(self._quantized(out), "attn_output", layer)

    def feed_forward(self, x: str, layer: int) -> str:
        """Compute the gated feed-forward network."""
        add = self.builder.add
        h = self._quantized(self._norm(x, "ffn_norm", layer))
        gate, up = self._linear(h, "ffn_gate", layer), self._linear(h, "ffn_up", layer)
        if self._config.activation == "relu2":
            positive = add("Relu", gate)
            activated = add("Mul", positive, positive)
        else:
            activated = add("Mul", gate, add("Sigmoid", gate))
        gated = add("Mul", activated, up)
        if self._config.sub_norms:
            gated = self._norm(gated, "ffn_sub_norm", layer)
        return self._linear(self._quantized(gated), "ffn_down", layer)

    def _norm(self, x: str, role: str, layer: int | None) -> str:
        """RMSNorm."""
        add, number = self.builder.add, self.builder.number
        mean = add("ReduceMean", add("Mul", x, x), self.builder.integers(-1), keepdims=1)
        root = add("Sqrt", add("Add", mean, number(self._config.rms_norm_eps)))
        weight = self.builder.constant(_name(role, layer), self._source.norm(role, layer))
        return add("Mul", add("Div", x, root), weight)

    def _quantized(self, x: str) -> tuple[str, str]:
        """Quantize each token to int8 values; return these, as floats, and the inverse of their scale."""
        add, number = self.builder.add, self.builder.number
        largest = add("ReduceMax", add("Abs", x), self.builder.integers(-1), keepdims=1)
        inverse_scale = add("Div", number(127), add("Max", largest, number(1e-5)))
        return add("Clip", add("Round", add("Mul", x, inverse_scale)), number(-128), number(127)), inverse_scale

    def _linear(self, quantized: tuple[str, str], role: str, layer: int) -> str:
        """Multiply int8 values by ternary weights, exactly, and apply both scales."""
        weights, scale = linear_weights(self._source, role, layer)
        rows, columns = weights.shape
        name, packed = _name(role, layer), pack_nbits(weights)
        ones = np.ones((rows, packed.shape[1]), np.float32)
        sums = self.builder.add(
            "MatMulNBits",
            quantized[0],
            self.builder.constant(name, packed),
            self.builder.constant(f"ones_{rows}_{packed.shape[1]}", ones),
            domain=CONTRIB,
            K=columns,
            N=rows,
            bits=2,
            block_size=BLOCK,
            accuracy_level=1,  # float32, in which sums of integers are exact; 4 would quantize again
        )
        return self.builder.add("Mul", sums, self.builder.add("Div", self.builder.number(float(scale)), quantized[1]))

    def _rotated(self, x: str, n_heads: int) -> str:
        """Rotate the pairs (i, i + head_dim / 2) of every head."""
        add, half = self.builder.add, self._config.head_dim // 2
        heads, axis = self.builder.reshape(x, -1, n_heads, 2 * half), self.builder.integers(-1)
        first = add("Slice", heads, self.builder.integers(0), self.builder.integers(half), axis)
        second = add("Slice", heads, self.builder.integers(half), self.builder.integers(2 * half), axis)
        rotated_first = add("Sub", add("Mul", first, self._cosines), add("Mul", second, self._sines))
        rotated_second = add("Add", add("Mul", second, self._cosines), add("Mul", first, self._sines))
        return add("Concat", rotated_first, rotated_second, axis=-1)

    def _integer(self, value: int) -> str:
        """Add an int64 scalar."""
        return self.builder.constant(f"int_{value}", np.array(value, np.int64))

    def _matrix(self, role: str) -> str:
        """Add the embedding or the head in its stored precision; int8 becomes float32."""
        values = stored_matrix(self._source, role)
        return self.builder.bfloat16(role, values) if values.dtype == np.int16 else self.builder.constant(role, values)


def _name(role: str, layer: int | None) -> str:
    return f"{role}.weight" if layer is None else f"blk.{layer}.{role}.weight"
