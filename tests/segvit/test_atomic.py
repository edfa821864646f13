from __future__ import annotations

from pathlib import Path

import pytest

from segvit.atomic import make_folder, replace_file, replace_folder, write_bytes


def test_a_file_appears_whole_in_a_folder_made_for_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deeper" / "a.bin"
    write_bytes(path, b"one")
    write_bytes(path, memoryview(b"two"))
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_fails_half_way_leaves_the_old_file(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write() -> None:
        with replace_file(path) as temporary:
            temporary.write_bytes(b"ne")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_errors_name_the_file_asked_for(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    with pytest.raises(IsADirectoryError) as caught:
        write_bytes(tmp_path / "folder", b"x")
    assert caught.value.filename == str(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_folder_is_replaced_when_its_block_ends_well(tmp_path: Path) -> None:
    folder = tmp_path / "result"
    for text in ("one", "two"):
        with replace_folder(folder) as staged:
            (staged / f"{text}.txt").write_text(text)
            assert not (folder / f"{text}.txt").exists()
    assert [path.name for path in folder.iterdir()] == ["two.txt"]
    assert list(tmp_path.iterdir()) == [folder]


def test_errors_inside_a_staged_folder_name_the_final_one(tmp_path: Path) -> None:
    folder = tmp_path / "result"

    def write() -> None:
        with replace_folder(folder) as staged:
            (staged / "a.txt").mkdir()
            (staged / "a.txt").write_text("")

    with pytest.raises(IsADirectoryError) as caught:
        write()
    assert caught.value.filename == str(folder / "a.txt")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_a_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file, expected a folder"):
        make_folder(tmp_path / "file")
    with pytest.raises(NotADirectoryError, match="is a file, expected a folder"):
        replace_folder(tmp_path / "file").__enter__()
