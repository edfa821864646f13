"""Cells: they tile the image, know their windows, and sums by cell become the mean scores."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from export.cells import join_cells, list_cells
from segvit.inference import list_windows


@st.composite
def layouts(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    crop = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    stride = tuple(draw(st.integers(1, side)) for side in crop)
    size = tuple(side + draw(st.integers(0, 30)) for side in crop)
    return (size[0], size[1]), crop, (stride[0], stride[1])


@given(layouts())
def test_each_pixel_lies_in_one_cell_of_its_windows(
    layout: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
) -> None:
    size, crop, _ = layout
    windows = list_windows(*layout)
    seen = np.zeros(size, np.int64)
    for cell in list_cells(*layout):
        area = np.s_[cell.rows.first : cell.rows.last, cell.columns.first : cell.columns.last]
        seen[area] += 1
        for y, x in ((cell.rows.first, cell.columns.first),
                     (cell.rows.last - 1, cell.columns.last - 1)):  # fmt: skip
            covering = [(top, left) for top, left in windows
                        if top <= y < top + crop[0] and left <= x < left + crop[1]]  # fmt: skip
            assert cell.windows == covering
    assert (seen == 1).all()


def test_cells_by_hand() -> None:
    """Three windows of 512 with a stride of 341 over 1024: starts 0, 341 and 512."""
    cells = list_cells((512, 1024), (512, 512), (341, 341))
    assert [cell.columns[:2] for cell in cells] == [(0, 341), (341, 512), (512, 853), (853, 1024)]
    assert [cell.columns.starts for cell in cells] == [(0,), (0, 341), (341, 512), (512,)]
    assert [cell.padding for cell in cells] == [3, 5, 3, 5]


def test_sums_by_cell_become_means_of_the_image() -> None:
    size, crop, stride = (10, 13), (6, 6), (4, 4)
    rng = np.random.default_rng(0)
    total, count = np.zeros((3, *size)), np.zeros(size)
    scores = {window: rng.random((3, *crop)) for window in list_windows(size, crop, stride)}
    for (top, left), window in scores.items():
        total[:, top : top + 6, left : left + 6] += window
        count[top : top + 6, left : left + 6] += 1
    cells = list_cells(size, crop, stride)
    parts = []
    for cell in cells:
        area = np.s_[:, cell.rows.first : cell.rows.last, cell.columns.first : cell.columns.last]
        # Beside the cell, and in classes beyond the third, lies what must not be read.
        part = np.full((4, cell.rows.pixels, cell.columns.pixels + cell.padding), np.nan)
        part[:3, :, : cell.columns.pixels] = total[area]
        parts.append(part.reshape(1, 4, -1))
    np.testing.assert_allclose(join_cells(parts, cells, 3), total / count, rtol=1e-6)
