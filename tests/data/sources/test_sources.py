"""Sources as their makers document them, in miniature, through to items with their bytes."""

import gzip
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.helpers.shop import SETTINGS, tile

from semigrid.data.builder.gather import gather
from semigrid.data.builder.ingest import build_dataset
from semigrid.data.builder.request import load_request
from semigrid.data.errors import InputError
from semigrid.data.sources import abo as sources_abo
from semigrid.data.sources.abo import abo_items
from semigrid.data.sources.archives import parquet_items, webdataset_items
from semigrid.data.sources.files import table_items


def tar_of(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_webdataset(tmp_path: Path) -> None:
    for shard in range(2):
        files: dict[str, bytes] = {}
        for n in range(shard * 30, shard * 30 + 30):
            files |= {f"{n:04d}.png": tile(n), f"{n:04d}.cls": b"%d\n" % (n % 2)}
            files[f"{n:04d}.json"] = json.dumps({"pattern": "dots" if n % 2 else "plain"}).encode()
        files["9999.txt"] = b"a sample without an image"
        tar_of(tmp_path / f"shop-{shard}.tar", files)
    items = webdataset_items(str(tmp_path))
    assert len(items) == 60
    assert (items[31].image_id, items[31].label) == ("shop-1.tar/0031", "1")
    assert [items[n].read() for n in (0, 31, 59)] == [tile(0), tile(31), tile(59)]
    named = webdataset_items(f"{tmp_path}/*.tar", label="pattern")
    assert named[31].label == "dots"
    dataset, _ = build_dataset(str(tmp_path / "set"), named, SETTINGS)
    assert dataset.manifest.classes == ("dots", "plain") and dataset.rows_in("train") == 44


def test_tars_that_cannot_be_used(tmp_path: Path) -> None:
    packed = tar_of(tmp_path / "packed.tar", {"1.png": tile(1)}, "w:gz")
    with pytest.raises(InputError, match="packed.tar: not an uncompressed tar"):
        webdataset_items(str(packed))
    two = tar_of(tmp_path / "two.tar", {"1.png": tile(1), "1.jpg": tile(1)})
    with pytest.raises(InputError, match="the sample '1' has 2 images"):
        webdataset_items(str(two))
    with pytest.raises(InputError, match="no file ending in .tar"):
        webdataset_items(str(tmp_path / "none"))


def hugging_face(path: Path, labels: list[Any], feature: dict[str, Any]) -> Path:
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("image", image), ("label", pa.int64())],
        metadata={
            b"huggingface": json.dumps(
                {"info": {"features": {"image": {"_type": "Image"}, "label": feature}}}
            ).encode()
        },
    )
    images = [{"bytes": tile(n), "path": f"{n}.png"} for n in range(len(labels))]
    table = pa.table({"image": pa.array(images, image), "label": labels}, schema=schema)
    pq.write_table(table, path, row_group_size=7)
    return path


def test_hugging_face_parquet(tmp_path: Path) -> None:
    labels = [-1 if n == 5 else None if n == 6 else n % 2 for n in range(60)]
    feature = {"names": ["plain", "dots"], "_type": "ClassLabel"}
    file = hugging_face(tmp_path / "train.parquet", labels, feature)
    items = parquet_items(str(file))
    assert [item.label for item in items[:7]] == [
        "plain",
        "dots",
        "plain",
        "dots",
        "plain",
        None,
        None,
    ]
    assert [items[n].read() for n in (0, 6, 7, 59)] == [tile(n) for n in (0, 6, 7, 59)]
    assert items[8].image_id == "train.parquet/00001/0000001"
    dataset, _ = build_dataset(str(tmp_path / "set"), items, SETTINGS)
    assert dataset.manifest.classes == ("dots", "plain") and dataset.manifest.pool == 2
    # our own datasets are in this format: one can be made of another
    again = parquet_items(f"{tmp_path}/set/train-*.parquet")
    assert len(again) == dataset.rows_in("train")


