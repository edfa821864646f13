from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from engines.cuda_runtime_cache import (
    MAX_CACHE_BYTES,
    find_runtime_cache,
    read_runtime_cache,
    write_runtime_cache,
)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX rights")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return find_runtime_cache("ab" * 32, "SM89")


def test_each_engine_and_gpu_has_its_own(cache: Path, tmp_path: Path) -> None:
    assert cache.parent == tmp_path / "segvit" / "tensorrt-rtx"
    assert cache.name == f"{'ab' * 32}-sm89.runtime_cache"
    assert find_runtime_cache("ab" * 32, "SM120") != cache


def test_what_is_written_is_read_and_nobody_else_may_write_it(cache: Path) -> None:
    assert read_runtime_cache(cache) is None
    for data in (b"kernels", b"more kernels"):
        write_runtime_cache(cache, memoryview(data))
        assert read_runtime_cache(cache) == data
    assert stat.S_IMODE(cache.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    assert list(cache.parent.iterdir()) == [cache]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_others_may_write_is_not_trusted(cache: Path, what: str) -> None:
    write_runtime_cache(cache, b"kernels")
    (cache if what == "file" else cache.parent).chmod(0o777)
    with pytest.raises(ValueError, match=r"may be written by others \(owner \d+, mode 777\); del"):
        read_runtime_cache(cache)


def test_nothing_is_written_into_a_folder_of_others(cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.parent.chmod(0o777)
    with pytest.raises(ValueError, match="may be written by others"):
        write_runtime_cache(cache, b"kernels")
    assert not cache.exists()


def test_links_are_not_followed(cache: Path, tmp_path: Path) -> None:
    write_runtime_cache(cache, b"kernels")
    cache.rename(tmp_path / "elsewhere")
    cache.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"\.runtime_cache"):
        read_runtime_cache(cache)


def test_a_link_for_the_folder_is_not_trusted(cache: Path, tmp_path: Path) -> None:
    write_runtime_cache(cache, b"kernels")
    cache.parent.rename(tmp_path / "elsewhere")
    cache.parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="may be written by others"):
        read_runtime_cache(cache)


def test_a_file_of_unlikely_size_is_not_read(cache: Path) -> None:
    write_runtime_cache(cache, b"")
    os.truncate(cache, MAX_CACHE_BYTES + 1)
    with pytest.raises(ValueError, match="is no file of at most 1024 MiB"):
        read_runtime_cache(cache)
