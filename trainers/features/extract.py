"""Makes the rows that a store lacks."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from semigrid.data.ranges import Block, EncodedRange, make_views, pieces
from semigrid.trainers.features.backbone import FrozenBackbone
from semigrid.trainers.features.store import Part, PartStore
from semigrid.trainers.trial.data import EVALUATION_BATCH


def fill(
    store: PartStore,
    splits: Sequence[str],
    extract: Callable[[Sequence[Part]], Iterator[Block]],
    progress: Callable[[int, int], None] = lambda done, total: None,
    wait: Callable[[], None] = lambda: None,
) -> int:
    """Writes the parts of these splits that are not there; returns the number of images made.

    Args:
        extract: yields the rows of all images of some parts, in order, in blocks that end where a
            part does; not called where nothing is missing.
        progress: receives the number of images that are there, and of all.
        wait: is called where another process writes here, before waiting for it.
    """
    total = sum(part.images.count for part in store.parts(splits))
    if not store.missing(splits):
        progress(total, total)
        return 0
    with store.alone(wait):
        missing = store.missing(splits)  # as another process left it
        made = sum(part.images.count for part in missing)
        done = total - made
        progress(done, total)
        blocks = extract(missing) if missing else iter(())
        for _ in write_parts(store, missing, blocks, lambda now: progress(done + now, total)):
            pass
        return made


def write_parts(
    store: PartStore,
    parts: Sequence[Part],
    blocks: Iterator[Block],
    progress: Callable[[int], None],
) -> Iterator[Part]:
    """Writes parts, whose rows come in ``blocks``; yields each when it is there.

    ``progress`` receives the number of images made, after each block.
    """
    done = 0
    for part in parts:
        of_part: list[Block] = []
        end = done + part.images.count
        while done < end:
            of_part.append(next(blocks))
            done += len(of_part[-1].ids)
            progress(done)
        store.write(part, Block.joined(of_part))
        yield part


def in_threads(
    backbone: FrozenBackbone, parts: Sequence[Part], threads: int
) -> Generator[Block, None, None]:
    """The features of all images of some parts, in order, by threads of this process.

    A batch is one thread's, so the features are those of a process that works by itself, to the
    last bit. Memory holds a part's encoded images and some batches for each thread.
    """

    def work(images: EncodedRange) -> Block:
        return backbone.features(make_views(images, backbone.views))

    _ = backbone.network  # loaded once, not by each thread
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[Block]] = deque()
        for part in parts:
            # read here: a Parquet file is no thing for two threads
            for batch in pieces(part.images.read(), EVALUATION_BATCH):
                ahead.append(pool.submit(work, batch))
                if len(ahead) > threads:
                    yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
