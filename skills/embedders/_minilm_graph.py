"""Writes all-MiniLM-L6-v2 as an ONNX graph with int8 weights, straight from its tensors (no exporter, no torch).

Weights are quantised in blocks of 32 inputs and every token's activations on their own (onnxruntime's MatMulNBits),
unlike onnxruntime's dynamic quantisation, which takes one activation scale for the whole call. So a text's vector does
not depend on the texts beside it, and it is nearer to full precision than per-channel weights come. Texts of one call
must have the same number of tokens, which spares the graph padding and masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from skills.embedders._packages import require

Floats = npt.NDArray[np.float32]

LAYERS, HEADS, WIDTH = 6, 12, 384
HEAD_WIDTH = WIDTH // HEADS
EPSILON = 1e-12
"""`layer_norm_eps` of the model's config.json."""
BLOCK = 32
OPSET = 20
IR_VERSION = 9
_INT8_COMPUTE = 4
"""MatMulNBits' `accuracy_level` for int8 arithmetic (onnxruntime, ContribOperators.md)."""


def graph_bytes(tensors: Mapping[str, Floats]) -> bytes:
    """The serialised model: int64 `input_ids` (texts, tokens), `position_ids` (tokens) to `embedding` (texts, 384).

    `tensors` are those of the model's safetensors file, by name.
    """
    writer = _Writer(require("onnx"), tensors)
    hidden = _embeddings(writer)
    for number in range(LAYERS):
        hidden = _layer(writer, number, hidden)
    mean = writer.node("ReduceMean", hidden, writer.constant("token_axis", np.array([1])), keepdims=0)
    writer.node("LpNormalization", mean, name="embedding", axis=-1, p=2)
    return writer.finish()


class _Writer:
    """Collects nodes and constants made of the model's tensors; every node is named after its one output."""

    def __init__(self, onnx: Any, tensors: Mapping[str, Floats]) -> None:
        self.tensors = tensors
        self._onnx = onnx
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def constant(self, name: str, array: npt.NDArray[Any]) -> str:
        if name not in self._constants:
            self._constants[name] = self._onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def node(self, operator: str, *inputs: str, name: str | None = None, **attributes: object) -> str:
        output = name or f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def finish(self) -> bytes:
        helper, types = self._onnx.helper, self._onnx.TensorProto
        graph = helper.make_graph(
            self._nodes,
            "all-MiniLM-L6-v2",
            [
                helper.make_tensor_value_info("input_ids", types.INT64, ["texts", "tokens"]),
                helper.make_tensor_value_info("position_ids", types.INT64, ["tokens"]),
            ],
            [helper.make_tensor_value_info("embedding", types.FLOAT, ["texts", WIDTH])],
            list(self._constants.values()),
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="enlist")
        return bytes(model.SerializeToString())


def _embeddings(writer: _Writer) -> str:
    """Word (kept as float16: half the file), position and token-type embeddings, summed and normalised."""
    words = writer.constant("words", writer.tensors["embeddings.word_embeddings.weight"].astype(np.float16))
    places = (
        writer.tensors["embeddings.position_embeddings.weight"]
        + writer.tensors["embeddings.token_type_embeddings.weight"][0]
    )
    gathered = writer.node("Gather", words, "input_ids")
    widened = writer.node("Cast", gathered, to=1)
    placed = writer.node("Gather", writer.constant("places", places), "position_ids")
    return _layer_norm(writer, "embeddings.LayerNorm", writer.node("Add", widened, placed))


def _layer(writer: _Writer, number: int, hidden: str) -> str:
    """One encoder layer of BERT: self-attention, then the feed-forward part, each with residual and layer norm."""
    at = f"encoder.layer.{number}"
    mixed = _linear(writer, f"{at}.attention.output.dense", _attention(writer, at, hidden))
    hidden = _layer_norm(writer, f"{at}.attention.output.LayerNorm", writer.node("Add", mixed, hidden))
    inner = writer.node("Gelu", _linear(writer, f"{at}.intermediate.dense", hidden))
    outer = _linear(writer, f"{at}.output.dense", inner)
    return _layer_norm(writer, f"{at}.output.LayerNorm", writer.node("Add", outer, hidden))


def _attention(writer: _Writer, at: str, hidden: str) -> str:
    apart = writer.constant("apart", np.array([0, 0, HEADS, HEAD_WIDTH]))
    together = writer.constant("together", np.array([0, 0, WIDTH]))

    def heads(role: str, order: tuple[int, ...]) -> str:
        projected = _linear(writer, f"{at}.attention.self.{role}", hidden)
        return writer.node("Transpose", writer.node("Reshape", projected, apart), perm=order)

    scale = writer.constant("scale", np.array(HEAD_WIDTH**-0.5, dtype=np.float32))
    scores = writer.node("MatMul", heads("query", (0, 2, 1, 3)), heads("key", (0, 2, 3, 1)))
    shares = writer.node("Softmax", writer.node("Mul", scores, scale), axis=-1)
    read = writer.node("MatMul", shares, heads("value", (0, 2, 1, 3)))
    return writer.node("Reshape", writer.node("Transpose", read, perm=(0, 2, 1, 3)), together)


def _layer_norm(writer: _Writer, at: str, hidden: str) -> str:
    weight = writer.constant(f"{at}.weight", writer.tensors[f"{at}.weight"])
    bias = writer.constant(f"{at}.bias", writer.tensors[f"{at}.bias"])
    return writer.node("LayerNormalization", hidden, weight, bias, axis=-1, epsilon=EPSILON)


def _linear(writer: _Writer, at: str, hidden: str) -> str:
    weight = writer.tensors[f"{at}.weight"]
    outputs, inputs = weight.shape
    integers, scales = quantised(weight)
    product = writer.node(
        "MatMulNBits",
        hidden,
        writer.constant(f"{at}.integers", integers),
        writer.constant(f"{at}.scales", scales),
        domain="com.microsoft",
        K=inputs,
        N=outputs,
        bits=8,
        block_size=BLOCK,
        accuracy_level=_INT8_COMPUTE,
    )
    return writer.node("Add", product, writer.constant(f"{at}.bias", writer.tensors[f"{at}.bias"]))


def quantised(weight: Floats) -> tuple[npt.NDArray[np.uint8], Floats]:
    """A weight (outputs, inputs) as bytes (outputs, blocks, 32) around 128, and one scale per block (flat)."""
    outputs, inputs = weight.shape
    blocks = weight.reshape(outputs, inputs // BLOCK, BLOCK)
    scales = np.abs(blocks).max(axis=-1) / 127.0
    steps = np.divide(blocks, scales[..., None], out=np.zeros_like(blocks), where=scales[..., None] > 0)
    return (np.rint(steps) + 128).astype(np.uint8), scales.astype(np.float32).ravel()
