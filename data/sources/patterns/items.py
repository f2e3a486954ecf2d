"""The generated patterns as a source of images, which are drawn whenever they are read."""

from dataclasses import dataclass

from semigrid.data.sources.items import Item
from semigrid.data.sources.patterns.drawing import draw
from semigrid.data.sources.patterns.spec import (
    BLOCK,
    MARKETPLACES,
    URI,
    VERSION,
    Patterns,
    block,
    image_id,
)


@dataclass(frozen=True)
class GeneratedImage:
    """An image without a file; reading it draws it."""

    seed: int
    number: int
    size: int

    def read(self, uri: str) -> bytes:
        return draw(self.seed, self.number, self.size)


def pattern_items(patterns: Patterns) -> list[Item]:
    """Lists all images, grouped by product and without labels."""
    markets, items = list(MARKETPLACES), []
    made = f"{URI} version {VERSION} seed {patterns.seed} size {patterns.size}"
    for number in range(patterns.images):
        shown, place = block(patterns.seed, number // BLOCK), number % BLOCK
        items.append(
            Item(
                image_id(number),
                patterns.uri,
                group=f"product-{shown.products[place]:07d}",
                slices={"marketplace": markets[shown.marketplaces[place]]},
                inside=GeneratedImage(patterns.seed, number, patterns.size),
                # its bytes depend on the machine's encoder
                identity=f"{made} image {number}",
            )
        )
    return items
