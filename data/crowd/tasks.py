"""Which images the tasks of a crowd are."""

from collections import Counter
from collections.abc import Iterable, Sequence
from urllib.parse import unquote

from semigrid.data.sources.items import Item
from semigrid.data.storage.address import base_name, shown

MOST_PARTS = 16  # of a path that are compared with images' names


def images_of(tasks: Iterable[str], items: Sequence[Item]) -> dict[str, str]:
    """Image ids by task, without the tasks that are no image.

    A task is an image's id, its path or URL, or its file name if only one image has it. It may also
    be a path or an address elsewhere that ends in one of these, as that of the bucket from which a
    crowd saw the images; but not where two such addresses would be the same image.
    """
    names = _names(items)
    found: dict[str, str] = {}
    addresses: dict[str, set[str]] = {}  # by image
    elsewhere: dict[str, str] = {}  # tasks' addresses
    for task in {*tasks}:
        known = task if task in names else shown(task)
        if known in names:
            found[task] = names[known]
        elif (image_id := _by_ending(path := _path(task), names)) is not None:
            found[task], elsewhere[task] = image_id, path
            addresses.setdefault(image_id, set()).add(path)
    return {
        task: image_id
        for task, image_id in found.items()
        if task not in elsewhere or len(addresses[image_id]) == 1
    }


def _names(items: Sequence[Item]) -> dict[str, str]:
    """Image ids by every name that a task may use: id, URI, and file name if it is unique."""
    whole = [item for item in items if item.inside is None]
    files = [base_name(item.uri) for item in whole]
    counts = Counter(files)
    names = {
        file: item.image_id for file, item in zip(files, whole, strict=True) if counts[file] == 1
    }
    names |= {shown(item.uri): item.image_id for item in whole}
    names |= {item.uri: item.image_id for item in whole}
    return names | {item.image_id: item.image_id for item in items}


def _path(task: str) -> str:
    """A task without the query of a web address, which may be a signature that changes."""
    if not task.lower().startswith(("http://", "https://")):
        return task
    return unquote(task.partition("?")[0].partition("#")[0])


def _by_ending(path: str, names: dict[str, str]) -> str | None:
    """The image whose name is the longest ending of a path; a bucket or host is no part of it."""
    if path in names:
        return names[path]
    parts = path.split("/")[3 if "://" in path else 0 :][-MOST_PARTS:]
    endings = ("/".join(parts[first:]) for first in range(len(parts)))
    return next((names[ending] for ending in endings if ending in names), None)
