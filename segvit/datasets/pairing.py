"""Images and their masks in a published layout, or one error that counts what does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from segvit.datasets.folder import Sample
from segvit.images import IMAGE_SUFFIXES

SPLITS = ("train", "val")
_NAMES_SHOWN = 5


def check_split(dataset: str, split: str) -> None:
    """Refuse a split other than `train` and `val`.

    Raises:
        ValueError: naming both.
    """
    if split not in SPLITS:
        raise ValueError(
            f"data set '{dataset}': split '{split}' is unknown; expected one of: "
            f"{', '.join(SPLITS)}"
        )


def find_folder(
    dataset: str, root: Path, inner: Sequence[str], needed: Sequence[str], fix: str = ""
) -> Path:
    """Return the folder that holds all of `needed`: `root`, or one inside it.

    Args:
        dataset: what errors call the data.
        root: what the user gave.
        inner: where else the layout may begin, relative to `root`.
        needed: folders of the layout.
        fix: what else to try, for the error.

    Raises:
        FileNotFoundError: naming the missing folders and counting those found.
    """
    places = [root, *(root / path for path in inner)]
    lacking = [[name for name in needed if not (place / name).is_dir()] for place in places]
    best = min(range(len(places)), key=lambda index: len(lacking[index]))
    if not lacking[best]:
        return places[best]
    elsewhere = f" (or in {', '.join(f'{path}/' for path in inner)})" if inner else ""
    raise FileNotFoundError(
        2,
        f"data set '{dataset}': expected the folders {', '.join(needed)}{elsewhere}, found "
        f"{len(needed) - len(lacking[best])} of {len(needed)}, missing: "
        f"{', '.join(lacking[best])}; copy them, or give the folder that holds them{fix}",
        str(places[best] if root.is_dir() else root),
    )


def pair_folders(
    subject: str, images: Path, masks: Path, ending: str = ".png"
) -> tuple[Sample, ...]:
    """Return the images of one folder, by name, each with the mask `<stem><ending>` of another.

    Args:
        subject: what errors call the data, such as `data set 'ade20k' val`.
        images: folder of images.
        masks: folder of masks.
        ending: what follows an image's stem in its mask's name.

    Raises:
        ValueError: if there are no images, or an image or a mask is alone; both are counted.
    """
    found = {path.stem: path for path in _visible(images) if path.suffix.lower() in IMAGE_SUFFIXES}
    paired = {path.name.removesuffix(ending): path for path in _visible(masks, ending)}
    if not found:
        raise ValueError(
            f"{subject}: expected images in '{images}', found none, and {len(paired)} masks in "
            f"'{masks}'; copy the images"
        )
    bare = [found[stem].name for stem in found if stem not in paired]
    alone = [paired[stem].name for stem in paired if stem not in found]
    if bare or alone:
        raise ValueError(
            f"{subject}: found {len(found)} images in '{images}' and {len(paired)} masks in "
            f"'{masks}'; without a mask: {count_names(bare)}, without an image: "
            f"{count_names(alone)}; copy what is missing, or move the rest away"
        )
    return tuple(Sample(found[stem], paired[stem]) for stem in sorted(found))


def pair_listed(
    subject: str,
    source: Path,
    stems: Sequence[str],
    folders: tuple[Path, Path],
    ending: str = ".png",
    fix: str = "",
) -> tuple[Sample, ...]:
    """Return the image `<stem>.jpg` and the mask `<stem><ending>` of each listed stem.

    Args:
        subject: what errors call the data.
        source: the file the list comes from.
        stems: what it lists.
        folders: of the images and of the masks.
        ending: what follows a stem in its mask's name.
        fix: what else to try, for the error.

    Raises:
        ValueError: if the list is empty or names files that are not there; both are counted.
    """
    if not stems:
        raise ValueError(f"{subject}: '{source}' names no images; copy the published list")
    images, masks = folders
    there = {path.name for path in _visible(images)}, {path.name for path in _visible(masks)}
    bare = [f"{stem}.jpg" for stem in stems if f"{stem}.jpg" not in there[0]]
    unlabelled = [f"{stem}{ending}" for stem in stems if f"{stem}{ending}" not in there[1]]
    if bare or unlabelled:
        raise ValueError(
            f"{subject}: '{source}' names {len(stems)} images; not in '{images}': "
            f"{count_names(bare)}, without a mask in '{masks}': {count_names(unlabelled)}; copy "
            f"what is missing, or take it off the list{fix}"
        )
    return tuple(Sample(images / f"{stem}.jpg", masks / f"{stem}{ending}") for stem in stems)


def read_list(path: Path) -> tuple[str, ...]:
    """Return the stems that a published list names, a line each, every one once.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    words = (line.split() for line in path.read_text().splitlines())
    return tuple(dict.fromkeys(word[0].removesuffix(".jpg") for word in words if word))


def count_names(names: Sequence[str]) -> str:
    """Return how many names there are, and the first of them."""
    return f"{len(names)} (first: {', '.join(names[:_NAMES_SHOWN])})" if names else "0"


def _visible(folder: Path, ending: str = "") -> Iterable[Path]:
    """Yield the files of a folder, by name, without those a file manager leaves behind."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return (path for path in paths if path.name.endswith(ending) and path.name[0] != ".")
