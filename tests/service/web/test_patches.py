from itertools import product

import pytest

from service.schemas import ImageView
from service.web.patches import PatchMap, Rect, patch_map, svg_path

BASE = ImageView(start=0, rows=4, columns=4, newline=False)
TILE = ImageView(start=16, rows=4, columns=4, newline=True)


def cells(rects: tuple[Rect, ...]) -> set[tuple[int, int]]:
    """The unit squares (x, y) that the rectangles cover; they must not overlap."""
    covered = [
        (x, y)
        for r in rects
        for x, y in product(range(r.x, r.x + r.width), range(r.y, r.y + r.height))
    ]
    assert len(covered) == len(set(covered))
    return set(covered)


def check_whole(patches: PatchMap) -> None:
    hidden, visible = cells(patches.hidden), cells(patches.visible)
    assert not hidden & visible
    assert hidden | visible == set(product(range(patches.width), range(patches.height)))


def test_tiles_show_their_part_of_the_picture() -> None:
    """Two tiles beside each other, of four patches each, then the whole picture."""
    left = ImageView(start=0, rows=2, columns=2, newline=False, tile_columns=2)
    right = left.model_copy(update={"start": 4, "tile_column": 1})
    whole = ImageView(start=8, rows=2, columns=2, newline=False)
    shown = patch_map([left, right, whole], [1, 6])
    assert (shown.width, shown.height) == (4, 2)
    assert sorted(shown.visible) == [(1, 0, 1, 1), (2, 1, 1, 1)]
    assert patch_map([left, right, whole], [8]).visible == ((0, 0, 2, 1),)


def test_a_base_view_and_a_tile_with_newlines() -> None:
    # The tile's rows are 5 tokens long: token 16 + 5 r + c shows row r, column c; c = 4 is newline.
    patches = patch_map([BASE, TILE], [3, 7, 16 + 5 * 2 + 1, 16 + 5 * 2 + 4])
    assert (patches.width, patches.height) == (4, 4)
    assert cells(patches.visible) == {(3, 0), (3, 1), (1, 2)}
    check_whole(patches)


def test_either_view_makes_a_patch_visible() -> None:
    patches = patch_map([BASE, TILE], [5, 16 + 5 + 1])
    assert patches.visible == (Rect(1, 1, 1, 1),)


@pytest.mark.parametrize("views", [[], [BASE], [BASE, TILE]])
def test_an_empty_mask_hides_the_whole_picture_in_one_piece(views: list[ImageView]) -> None:
    patches = patch_map(views, [])
    assert patches.hidden == (Rect(0, 0, patches.width, patches.height),)
    assert patches.visible == ()


@pytest.mark.parametrize("kept", [range(36), range(16), range(16, 36)])
def test_a_full_view_shows_the_whole_picture(kept: range) -> None:
    patches = patch_map([BASE, TILE], kept)
    assert patches.hidden == ()
    assert patches.visible == (Rect(0, 0, 4, 4),)


def test_newlines_show_nothing() -> None:
    assert patch_map([BASE, TILE], [20, 25, 30, 35]).visible == ()


def test_grids_of_different_size_are_laid_over_each_other() -> None:
    halves = ImageView(start=0, rows=1, columns=2, newline=False)
    thirds = ImageView(start=2, rows=2, columns=3, newline=True)
    # The left half, and of the thirds the middle one above and the right one below.
    patches = patch_map([halves, thirds], [0, 3, 8])
    assert (patches.width, patches.height) == (6, 2)
    top = {(x, 0) for x in (0, 1, 2, 3)}
    bottom = {(x, 1) for x in (0, 1, 2, 4, 5)}
    assert cells(patches.visible) == top | bottom
    check_whole(patches)


def test_every_single_token_of_a_large_geometry_shows_its_own_patch() -> None:
    base = ImageView(start=0, rows=6, columns=6, newline=False)
    tiles = ImageView(start=36, rows=9, columns=12, newline=True)
    width, height = 12, 18
    for view in (base, tiles):
        for row, column in product(range(view.rows), range(view.columns)):
            token = view.start + row * (view.columns + view.newline) + column
            patches = patch_map([base, tiles], [token])
            across, down = width // view.columns, height // view.rows
            assert patches.visible == (Rect(column * across, row * down, across, down),)
            check_whole(patches)


def test_a_path_draws_each_rectangle() -> None:
    assert svg_path([Rect(0, 0, 4, 1), Rect(2, 1, 2, 3)]) == "M0 0h4v1h-4zM2 1h2v3h-2z"
