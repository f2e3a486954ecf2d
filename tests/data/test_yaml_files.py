from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from semigrid.data.errors import InputError
from semigrid.data.yaml_files import LARGEST, parse_yaml, read_yaml

LAUGHS = "a0: &a0 x\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("? " * 3000, "nested too deeply"),
        ("- " * 3000, "nested too deeply"),
        ("name: 2001-99-99", "'2001-99-99' is no valid timestamp.*line 1, column 7"),
        ("a: 1\nseed: " + "9" * 5000, "is no valid int.*line 2, column 7"),
        ("seed: 1\nseed: 2", "the key 'seed' appears twice.*line 2"),
        ("a: {b: 1, b: 2}", "the key 'b' appears twice"),
        ("pool: &a [*a]", "a section inside itself.*line 1"),
        ("pool: &a {b: *a}", "a section inside itself"),
        ("a: &a\n  <<: *a", "a section inside itself"),
        (LAUGHS, "more than 1,000,000 values"),
        (r'name: "\ud800"', "half a character"),
        (r'"\ud800": name', "half a character"),
        (r'a: [{b: "\ude00\ud83d"}]', "half a character"),
        ("a: !!bool maybe", "'maybe' is no valid bool"),
        ('a: !!int ""', "'' is no valid int"),
        ("a: !!float x", "'x' is no valid float"),
        ("a: !!timestamp x", "'x' is no valid timestamp"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
        ("a: *b", "undefined alias"),
        ("a: 1\n---\nb: 1", "expected a single document"),
        ("a: \x00", "special characters are not allowed"),
        ("? [a]\n: b", "unhashable"),
        ("", "a mapping is wanted"),
        ("[a]", "a mapping is wanted"),
    ],
)
def test_what_nobody_means_is_refused(text: str, expected: str) -> None:
    with pytest.raises(InputError, match=f"(?s)^a.yaml: .*{expected}"):
        parse_yaml("a.yaml", text, "a mapping is wanted")


def test_what_people_write_is_read() -> None:
    text = """
    base: &base {seed: 1, name: a}
    merged: {<<: *base, name: b}
    again: [*base, *base]
    smile: "\\ud83d\\ude00"
    when: 2001-02-03
    """
    content = parse_yaml("a.yaml", text, "")
    assert content["merged"] == {"seed": 1, "name": "b"}
    assert content["again"] == [{"seed": 1, "name": "a"}] * 2
    assert content["smile"] == "😀"  # written as in JSON
    assert content["when"].isoformat() == "2001-02-03"


def test_a_file_that_is_no_text_of_settings(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"name: \xe9")
    with pytest.raises(InputError, match="a.yaml: cannot be read: 'utf-8' codec"):
        read_yaml(str(tmp_path / "a.yaml"))
    with pytest.raises(InputError, match="b.yaml: cannot be read"):
        read_yaml(str(tmp_path / "b.yaml"))
    (tmp_path / "c.yaml").write_bytes(b"#" * (LARGEST + 1))
    for path in (tmp_path / "c.yaml", "/dev/zero", tmp_path):
        with pytest.raises(InputError, match=f"{path}: cannot be read: "):
            read_yaml(str(path))


PIECES = st.sampled_from(
    ["a", "b: ", "- ", "[", "]", "{", "}", "&a ", "*a", "<<: ", "? ", ": ", "\n", "\n  ", "'", '"']
    + ["!!int ", "!!set ", "!!omap ", "!!pairs ", "!!binary ", "!!timestamp ", "!!null ", "!x "]
    + ["0x_", "0b_", "1:30:00", ".nan", "~", "2001-99-99", "\\ud800", "|", ">", "%YAML 9", "---"]
)


@given(st.lists(PIECES | st.text(max_size=3), max_size=20).map("".join))
@example("a: !!omap [b: {<<: 1}]")
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        content = parse_yaml("a.yaml", text, "a mapping is wanted")
    except InputError:
        return
    assert isinstance(content, dict)
