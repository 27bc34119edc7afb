"""Which parts of the picture the kept image tokens show.

Views may overlay the same picture with grids of different size. An area is visible where any
view's token over it is kept, so everything is decided on the cells between all views' grid lines.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import lcm
from typing import NamedTuple

from service.schemas import ImageView


class Rect(NamedTuple):
    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class PatchMap:
    """The picture as disjoint rectangles, in units in which all grid lines fall on integers."""

    width: int
    height: int
    hidden: tuple[Rect, ...]
    visible: tuple[Rect, ...]


def patch_map(views: Sequence[ImageView], kept: Collection[int]) -> PatchMap:
    """What of the picture is hidden and what visible; without any view, all of it is hidden."""
    width = lcm(*(view.columns * view.tile_columns for view in views))
    height = lcm(*(view.rows * view.tile_rows for view in views))
    xs = _grid_lines(width, (view.columns * view.tile_columns for view in views))
    ys = _grid_lines(height, (view.rows * view.tile_rows for view in views))
    x_at = {x: index for index, x in enumerate(xs)}
    y_at = {y: index for index, y in enumerate(ys)}

    seen = [[False] * (len(xs) - 1) for _ in ys[1:]]
    for view in views:
        across = width // (view.columns * view.tile_columns)
        down = height // (view.rows * view.tile_rows)
        first_column, first_row = view.tile_column * view.columns, view.tile_row * view.rows
        for row, column in kept_patches(view, kept):
            x, y_top = (first_column + column) * across, (first_row + row) * down
            left, right = x_at[x], x_at[x + across]
            for y in range(y_at[y_top], y_at[y_top + down]):
                seen[y][left:right] = [True] * (right - left)

    return PatchMap(
        width=width,
        height=height,
        hidden=tuple(_rects(seen, xs, ys, value=False)),
        visible=tuple(_rects(seen, xs, ys, value=True)),
    )


def kept_patches(view: ImageView, kept: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Row and column of the view's kept patches; newline tokens and other views' are left out."""
    stride = view.columns + view.newline
    for token in kept:
        row, column = divmod(token - view.start, stride)
        if 0 <= row < view.rows and column < view.columns:
            yield row, column


def svg_path(rects: Iterable[Rect]) -> str:
    """One path for all of them, so that no seams show between neighbours."""
    return "".join(f"M{r.x} {r.y}h{r.width}v{r.height}h-{r.width}z" for r in rects)


def _grid_lines(size: int, counts: Iterable[int]) -> list[int]:
    return sorted({0, size}.union(*(range(0, size, size // count) for count in counts)))


def _rects(seen: list[list[bool]], xs: list[int], ys: list[int], *, value: bool) -> Iterator[Rect]:
    """The cells that equal `value`, joined along rows, then with equal runs in the rows below."""
    growing: dict[tuple[int, int], int] = {}  # a run's left and right edge -> where it began
    for y, row in zip(ys, [*seen, []], strict=True):
        runs = set(_runs(row, value))
        for run in sorted(growing.keys() - runs):
            top = growing.pop(run)
            left, right = xs[run[0]], xs[run[1]]
            yield Rect(left, top, right - left, y - top)
        for run in runs - growing.keys():
            growing[run] = y


def _runs(row: list[bool], value: bool) -> Iterator[tuple[int, int]]:
    start = None
    for index, cell in enumerate([*row, not value]):
        if cell == value and start is None:
            start = index
        elif cell != value and start is not None:
            yield start, index
            start = None
