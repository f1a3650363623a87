"""What MIL's operators compute, on torch tensors: those that decoders use, ours and coremltools' own conversions.

Arguments are named by MIL's parameters, tensors as torch tensors and strings as `str`. `MOVES` pass elements on as they
are; `MATHS` get float arguments in float32, and the evaluator rounds their results to the dtype that the program
declares. Source: the operator definitions of coremltools 9.0 (converters/mil/mil/ops/defs, iOS 15 to 18).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from targets.errors import MeasurementError

if TYPE_CHECKING:
    from torch import Tensor

_FIX = "validate it on a Mac, where Core ML itself runs it"
_HIDDEN = -10_000.0  # a mask's values up to here hide a key, whatever its score
Arguments = dict[str, Any]
Operator = Callable[[Arguments], Any]  # returns a tensor, or a list of them


def numbers(value: Tensor) -> list[int]:
    """Return a small integer tensor, of rank 0 or 1, as a list."""
    return [int(number) for number in value.reshape(-1).tolist()]


def slices(arguments: Arguments, shape: tuple[int, ...]) -> tuple[slice | int, ...]:
    """Return the index of `slice_by_index` and `slice_update`."""
    rank = len(shape)

    def listed(name: str) -> list[int]:
        return numbers(arguments[name]) if arguments.get(name) is not None else [0] * rank

    begin, end = listed("begin"), listed("end")
    begin_mask, end_mask, squeeze_mask = listed("begin_mask"), listed("end_mask"), listed("squeeze_mask")
    stride = listed("stride") if arguments.get("stride") is not None else [1] * rank
    return tuple(
        begin[axis]
        if squeeze_mask[axis]
        else slice(None if begin_mask[axis] else begin[axis], None if end_mask[axis] else end[axis], stride[axis])
        for axis in range(rank)
    )


def _reshape(arguments: Arguments) -> Any:
    x = arguments["x"]
    # A 0 keeps that dimension.
    shape = [x.shape[axis] if size == 0 else size for axis, size in enumerate(numbers(arguments["shape"]))]
    return x.reshape(shape)


def _expand_dims(arguments: Arguments) -> Any:
    x, axes = arguments["x"], numbers(arguments["axes"])
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _squeeze(arguments: Arguments) -> Any:
    x = arguments["x"]
    return x.squeeze() if arguments.get("axes") is None else x.squeeze(tuple(numbers(arguments["axes"])))


def _concat(arguments: Arguments) -> Any:
    import torch

    return torch.cat(arguments["values"], dim=int(arguments["axis"]))


def _stack(arguments: Arguments) -> Any:
    import torch

    return torch.stack(arguments["values"], dim=int(arguments["axis"]))


def _split(arguments: Arguments) -> Any:
    x, axis = arguments["x"], int(arguments["axis"])
    if arguments.get("split_sizes") is not None:
        return list(x.split(numbers(arguments["split_sizes"]), dim=axis))
    return list(x.chunk(int(arguments["num_splits"]), dim=axis))


def _gather(arguments: Arguments) -> Any:
    """Take from one axis: x[..., indices, ...]."""
    import torch

    if arguments.get("batch_dims") is not None and int(arguments["batch_dims"]) != 0:
        raise MeasurementError("this program gathers with batch_dims, which can't be evaluated here", fix=_FIX)
    x, indices, axis = arguments["x"], arguments["indices"], int(arguments["axis"])
    axis %= x.dim()
    flat = indices.reshape(-1).long()
    flat = torch.where(flat < 0, flat + x.shape[axis], flat)
    return x.index_select(axis, flat).reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _gather_along_axis(arguments: Arguments) -> Any:
    return arguments["x"].gather(int(arguments["axis"]), arguments["indices"].long())


def _slice_by_size(arguments: Arguments) -> Any:
    x, begin, size = arguments["x"], numbers(arguments["begin"]), numbers(arguments["size"])
    return x[tuple(slice(b, None if s == -1 else b + s) for b, s in zip(begin, size, strict=True))]


def _slice_update(arguments: Arguments) -> Any:
    x = arguments["x"].clone()
    x[slices(arguments, x.shape)] = arguments["update"]
    return x


def _shape(arguments: Arguments) -> Any:
    import torch

    return torch.tensor(arguments["x"].shape, dtype=torch.int32)


def _fill(arguments: Arguments) -> Any:
    import torch

    return torch.full(numbers(arguments["shape"]), arguments["value"].item())


def _range(arguments: Arguments) -> Any:
    import torch

    return torch.arange(arguments["start"].item(), arguments["end"].item(), arguments["step"].item())


def _select(arguments: Arguments) -> Any:
    import torch

    return torch.where(arguments["cond"].bool(), arguments["a"], arguments["b"])


def _band_part(arguments: Arguments) -> Any:
    import torch

    x, lower, upper = arguments["x"], int(arguments["lower"]), int(arguments["upper"])
    rows = torch.arange(x.shape[-2])[:, None]
    columns = torch.arange(x.shape[-1])[None, :]
    kept = ((lower < 0) | (rows - columns <= lower)) & ((upper < 0) | (columns - rows <= upper))
    return torch.where(kept, x, torch.zeros((), dtype=x.dtype))


MOVES: dict[str, Operator] = {
    "band_part": _band_part,
    "concat": _concat,
    "expand_dims": _expand_dims,
    "fill": _fill,
    "gather": _gather,
    "gather_along_axis": _gather_along_axis,
    "identity": lambda a: a["x"],
    "range_1d": _range,
    "reshape": _reshape,
    "select": _select,
    "shape": _shape,
    "slice_by_index": lambda a: a["x"][slices(a, a["x"].shape)],
    "slice_by_size": _slice_by_size,
    "slice_update": _slice_update,
    "split": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "tile": lambda a: a["x"].tile(numbers(a["reps"])),
    "transpose": lambda a: a["x"].permute(numbers(a["perm"])),
}


def _epsilon(arguments: Arguments) -> float:
    return float(arguments["epsilon"]) if arguments.get("epsilon") is not None else 0.0


def _reduced(method: str) -> Operator:
    def reduce(arguments: Arguments) -> Any:
        x = arguments["x"]
        axes = numbers(arguments["axes"]) if arguments.get("axes") is not None else list(range(x.dim()))
        return getattr(x, method)(dim=axes, keepdim=bool(arguments.get("keep_dims", False)))

    return reduce


def _matmul(arguments: Arguments) -> Any:
    x, y = arguments["x"], arguments["y"]
    x = x.transpose(-1, -2) if bool(arguments.get("transpose_x", False)) else x
    y = y.transpose(-1, -2) if bool(arguments.get("transpose_y", False)) else y
    return x @ y


def _linear(arguments: Arguments) -> Any:
    import torch

    return torch.nn.functional.linear(arguments["x"], arguments["weight"], arguments.get("bias"))


def attended_part(arguments: Arguments) -> Arguments:
    """Return attention's arguments without the last keys, if the mask hides those from all queries.

    A program in fixed shapes attends to its whole context. What is hidden has a probability of 0 in float32, so that
    the result is the same.
    """
    mask = arguments.get("attn_mask")
    if mask is None or not mask.is_floating_point() or mask.shape[-1] != arguments["key"].shape[-2]:
        return arguments
    seen = (mask <= _HIDDEN).logical_not().reshape(-1, mask.shape[-1]).any(dim=0).nonzero()
    count = int(seen[-1]) + 1 if len(seen) else mask.shape[-1]
    shorter = {name: arguments[name][..., :count, :] for name in ("key", "value")}
    return arguments | shorter | {"attn_mask": mask[..., :count]}


def _attention(arguments: Arguments) -> Any:
    """Return softmax(q k' / sqrt(d) + mask) v, without holding the scores of all heads in memory."""
    import torch

    query, key, value = arguments["query"], arguments["key"], arguments["value"]
    mask = arguments.get("attn_mask")
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.float()
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def _layer_norm(arguments: Arguments) -> Any:
    x, axes = arguments["x"], numbers(arguments["axes"])
    centred = x - x.mean(dim=axes, keepdim=True)
    normed = centred / (centred.square().mean(dim=axes, keepdim=True) + _epsilon(arguments)).sqrt()
    if arguments.get("gamma") is not None:
        normed = normed * arguments["gamma"]
    return normed + arguments["beta"] if arguments.get("beta") is not None else normed


def _gelu(arguments: Arguments) -> Any:
    import torch

    x, mode = arguments["x"], arguments.get("mode", "EXACT")
    if mode == "SIGMOID_APPROXIMATION":
        return x * (1.702 * x).sigmoid()
    return torch.nn.functional.gelu(x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


def _cumsum(arguments: Arguments) -> Any:
    x, axis = arguments["x"], int(arguments["axis"])
    backwards = bool(arguments.get("reverse", False))
    summed = x.flip(axis).cumsum(axis).flip(axis) if backwards else x.cumsum(axis)
    return summed - x if bool(arguments.get("exclusive", False)) else summed


def _quotient(arguments: Arguments) -> Any:
    x, y = arguments["x"], arguments["y"]
    return x / y if x.is_floating_point() or y.is_floating_point() else x.div(y, rounding_mode="floor")


def _blockwise_shift_scale(arguments: Arguments) -> Any:
    """Return scale * (data - offset), with one scale and one offset a block; the shapes' ratio is the block."""
    data, scale, offset = arguments["data"], arguments["scale"], arguments.get("offset")
    shape = data.shape
    blocks: list[int] = []
    for size, count in zip(shape, scale.shape, strict=True):
        blocks += [count, size // count]
    spread = [size for count in scale.shape for size in (count, 1)]
    values = data.float().reshape(blocks)
    if offset is not None:
        values = values - offset.float().reshape(spread)
    return (values * scale.float().reshape(spread)).reshape(shape)


def _lut_to_dense(arguments: Arguments) -> Any:
    """Look up each index in the table of its group. Scalar tables only: the last dimension of `lut` is 1."""
    indices, table = arguments["indices"], arguments["lut"]
    if table.shape[-1] != 1:
        raise MeasurementError("this program has tables of vectors, which can't be evaluated here", fix=_FIX)
    groups, entries = table.shape[:-2], table.shape[-2]
    place = indices.long()
    flat_group = place.new_zeros(())
    for axis, count in enumerate(groups):
        along = place.new_tensor(range(indices.shape[axis])) // (indices.shape[axis] // count)
        flat_group = flat_group * count + along.reshape([-1 if axis == other else 1 for other in range(len(groups))])
    return table.reshape(-1)[flat_group * entries + place]


MATHS: dict[str, Operator] = {
    "abs": lambda a: a["x"].abs(),
    "add": lambda a: a["x"] + a["y"],
    "cast": lambda a: a["x"],
    "ceil": lambda a: a["x"].ceil(),
    "clip": lambda a: a["x"].clamp(float(a["alpha"]), float(a["beta"])),
    "constexpr_blockwise_shift_scale": _blockwise_shift_scale,
    "constexpr_lut_to_dense": _lut_to_dense,
    "cos": lambda a: a["x"].cos(),
    "cumsum": _cumsum,
    "equal": lambda a: a["x"] == a["y"],
    "erf": lambda a: a["x"].erf(),
    "exp": lambda a: a["x"].exp(),
    "floor": lambda a: a["x"].floor(),
    "floor_div": lambda a: a["x"].div(a["y"], rounding_mode="floor"),
    "gelu": _gelu,
    "greater": lambda a: a["x"] > a["y"],
    "greater_equal": lambda a: a["x"] >= a["y"],
    "inverse": lambda a: 1 / (a["x"] + _epsilon(a)),
    "layer_norm": _layer_norm,
    "less": lambda a: a["x"] < a["y"],
    "less_equal": lambda a: a["x"] <= a["y"],
    "linear": _linear,
    "log": lambda a: (a["x"] + _epsilon(a)).log(),
    "logical_and": lambda a: a["x"].logical_and(a["y"]),
    "logical_not": lambda a: a["x"].logical_not(),
    "logical_or": lambda a: a["x"].logical_or(a["y"]),
    "matmul": _matmul,
    "maximum": lambda a: a["x"].maximum(a["y"]),
    "minimum": lambda a: a["x"].minimum(a["y"]),
    "mod": lambda a: a["x"].remainder(a["y"]),
    "mul": lambda a: a["x"] * a["y"],
    "not_equal": lambda a: a["x"] != a["y"],
    "pow": lambda a: a["x"] ** a["y"],
    "real_div": _quotient,
    "reduce_l2_norm": lambda a: (_reduced("sum")({**a, "x": a["x"].square()})).sqrt(),
    "reduce_max": _reduced("amax"),
    "reduce_mean": _reduced("mean"),
    "reduce_min": _reduced("amin"),
    "reduce_sum": _reduced("sum"),
    "relu": lambda a: a["x"].relu(),
    "round": lambda a: a["x"].round(),
    "rsqrt": lambda a: (a["x"] + _epsilon(a)).rsqrt(),
    "scaled_dot_product_attention": _attention,
    "sigmoid": lambda a: a["x"].sigmoid(),
    "sign": lambda a: a["x"].sign(),
    "silu": lambda a: a["x"] * a["x"].sigmoid(),
    "sin": lambda a: a["x"].sin(),
    "softmax": lambda a: a["x"].softmax(int(a["axis"]) if a.get("axis") is not None else -1),
    "sqrt": lambda a: a["x"].sqrt(),
    "square": lambda a: a["x"].square(),
    "sub": lambda a: a["x"] - a["y"],
    "tanh": lambda a: a["x"].tanh(),
}
