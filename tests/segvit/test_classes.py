"""`segvit.classes`: lists in files, published ones, chosen colours."""

from pathlib import Path

import pytest

from segvit.classes import distinct_palette, published_classes, read_classes


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("ade20k", 150, ("wall", (120, 120, 120))),
        ("coco_stuff10k", 171, ("person", (0, 192, 64))),
        ("pascal_context", 60, ("background", (120, 120, 120))),
    ],
)
def test_published_lists(name: str, count: int, first: tuple[str, tuple[int, int, int]]) -> None:
    names, palette = published_classes(name)
    assert len(names) == len(set(names)) == len(palette) == count
    assert (names[0], palette[0]) == first


def test_names_alone_get_colours(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("sky\n\nsea\n")
    assert read_classes(path) == (("sky", "sea"), distinct_palette(2))


def test_colours_of_the_list_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "classes.csv"
    path.write_text("sky, 1, 2, 3\nsea,255,0,9\n")
    assert read_classes(path) == (("sky", "sea"), ((1, 2, 3), (255, 0, 9)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected 1 to 255 classes, got 0"),
        ("sky,1,2,3\nsea", r"line 2: expected name,red,green,blue .* got 'sea'"),
        ("sky,1,2,300", r"line 1: .* got 'sky,1,2,300'"),
    ],
)
def test_a_malformed_list(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_classes(path)


def test_a_missing_list(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such list of classes"):
        read_classes(tmp_path / "none.txt")
