"""A picture of how a bundle's budget was spent. Needs `phipack[plot]`."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from phipack.api.arguments import AnyPath, as_bundle, as_path
from registry.bundle.folder import Bundle
from registry.bundle.manifest import BudgetEntry, MatrixEntry
from registry.files.output_file import check_output_file, write_output_file
from targets.errors import BundleError, SetupError
from targets.formatting import budget_shown
from targets.installation import install_command

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SUFFIXES = (".svg", ".png")
_LAYER = re.compile(r"model\.layers\.(?P<layer>\d+)\.(?:self_attn\.|mlp\.)?(?P<kind>.+)\.weight")
# Shapes in addition to colours, which come from cividis: the order of its lightness is seen with any colour vision.
_MARKERS = "osD^vPXp*hd"
_COLUMNS = 2
_DARKEST, _LIGHTEST = 0.0, 0.9  # of cividis; its end is too pale on white
_INCHES = (9.0, 2.1)  # width of the picture, height of a row of panels


def plot_sensitivities(bundle: AnyPath | Bundle, out: AnyPath) -> None:
    """Draw the sensitivity of each matrix by layer, a panel for each kind of matrix, marked by the type it was given.

    Args:
        bundle: a folder or an opened bundle, built with a budget.
        out: the picture: `.svg` or `.png`.

    Raises:
        BundleError: the bundle has no budget, or the name has another ending.
        SetupError: matplotlib is not installed.
        BuildError: `out` can't be written.
    """
    place, opened = as_path(out), as_bundle(bundle)
    budget = opened.manifest.recipe.budget
    if place.suffix not in _SUFFIXES:
        raise BundleError(f"{place} is no picture that can be drawn", fix=f"name a file in {' or '.join(_SUFFIXES)}")
    if budget is None:
        raise BundleError(
            f"{opened.path} was built without a budget: its types are the recipe's, and no sensitivity was measured",
            fix="build it with --at-most or --bits",
        )
    check_output_file(place)
    write_output_file(place, _drawn(budget, opened.manifest.recipe.name, place.suffix.removeprefix(".")))


def _drawn(budget: BudgetEntry, recipe: str, form: str) -> bytes:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SetupError("drawing needs matplotlib", fix=install_command("plot")) from error

    content = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "phipack"}):  # the same figures give the same file
        figure = Figure(layout="constrained")
        _draw(figure, budget, recipe)
        figure.savefig(content, format=form, dpi=150, metadata={"Date": None} if form == "svg" else None)
    return content.getvalue()


def _draw(figure: Figure, budget: BudgetEntry, recipe: str) -> None:
    kinds = by_kind(budget.matrices)
    looks = _looks(budget.matrices)
    rows = math.ceil(len(kinds) / _COLUMNS)
    figure.set_size_inches(_INCHES[0], _INCHES[1] * rows + 1.3)
    axes = list(figure.subplots(rows, _COLUMNS, sharey=True, squeeze=False).flat)
    least = min((one.sensitivity for one in budget.matrices if one.sensitivity > 0), default=1e-6)
    for axis, (kind, matrices) in zip(axes, kinds.items(), strict=False):
        _panel(axis, kind, matrices, looks, least / 2)
    for axis in axes[len(kinds) :]:
        axis.remove()
    figure.supylabel("KL divergence with this matrix alone in 4 bits, nats", fontsize=9)
    title = f"{recipe}, {budget_shown(budget.asked)}: sensitivity of each matrix, and the type that was chosen for it"
    figure.suptitle(title, fontsize=11)
    has_none = any(one.sensitivity == 0 for one in budget.matrices)
    figure.legend(
        handles=[_legend_entry(name, look) for name, look in looks.items()],
        title="type, coarsest first" + ("; a marker without a stem: no divergence was measured" if has_none else ""),
        loc="outside lower center",
        ncols=min(len(looks), 6),
        fontsize=9,
        title_fontsize=9,
    )


def by_kind(matrices: Sequence[MatrixEntry]) -> dict[str, list[tuple[int | None, MatrixEntry]]]:
    """Return matrices with their layers, by kind (`qkv_proj`, …); those outside of the layers together, last."""
    found: dict[str, list[tuple[int | None, MatrixEntry]]] = {}
    outside: list[tuple[int | None, MatrixEntry]] = []
    for matrix in matrices:
        match = _LAYER.fullmatch(matrix.name)
        if match is None:
            outside.append((None, matrix))
        else:
            found.setdefault(match["kind"], []).append((int(match["layer"]), matrix))
    return found | ({"outside of the layers": outside} if outside else {})


def _looks(matrices: Sequence[MatrixEntry]) -> Mapping[str, tuple[Any, str, int]]:
    """Return colour, marker and number of matrices of each type, from the coarsest to the finest."""
    from matplotlib import colormaps

    relative_cost: dict[str, float] = {}
    counts: dict[str, int] = {}
    for matrix in matrices:  # a type costs the same share of the sensitivity in every matrix
        share = matrix.cost / matrix.sensitivity if matrix.sensitivity else 0.0
        relative_cost[matrix.storage] = max(share, relative_cost.get(matrix.storage, 0.0))
        counts[matrix.storage] = counts.get(matrix.storage, 0) + 1
    ordered = sorted(relative_cost, key=lambda kind: (-relative_cost[kind], kind))
    step = (_LIGHTEST - _DARKEST) / max(len(ordered) - 1, 1)
    return {
        kind: (colormaps["cividis"](_LIGHTEST - place * step), _MARKERS[place % len(_MARKERS)], counts[kind])
        for place, kind in enumerate(ordered)
    }


def _panel(
    axis: Axes,
    kind: str,
    matrices: Sequence[tuple[int | None, MatrixEntry]],
    looks: Mapping[str, tuple[Any, str, int]],
    floor: float,
) -> None:
    """Draw one kind of matrix: a stem and a marker for each layer. What has no sensitivity at all is at the floor."""
    for place, (layer, matrix) in enumerate(matrices):
        at = place if layer is None else layer
        colour, marker, _ = looks[matrix.storage]
        height = max(matrix.sensitivity, floor)
        axis.vlines(at, floor, height, color="0.8", linewidth=1, zorder=1)
        axis.plot(at, height, marker, color=colour, markeredgecolor="black", markeredgewidth=0.5, markersize=6)
    axis.set_yscale("log")
    axis.set_title(kind, fontsize=9, loc="left")
    axis.grid(axis="y", color="0.9", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8)
    axis.margins(x=0.03)
    if matrices[0][0] is None:
        names = [matrix.name.removeprefix("model.").removesuffix(".weight") for _, matrix in matrices]
        axis.set_xticks(range(len(names)), names)
        axis.set_xlim(-0.5, len(names) - 0.5)
    else:
        axis.set_xlabel("layer", fontsize=8)
        axis.xaxis.get_major_locator().set_params(integer=True)


def _legend_entry(name: str, look: tuple[Any, str, int]) -> Any:
    from matplotlib.lines import Line2D

    colour, marker, number = look
    label = f"{name} ({number})"
    return Line2D([], [], linestyle="", marker=marker, color=colour, markeredgecolor="black", label=label)
