"""What a measurement was made on."""

import os

from benchmarks.machine import describe_machine


def test_machine_is_described_without_naming_it() -> None:
    machine = describe_machine()
    assert machine["cores"] == os.cpu_count()
    assert machine["processor"]
    assert str(machine["torch"]).startswith("2.")
    assert os.uname().nodename not in map(str, machine.values())
