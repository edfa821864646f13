"""Raw annotations to masks of class ids, many at a time; what is already there is left alone.

`H, W` pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from segvit.images import write_png

Mask = NDArray[np.uint8]
UNKNOWN = -1
_IDS_SHOWN = 5


@dataclass(frozen=True)
class Prepared:
    """What a preparation did."""

    annotations: str
    masks_written: int
    masks_skipped: int
    images_linked: int = 0
    images_copied: int = 0
    images_skipped: int = 0
    lists_written: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class MaskJob(NamedTuple):
    """A mask to write, and the function that makes it."""

    target: Path
    make: Callable[[], Mask]


def write_masks(jobs: Iterable[MaskJob], workers: int, progress: bool) -> tuple[int, int]:
    """Write the masks that are not there yet; return how many were written and skipped.

    Each file appears whole or not at all, so that an interrupted run can be taken up again.

    Args:
        jobs: the masks.
        workers: threads; decompression and PNG encoding run side by side.
        progress: show a bar.

    Raises:
        ValueError: of the first mask that cannot be made; those begun are still finished.
        OSError: if a file cannot be written.
    """
    jobs = list(jobs)
    waiting = [job for job in jobs if not job.target.is_file()]
    with ThreadPoolExecutor(workers) as pool:
        try:
            written = pool.map(_write, waiting)
            for _ in tqdm(written, total=len(waiting), unit="mask", disable=not progress):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return len(waiting), len(jobs) - len(waiting)


def read_mat(path: Path, key: str) -> NDArray[Any]:
    """Return one variable of a MATLAB file.

    Raises:
        FileNotFoundError: if there is no such file.
        ModuleNotFoundError: if SciPy is not installed.
        ValueError: if it is damaged, or has no such variable.
    """
    from scipy.io import loadmat  # an extra: only raw annotations need it

    if not path.is_file():
        raise FileNotFoundError(2, "no such annotation", str(path))
    try:
        found = loadmat(str(path), variable_names=[key])
    except Exception as error:  # SciPy raises a dozen kinds on damaged files
        raise ValueError(
            f"annotation '{path}' cannot be read as a MATLAB file: {type(error).__name__} "
            f"{error}; copy it again"
        ) from error
    if key not in found:
        raise ValueError(
            f"annotation '{path}' has no variable '{key}'; give the files of the release"
        )
    return np.asarray(found[key])


def map_ids(raw: NDArray[Any], table: NDArray[np.int16], subject: str, expected: str) -> Mask:
    """Return each pixel's class id.

    Args:
        raw: ids of the release, `(H, W)`.
        table: the class id of each raw id, `UNKNOWN` for those the release does not use.
        subject: what errors call the annotation.
        expected: the raw ids in words, and what to do about others.

    Raises:
        ValueError: if it is no map, or holds unknown ids; their pixels are counted.
    """
    if raw.ndim != 2 or raw.dtype.kind not in "biuf":
        raise ValueError(
            f"{subject} is {raw.dtype} of shape {raw.shape}, expected numbers (height, width)"
        )
    inside = (raw >= 0) & (raw < len(table)) & (raw == np.floor(raw))
    known = inside & (table[np.where(inside, raw, 0).astype(np.int64)] != UNKNOWN)
    if not known.all():
        ids = np.unique(raw[~known])
        shown = ", ".join(f"{value:g}" for value in ids[:_IDS_SHOWN])
        raise ValueError(
            f"{subject} has {int((~known).sum())} pixels of {len(ids)} unknown ids (first: "
            f"{shown}); expected {expected}"
        )
    return table[raw.astype(np.int64)].astype(np.uint8)


def _write(job: MaskJob) -> None:
    write_png(job.target, job.make())
