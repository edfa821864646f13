"""What a measurement was made on."""

import os
from pathlib import Path

import pytest

from benchmarks import machine
from benchmarks.machine import describe_machine


def test_machine_is_described_without_naming_it() -> None:
    described = describe_machine()
    assert described["cores"] == os.cpu_count()
    assert described["processor"]
    assert str(described["torch"]).startswith("2.")
    assert os.uname().nodename not in map(str, described.values())


def test_cpu_info(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "_CPU_INFO", info)
    info.write_text("model name\t: A CPU: fast\nflags\t\t: fpu amx_bf16 avx2\n" * 2)
    described = describe_machine()
    assert (described["processor"], described["instructions"]) == ("A CPU: fast", "avx2 amx_bf16")
    info.write_text("Features\t: fp asimddp\n")
    assert describe_machine()["instructions"] == "asimddp"
    info.unlink()
    assert describe_machine()["instructions"] == "unknown"
