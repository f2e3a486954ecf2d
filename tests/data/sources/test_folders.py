import os
from io import BufferedReader
from pathlib import Path

import pytest
from PIL import features
from tests.helpers import nasty
from tests.helpers.shop import shop, tile

from semigrid.data.errors import InputError
from semigrid.data.sources.files import folder_items
from semigrid.data.sources.items import readable
from semigrid.data.sources.left_out import LeftOut
from semigrid.data.storage import Storage


def test_images_are_known_by_their_endings_and_others_by_their_first_bytes(tmp_path: Path) -> None:
    folder = shop(tmp_path / "shop", 2) / "plain"
    jpeg = nasty.saved(nasty.picture(), "jpeg")
    (folder / "chrome.jfif").write_bytes(jpeg)
    (folder / "0a1b2c3d").write_bytes(jpeg)
    (folder / "IMG_1.jpg.1").write_bytes(jpeg)
    (folder / "photo.jpg?width=300").write_bytes(jpeg)
    (folder / "twitter.JPG_large").write_bytes(jpeg)
    (folder / "blob.bin").write_bytes(jpeg)
    (folder / "takeout.HEIC").write_bytes(jpeg)
    expected = {"takeout.HEIC", "000.png", "chrome.jfif", "0a1b2c3d", "IMG_1.jpg.1", "blob.bin"}
    expected |= {"photo.jpg?width=300", "twitter.JPG_large"}
    if features.check("avif"):
        (folder / "phone.avif").write_bytes(nasty.saved(nasty.picture(), "avif"))
        expected.add("phone.avif")
    for name, content in [
        ("README", b"Photographs"),
        ("BMI", b"BMI and other words"),
        ("P1 list", b"P1 is a list"),
        ("empty", b""),
        ("notes.txt", b"GIF89a"),
    ]:
        (folder / name).write_bytes(content)
    left_out = LeftOut()
    items = folder_items(str(tmp_path / "shop"), left_out=left_out)
    assert {i.image_id for i in items if i.label == "plain"} == {f"plain/{n}" for n in expected}
    assert left_out.lines() == ["left out: 5 files that are no images, the first is plain/BMI"]


def test_what_is_left_out_is_counted_and_named(tmp_path: Path) -> None:
    folder = shop(tmp_path / "shop", 2)
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    for name, content in [
        ("plain/b.HEIC", heic),
        ("plain/a.heic", heic),
        ("plain/download", heic),
        ("plain/a.CR2", b"II*\0"),
        ("plain/a.NRW", b"II*\0"),
        ("plain/a.newraw", b"II*\0"),
        ("plain/.DS_Store", b""),
        ("plain/Thumbs.db", b""),
        ("plain/.ipynb_checkpoints/000.png", tile(1)),
        ("__MACOSX/plain/._000.png", b"\0\5\x16\7"),
        ("labels.csv", b"image,label"),
    ]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "plain/pipe.jpg")
    left_out = LeftOut()
    items = folder_items(str(folder), left_out=left_out)
    assert [(item.image_id, item.label) for item in items] == [
        ("dots/001.png", "dots"),
        ("plain/000.png", "plain"),
    ]
    assert sorted(left_out.lines()) == [
        "left out: 1 files that are no images, the first is labels.csv",
        "left out: 1 images of a format that is not decoded (.cr2), the first is plain/a.CR2",
        "left out: 1 images of a format that is not decoded (.newraw), the first is plain/a.newraw",
        "left out: 1 images of a format that is not decoded (.nrw), the first is plain/a.NRW",
        "left out: 1 images of a format that is not decoded (HEIC), the first is plain/download",
        "left out: 1 pipes, sockets and devices, the first is plain/pipe.jpg",
        "left out: 2 images of a format that is not decoded (.heic), the first is plain/a.heic",
        "left out: 4 hidden files and folders, the first is __MACOSX",
    ]


def test_a_file_that_cannot_be_opened_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shop(tmp_path / "shop", 2)
    (folder / "plain/download").write_bytes(tile(7))
    opened = Storage.open

    def refused(storage: Storage, name: str = "", ahead: bool = False) -> BufferedReader:
        if name == "plain/download":
            raise PermissionError(13, "Permission denied")
        return opened(storage, name, ahead)

    monkeypatch.setattr(Storage, "open", refused)  # root may open everything
    left_out = LeftOut()
    assert len(folder_items(str(folder), left_out=left_out)) == 2
    assert left_out.lines() == [
        "left out: 1 files that cannot be read, the first is plain/download"
    ]


def test_a_folder_of_other_formats_is_refused_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats/a.heic").write_bytes(b"")
    with pytest.raises(InputError, match=r"no image here(.|\n)*1 images of a format .*\(\.heic\)"):
        folder_items(str(tmp_path))


def test_linked_class_folders_are_classes(tmp_path: Path) -> None:
    shop(tmp_path / "disk", 4)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/birds").symlink_to("../disk/plain")
    (tmp_path / "photos/cats").symlink_to("../disk/dots")
    items = folder_items(str(tmp_path / "photos"))
    assert [item.label for item in items] == ["birds", "birds", "cats", "cats"]
    assert items[0].read() == tile(0)


@pytest.mark.parametrize(
    "name",
    ["[v2] a", "what? *", "50% #1", "a::b", "line\nbreak", "s3:", "~", " ", "ü", "-x", "a\\b"],
)
def test_names_are_names_whatever_is_in_them(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"root {name}" / name / f"{name}.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(tile(0))
    (item,) = folder_items(str(tmp_path / f"root {name}"))
    assert (item.image_id, item.label) == (f"{name}/{name}.png", name)
    assert item.read() == tile(0)


def test_names_that_are_not_utf8_are_shown_byte_by_byte(tmp_path: Path) -> None:
    for folder in (b"caf\xe9", b"caf\xe8"):
        path = os.path.join(os.fsencode(tmp_path), b"photos", folder)
        os.makedirs(path)
        with open(os.path.join(path, b"\xfc.png"), "wb") as file:
            file.write(tile(0))
    items = folder_items(str(tmp_path / "photos"))
    assert [item.label for item in items] == [r"caf\xe8", r"caf\xe9"]
    assert items[1].image_id == r"caf\xe9/\xfc.png"
    assert items[1].read() == tile(0)
    assert readable("\ud800 ü") == r"\ud800 ü"
