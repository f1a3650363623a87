"""The operators that an ONNX file uses, with its opsets and IR version; those of subgraphs and functions included.

Source: onnx.proto (ModelProto: ir_version = 1, graph = 7, opset_import = 8, functions = 25; GraphProto.node = 1;
FunctionProto.node = 7; NodeProto: input = 1, op_type = 4, attribute = 5, domain = 7; AttributeProto: name = 1, i = 3,
g = 6, graphs = 11).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from registry.formats.forwards import REPLACE_BUNDLE, Forwards
from registry.formats.protobuf import fields, text
from targets.errors import BundleError

GRAPH_BYTES_LIMIT = 256 << 20  # a graph with external weights has a few MB
_IR_VERSION, _GRAPH, _OPSET_IMPORT, _FUNCTIONS = 1, 7, 8, 25
_GRAPH_NODE, _FUNCTION_NODE = 1, 7
_INPUT, _OP_TYPE, _ATTRIBUTE, _DOMAIN = 1, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _SUBGRAPH, _SUBGRAPHS = 1, 3, 6, 11
_NODES_LIMIT = 1 << 18  # far beyond any model's
_NESTED_LIMIT = 16
_SIGN = 1 << 63


@dataclass(frozen=True)
class Node:
    """One use of an operator. `integers`: its attributes that are integers; `inputs`: names, empty where left out."""

    domain: str
    operator: str
    inputs: tuple[str, ...] = ()
    integers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class OnnxModel:
    """What an ONNX file uses. `opsets`: by domain, the standard one's name is empty."""

    ir_version: int
    opsets: Mapping[str, int]
    nodes: tuple[Node, ...]


def read_model(file: Forwards, name: str, size: int) -> OnnxModel:
    """Read the file from its start. Raises `BundleError` where it is damaged; `name` is the file's in errors."""
    if size > GRAPH_BYTES_LIMIT:
        raise BundleError(
            f"{name}: a graph of {size} bytes; the limit is {GRAPH_BYTES_LIMIT}",
            fix="build the bundle with external weights",
        )
    try:
        return _model(memoryview(file.take(size)))
    except (ValueError, KeyError, IndexError) as error:
        raise BundleError(f"{name}: not an ONNX graph that can be read: {error}", fix=REPLACE_BUNDLE) from error


def _model(raw: memoryview) -> OnnxModel:
    ir_version, opsets, nodes = 0, {}, []
    for number, value in fields(raw):
        if isinstance(value, int):
            ir_version = value if number == _IR_VERSION else ir_version
        elif number == _OPSET_IMPORT:
            opset = dict(fields(value))
            version = opset.get(2, 0)
            opsets["" if 1 not in opset else text(opset[1])] = version if isinstance(version, int) else 0
        elif number in (_GRAPH, _FUNCTIONS):
            for node in _nodes(value, _GRAPH_NODE if number == _GRAPH else _FUNCTION_NODE):
                nodes.append(node)
                if len(nodes) > _NODES_LIMIT:
                    raise ValueError(f"more than {_NODES_LIMIT} nodes")
    return OnnxModel(ir_version, opsets, tuple(nodes))


def _nodes(raw: memoryview, node_number: int, nested: int = 0) -> Iterator[Node]:
    if nested > _NESTED_LIMIT:
        raise ValueError(f"subgraphs nested deeper than {_NESTED_LIMIT} levels")
    for number, value in fields(raw):
        if number == node_number and not isinstance(value, int):
            yield from _node(value, nested)


def _node(raw: memoryview, nested: int) -> Iterator[Node]:
    domain = operator = ""
    inputs: list[str] = []
    integers: dict[str, int] = {}
    for number, value in fields(raw):
        if isinstance(value, int):
            continue
        if number == _INPUT:
            inputs.append(text(value))
        elif number == _OP_TYPE:
            operator = text(value)
        elif number == _DOMAIN:
            domain = text(value)
        elif number == _ATTRIBUTE:
            for inner, part in fields(value):
                if inner in (_SUBGRAPH, _SUBGRAPHS) and not isinstance(part, int):
                    yield from _nodes(part, _GRAPH_NODE, nested + 1)
            attribute = dict(fields(value))
            if isinstance(found := attribute.get(_ATTRIBUTE_INT), int):
                integers[text(attribute[_ATTRIBUTE_NAME])] = found - 2 * _SIGN if found & _SIGN else found
    yield Node("" if domain == "ai.onnx" else domain, operator, tuple(inputs), integers)