def test_parquet_that_holds_no_images(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": ["a.png"], "label": [1]}), tmp_path / "paths.parquet")
    with pytest.raises(InputError, match="the column 'image' is string, not struct<bytes, path>"):
        parquet_items(f"{tmp_path}/paths.parquet")
    with pytest.raises(InputError, match="there is no column 'photo'; there are image, label"):
        parquet_items(f"{tmp_path}/paths.parquet", image="photo")
    file = hugging_face(tmp_path / "b.parquet", [7], {"names": ["a"], "_type": "ClassLabel"})
    with pytest.raises(InputError, match="row 0 has the label 7, not one from 0 to 0"):
        parquet_items(str(file))


def listing(number: int, image: int, **more: Any) -> dict[str, Any]:
    return {
        "item_id": f"B{number:03d}",
        "domain_name": "amazon.com",
        "marketplace": "Amazon",
        "country": "US",
        "product_type": [{"value": "CELLULAR_PHONE_CASE"}],
        "main_image_id": f"img{image:03d}",
        "item_name": [{"language_tag": "en_US", "value": "A case"}],
    } | more


def pattern(*values: tuple[str, str]) -> list[dict[str, str]]:
    return [{"language_tag": tag, "value": value} for tag, value in values]


def abo(root: Path) -> Path:
    """A tree as the archive has it: 60 labelled cases, and every corner of the format."""
    listings = [
        listing(n, n, pattern=pattern(("en_US", "Dots" if n % 2 else " plain "))) for n in range(60)
    ]
    listings += [
        listing(60, 60),  # no pattern: for the pool
        listing(61, 61, pattern=pattern(("de_DE", "gepunktet"), ("en_GB", "dots"))),
        listing(62, 62, pattern=pattern(("es_MX", "lunares"))),  # no English value
        listing(63, 63, product_type="SHOES", pattern=pattern(("en_US", "dots"))),
        listing(64, 64, product_type="CELLULAR_PHONE_CASE", country="MX"),  # as a string
        listing(0, 65, country="BR", domain_name="amazon.com.br"),  # the product of listing 0 again
        listing(66, 1),  # another product that shows the photograph of listing 1
        listing(67, 2, pattern=pattern(("en_US", "dots"))),  # and disagrees with listing 2
        listing(68, 999),  # a photograph that is not there
        listing(69, 69, other_image_id=["img070"], pattern=pattern(("en_US", "dots"))),
    ]
    folder = root / "listings" / "metadata"
    folder.mkdir(parents=True)
    for part, name in ((listings[:40], "0"), (listings[40:], "f")):
        text = "".join(json.dumps(entry) + "\n" for entry in part)
        (folder / f"listings_{name}.json.gz").write_bytes(gzip.compress(text.encode()))
    rows = ["image_id,height,width,path"]
    for n in range(71):
        path = f"{n % 16:02x}/{n:08x}.png"
        rows.append(f"img{n:03d},6,6,{path}")
        (root / "images" / "small" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / "small" / path).write_bytes(tile(n))
    (root / "images" / "metadata").mkdir(parents=True)
    packed = gzip.compress(("\n".join(rows) + "\n").encode())
    (root / "images" / "metadata" / "images.csv.gz").write_bytes(packed)
    return root


def test_amazon_berkeley_objects(tmp_path: Path) -> None:
    items = {item.image_id: item for item in abo_items(str(abo(tmp_path)), "CELLULAR_PHONE_CASE")}
    assert len(items) == 60 + 5 + 1  # without the shoes and the photograph that is not there
    labels = {name: item.label for name, item in items.items()}
    assert (labels["img000"], labels["img001"], labels["img061"]) == ("plain", "dots", "dots")
    # no attribute, none in English, or two of them: for the pool
    assert {n for n, label in labels.items() if label is None} == {
        *("img060", "img062", "img064", "img065", "img002"),
    }
    assert items["img064"].slices == {"country": "MX"}
    assert items["img061"].read() == tile(61)
    # one product's photographs, and one photograph's products, stay together
    assert items["img000"].group == items["img065"].group
    assert items["img001"].group == "B001" and items["img002"].group == "B002"
    everything = abo_items(str(tmp_path), "CELLULAR_PHONE_CASE", all_images=True)
    assert len(everything) == len(items) + 1
    with pytest.raises(
        InputError, match=r"no image of type 'HAT'; the most common are CELLULAR_PHONE"
    ):
        abo_items(str(tmp_path), "HAT")


def test_amazon_berkeley_objects_become_a_dataset(tmp_path: Path) -> None:
    root = abo(tmp_path / "abo")
    request = load_request(str(root), {"product_type": "CELLULAR_PHONE_CASE"})  # guessed to be ABO
    dataset, report = build_dataset(str(tmp_path / "set"), gather(request)[0], SETTINGS)
    assert dataset.manifest.classes == ("dots", "plain")
    assert dataset.manifest.slices == ("country",)
    # the pool image of the labelled product B000 is left out
    assert [each["left_out"] for each in report["beside_labeled"]] == [
        "img065"
    ] and dataset.manifest.pool == 4
    with pytest.raises(InputError, match="product_type is missing"):
        gather(load_request(str(root), {}))


PNG = [{"bytes": tile(n), "path": None} for n in range(4)]


@pytest.mark.parametrize(
    ("metadata", "labels", "expected"),
    [
        ("{nope", [0], "features: Invalid JSON"),
        ("[1, 2]", [0], "features: Input should be an object"),
        ("[" * 100_000, [0], "recursion limit"),
        ('{"info": 7}', [0], "info: Input should be an object"),
        ('{"info": {"features": [1]}}', [0], "info.features: Input should be an object"),
        (
            '{"info": {"features": {"label": {"_type": "ClassLabel", "names": 7}}}}',
            [0],
            "label: names: Input should be a valid list",
        ),
        (
            '{"info": {"features": {"label": {"_type": "ClassLabel", "names": ["a", "b"]}}}}',
            ["x"],
            "row 0 has the label x, not one from 0 to 1",
        ),
        ("{}", [[1]], "'label' is list<element: int64>, not text"),
    ],
)
def test_parquet_whose_metadata_has_another_shape(
    tmp_path: Path, metadata: str, labels: list[Any], expected: str
) -> None:
    table = pa.table({"image": PNG[: len(labels)], "label": labels})
    file = tmp_path / "a.parquet"
    pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), file)
    with pytest.raises(InputError, match=f"a.parquet: .*{expected}"):
        parquet_items(str(file))


