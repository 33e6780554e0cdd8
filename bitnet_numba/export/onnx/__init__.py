"""ONNX: the model as a graph that onnxruntime runs, its ternary layers as MatMulNBits with two bits a weight."""
