"""Tasks of a crowd as images: by id, path, address and file name, where that is certain."""

import pytest

from semigrid.data.crowd.tasks import images_of
from semigrid.data.sources.items import Extent, Item

ITEMS = [
    Item("cats/01.png", "/photos/cats/01.png"),
    Item("dogs/01.png", "/photos/dogs/01.png"),
    Item("dogs/02 ä.png", "/photos/dogs/02 ä.png"),
    Item("birds/03%20b.png", "/photos/birds/03%20b.png"),
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
        ("https://b.s3.amazonaws.com/job/03%20b.png", "birds/03%20b.png"),  # named as downloaded
        ("job/cats/01.png", "cats/01.png"),
        ("pigs/02 ä.png", None),  # a path's folder tells it from dogs/02 ä.png
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


def test_only_the_tasks_that_name_an_image_best_are_that_image() -> None:
    folders = {"P1": 7, "P2": 6, "P3": 7}
    names = [f"{folder}/{n}.jpg" for folder, images in folders.items() for n in range(images)]
    items = [Item(name, f"/photos/{name}") for name in names if not name.startswith("P3")]
    known = {item.image_id: item.image_id for item in items}
    assert images_of(names, items) == known
    for of in ("s3://bucket/{}", "https://host/{}"):
        assert images_of([of.format(name) for name in names], items) == {
            of.format(name): name for name in known
        }
    assert images_of(["P1/6.jpg", "s3://bucket/P3/6.jpg"], items) == {"P1/6.jpg": "P1/6.jpg"}
    assert len(images_of(["P1/6.jpg", "6.jpg"], items)) == 2
    # where no address names it better
    assert images_of(["s3://bucket/P3/6.jpg"], items) == {"s3://bucket/P3/6.jpg": "P1/6.jpg"}


def test_a_path_of_many_parts_takes_no_time() -> None:
    assert images_of(["/" * 10**6, "s3://b/" + "a/" * 10**6], ITEMS) == {}