def test_parquet_files_that_are_damaged(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": PNG, "label": [0, 1, 0, 1]}), file)
    whole = file.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    damaged = [whole[:-9] + whole[-8:], whole[:footer] + b"\xff" * 40 + whole[footer + 40 :], b""]
    for content in [*damaged, b"PAR1PAR1", whole[:footer]]:
        file.write_bytes(content)
        with pytest.raises(InputError, match="a.parquet: not a Parquet file"):
            parquet_items(str(file))


def test_a_blank_label_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(tile(0))
    (tmp_path / "a.csv").write_text("image,label,group\na.png, , \nb.png,cat ,g\n")
    items = table_items(f"{tmp_path}/a.csv", group="group")
    assert [(item.label, item.group) for item in items] == [(None, None), ("cat ", "g")]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": b"", "path": None}] * 2, kind)
    pq.write_table(pa.table({"image": rows, "label": [" ", "cat"]}), tmp_path / "a.parquet")
    assert [item.label for item in parquet_items(f"{tmp_path}/a.parquet")] == [None, "cat"]


def test_parquet_labels_are_read_as_those_of_tables(tmp_path: Path) -> None:
    for labels, expected in [
        ([0.0, None, 1.0, float("nan")], ["0", None, "1", None]),  # integers with a gap, by pandas
        ([10**16 + 1, -1, 0, None], ["10000000000000001", None, "0", None]),
        (["-1", "", "a", None], ["-1", None, "a", None]),
        (pa.array(["-1", "", "a", None]).dictionary_encode(), ["-1", None, "a", None]),
    ]:
        pq.write_table(pa.table({"image": PNG, "label": labels}), tmp_path / "a.parquet")
        assert [item.label for item in parquet_items(f"{tmp_path}/a.parquet")] == expected
    table = pa.table({"image": [{"bytes": "x"}], "label": [1]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match="its bytes must be binary"):
        parquet_items(f"{tmp_path}/a.parquet")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[1,2]", "line 2: Input should be an object"),
        ("{nope", "line 2: Invalid JSON"),
        ("[" * 100_000, "line 2: Invalid JSON: recursion limit"),
        ('{"product_type": "SHOES"}', "line 2: item_id: Field required"),
        ('{"item_id": ["1"]}', "line 2: item_id: Input should be a valid string"),
        ('{"item_id": "1", "main_image_id": ["a"]}', "main_image_id: Input should be a valid str"),
        ('{"item_id": "1", "other_image_id": "a"}', "other_image_id: Input should be a valid arr"),
        ('{"item_id": "1", "product_type": [1]}', "product_type.0: Input should be an object"),
        ('{"item_id": "\\ud800"}', "Invalid JSON"),
        ("PATTERN[7]", "line 2: pattern: 0: Input should be a valid dictionary"),
        ('PATTERN["x"]', "line 2: pattern: 0: Input should be a valid dictionary"),
    ],
)
def test_listings_of_another_shape(tmp_path: Path, line: str, expected: str) -> None:
    root = abo(tmp_path)
    start = '{"item_id": "1", "product_type": "CELLULAR_PHONE_CASE", "main_image_id": "img001", '
    line = f'{start}"pattern": {line[7:]}}}' if line.startswith("PATTERN") else line
    packed = gzip.compress(f"{json.dumps(listing(0, 0))}\n{line}\n".encode())
    (root / "listings" / "metadata" / "listings_0.json.gz").write_bytes(packed)
    with pytest.raises(InputError, match=f"listings_0.json.gz: .*{re.escape(expected)}"):
        abo_items(str(root), "CELLULAR_PHONE_CASE")


