"""`benchmarks.formulation` compiles both forms for real."""

import json

import pytest

from benchmarks.formulation import main


@pytest.mark.trt_rtx
def test_the_deploy_graph_takes_fewer_kernels_and_bytes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--model", "vit_t_landcover", "--tail-strips", "1", "--json"]
    assert main(options) == 0
    forms = json.loads(capsys.readouterr().out)["forms"]
    plain, ours = forms["plain export"], forms["deploy graph"]
    assert ours["kernels"] < 0.8 * plain["kernels"]
    assert ours["traffic_mb"] < plain["traffic_mb"]
    assert ours["fused_attentions"] == ours["attentions"]
