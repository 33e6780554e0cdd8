"""Builder of ONNX graphs, node by node."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 21  # of the standard operators; those used here are unchanged up to 26
IR_VERSION = 10  # the oldest that has it
CONTRIB = "com.microsoft"


class GraphBuilder:
    """Nodes and constants of a graph; values are identified by name."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add an operator with one output, and return the output's name."""
        output = f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], domain=domain, **attributes))
        return output

    def constant(self, name: str, values: npt.NDArray[Any]) -> str:
        """Add an array, unless there is one of this name, and return the name."""
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def bfloat16(self, name: str, bits: npt.NDArray[np.int16]) -> str:
        """Add an array of bfloat16 numbers by their bits; NumPy has no such type."""
        if name not in self._constants:
            data = bits.astype("<i2").tobytes()
            self._constants[name] = helper.make_tensor(name, TensorProto.BFLOAT16, bits.shape, data, raw=True)
        return name

    def number(self, value: float) -> str:
        """Add a float32 number."""
        return self.constant(f"float_{float(np.float32(value))!r}", np.array(value, np.float32))

    def integers(self, *values: int) -> str:
        """Add a list of int64 numbers, as shapes and axes are given."""
        return self.constant("ints_" + "_".join(map(str, values)), np.array(values, np.int64))

    def reshape(self, value: str, *shape: int) -> str:
        """Reshape a value; one size may be -1."""
        return self.add("Reshape", value, self.integers(*shape))

    def model(
        self, inputs: Sequence[onnx.ValueInfoProto], output: str, kind: onnx.ValueInfoProto, producer: str
    ) -> onnx.ModelProto:
        """Return the model whose only output, declared as ``kind``, is the value ``output``."""
        self._nodes.append(helper.make_node("Identity", [output], [kind.name]))
        graph = helper.make_graph(self._nodes, "bitnet", inputs, [kind], list(self._constants.values()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name=producer)