def test_packed_files_that_are_damaged_or_endless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = abo(tmp_path)
    listings = root / "listings" / "metadata" / "listings_0.json.gz"
    images = root / "images" / "metadata" / "images.csv.gz"
    whole = gzip.compress(json.dumps(listing(0, 0)).encode())
    damaged = [whole[:-9], whole[:-4] + b"none", b"no gzip", whole[:12] + b"\xff" * 20 + whole[32:]]
    for content in damaged:
        listings.write_bytes(content)
        with pytest.raises(InputError, match="listings_0.json.gz: cannot be read"):
            abo_items(str(root), "CELLULAR_PHONE_CASE")
    monkeypatch.setattr(sources_abo, "MAX_UNPACKED", 2**16)
    monkeypatch.setattr(sources_abo, "MAX_LINE", 2**12)
    for content in (b"{}\n" * 2**16, b" " * 2**13):
        listings.write_bytes(gzip.compress(content))
        images.write_bytes(gzip.compress(content))
        with pytest.raises(InputError, match="images.csv.gz: unpacks to more than"):
            abo_items(str(root), "CELLULAR_PHONE_CASE")
    for content, expected in [
        (b"x,y\n1,2\n", "images.csv.gz: there is no column 'image_id'"),
        (b"image_id,path\na,../../etc/passwd\n", "the path '../../etc/passwd' is not one below"),
        (b"image_id,path\na,/etc/passwd\n", "the path '/etc/passwd' is not one below"),
    ]:
        images.write_bytes(gzip.compress(content))
        with pytest.raises(InputError, match=expected):
            abo_items(str(root), "CELLULAR_PHONE_CASE")


def test_samples_of_another_shape(tmp_path: Path) -> None:
    for content in (b"[1]", b"{nope", b"[" * 100_000, b'{"label": [1]}', b"\xff"):
        tar = tar_of(tmp_path / "a.tar", {"1.png": tile(1), "1.json": content})
        with pytest.raises(InputError, match="a.tar: the .json of '1'"):
            webdataset_items(str(tar), "label")
