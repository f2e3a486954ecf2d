"""Tasks of a crowd as images: by id, path, address and file name, where that is certain."""

import pytest

from semigrid.data.crowd.tasks import images_of
from semigrid.data.sources.items import Extent, Item

ITEMS = [
    Item("cats/01.png", "/photos/cats/01.png"),
    Item("dogs/01.png", "/photos/dogs/01.png"),
    Item("dogs/02 ä.png", "/photos/dogs/02 ä.png"),
    Item("shop-1.tar/0031", "/tars/shop-1.tar", inside=Extent(0, 1)),
]


@pytest.mark.parametrize(
    ("task", "image_id"),
    [
        ("cats/01.png", "cats/01.png"),
        ("/photos/dogs/01.png", "dogs/01.png"),
        ("02 ä.png", "dogs/02 ä.png"),
        ("s3://bucket/job/02 ä.png", "dogs/02 ä.png"),
        ("https://b.s3.amazonaws.com/job/02%20%C3%A4.png?X-Amz-Signature=a/b#c", "dogs/02 ä.png"),
        ("s3://bucket/dogs/01.png", "dogs/01.png"),  # the folder tells it from the other 01.png
        ("01.png", None),
        ("s3://bucket/job/01.png", None),
        ("s3://dogs/01.png", None),  # a bucket is no folder
        ("shop-1.tar/0031", "shop-1.tar/0031"),
        ("shop-1.tar", None),  # holds images, but is none
        ("03.png", None),
        ("", None),
    ],
)
def test_the_image_of_a_task(task: str, image_id: str | None) -> None:
    assert images_of([task], ITEMS) == ({} if image_id is None else {task: image_id})


def test_addresses_that_differ_are_not_one_image() -> None:
    one, other = "s3://bucket/monday/02 ä.png", "s3://bucket/tuesday/02 ä.png"
    assert images_of([one, other], ITEMS) == {}
    assert images_of([one, "02 ä.png"], ITEMS) == {
        one: "dogs/02 ä.png",
        "02 ä.png": "dogs/02 ä.png",
    }
    signed = [f"https://h/02%20%C3%A4.png?signature={n}" for n in range(3)]
    assert images_of(signed, ITEMS) == dict.fromkeys(signed, "dogs/02 ä.png")
