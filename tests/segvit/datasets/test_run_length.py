"""`segvit.datasets.run_length` against texts that cocoapi wrote, and an encoder of our own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segvit.datasets.run_length import decode_run_lengths
from tests.dataset_layouts import encode_runs

# Of pycocotools 2.0, `mask.encode`.
SMALL = "0182L0005"
LARGE = (
    "jU1d01" + "Oc01]O" * 12 + "O9U30lLG" + "Oc01]O" * 34 + "OQc0"
)  # fmt: skip


def test_texts_of_cocoapi() -> None:
    small = np.zeros((7, 5), bool)
    small[2:5, 1:4] = True
    small[0, 0] = True
    assert np.array_equal(decode_run_lengths(SMALL, (7, 5)), small)
    large = np.zeros((60, 80), bool)
    large[10:50, 20:70] = True
    large[30] = False
    large[:, 33:35] = True
    assert np.array_equal(decode_run_lengths(LARGE, (60, 80)), large)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_what_is_encoded_is_decoded(height: int, width: int, seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    assert np.array_equal(decode_run_lengths(encode_runs(mask), (height, width)), mask)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cut off or hold other characters"),
        ("01x", "cut off"),
        ("0 1", "other characters"),
        ("P" * 13 + "0", "more than 60 bits"),
        (SMALL[:-1], "sum to 26 pixels, expected 35"),
        (SMALL + "O", "run lengths sum to"),
    ],
)
def test_damaged_texts(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_run_lengths(text, (7, 5))
