"""Which images the tasks of a crowd are."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from urllib.parse import unquote

from semigrid.data.redact import shown
from semigrid.data.sources.items import Item
from semigrid.data.storage.address import base_name


def images_of(tasks: Iterable[str], items: Sequence[Item]) -> dict[str, str]:
    """Image ids by task, without the tasks that are no image.

    A task is an image's id, its path or URL, or its file name if only one image has it. It may also
    be a path or an address elsewhere that ends in one of these, as that of the bucket from which a
    crowd saw the images; a file name alone is enough for addresses, but not for paths. Of several
    addresses only those count that name an image best, if they do not differ; none beside its id.
    """
    whole, files = _names(items)
    depth = max((name.count("/") + 1 for name in whole), default=0)
    found: dict[str, tuple[str, float, str | None]] = {}
    best: dict[str, tuple[float, set[str]]] = {}  # by image: how well it is named, and addresses
    for task in {*tasks}:
        if (match := _match(task, whole, files, depth)) is None:
            continue
        found[task] = image_id, parts, address = match
        if parts > best.setdefault(image_id, (parts, set()))[0]:
            best[image_id] = parts, set()
        if parts == best[image_id][0] and address is not None:
            best[image_id][1].add(address)
    return {
        task: image_id
        for task, (image_id, parts, address) in found.items()
        if address is None or parts == best[image_id][0] and len(best[image_id][1]) == 1
    }


def _names(items: Sequence[Item]) -> tuple[dict[str, str], dict[str, str]]:
    """Image ids by the names that a task may use: by id and URI, and by file name if it is unique.

    A file with several images is none of them.
    """
    own = [item for item in items if item.inside is None]
    whole = {shown(item.uri): item.image_id for item in own}
    whole |= {item.uri: item.image_id for item in own}
    whole |= {item.image_id: item.image_id for item in items}
    names = [base_name(item.uri) for item in own]
    counts = Counter(names)
    pairs = zip(names, own, strict=True)
    return whole, {name: item.image_id for name, item in pairs if counts[name] == 1}


def _match(
    task: str, whole: Mapping[str, str], files: Mapping[str, str], depth: int
) -> tuple[str, float, str | None] | None:
    """The image of a task, and how many parts of the task name it: all of an id or URI is infinite.

    The third is the task's address if only its ending names the image. The longest ending of up to
    ``depth`` parts counts; a bucket or host is no part of it.
    """
    for name in (task, shown(task)):
        if name in whole:
            return whole[name], inf, None
    for path in _paths(task):
        is_address = "://" in path
        if path in whole:
            return whole[path], inf, None
        parts = path.split("/")[3 if is_address else 0 :][-depth:]
        for first in range(len(parts)):
            ending = "/".join(parts[first:])
            image_id = whole.get(ending)
            # a path's folders tell images apart, which the name of a file alone does not
            if image_id is None and (is_address or "/" not in path):
                image_id = files.get(ending)
            if image_id is not None:
                return image_id, len(parts) - first, None if ending == path else path
    return None


def _paths(task: str) -> list[str]:
    """What a task may name: itself or, of a web address, its path as it is written or means.

    The query may be a signature that changes.
    """
    if not task.lower().startswith(("http://", "https://")):
        return [task]
    path = task.partition("?")[0].partition("#")[0]
    return [path, unquote(path)]
