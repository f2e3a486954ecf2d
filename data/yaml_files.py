"""Reads the YAML files that people write: experiments, and requests to build datasets."""

from collections.abc import Hashable
from typing import Any

import yaml

from semigrid.data.errors import InputError
from semigrid.data.storage import open_storage

LARGEST = 2**20  # bytes of a file
# values of a file, where those that an alias repeats count each time
MOST_VALUES = 1_000_000


def read_yaml(path: str) -> str:
    """The text of a YAML file. Raises ``InputError``."""
    try:
        return open_storage(path).read(limit=LARGEST).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def parse_yaml(path: str, text: str, expected: str) -> dict[str, Any]:
    """The mapping that is a YAML file's content; ``expected`` says what it is a mapping of.

    Raises ``InputError``, which names ``path``: not YAML, a key twice in a section, a value that
    has no meaning, a section inside itself, too many values, text that cannot be written.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            _check_size(node)
            content = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from error
    except RecursionError as error:
        raise InputError(f"{path}: not valid YAML: nested too deeply") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: {expected}")
    return content


class _Loader(yaml.SafeLoader):
    """Refuses what YAML allows and nobody means, and says where it stands."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        # a date such as 2001-99-99, a number of 5,000 digits, "!!bool maybe"
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            kind = str(node.tag).rpartition(":")[2]
            raise _error(f"{str(node.value)[:40]!r} is no valid {kind}", node) from error
        if isinstance(value, str):
            return _whole(value, node)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys: set[str] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # the keys that << brings may be overridden
            # YAML would keep the last one
            if isinstance(key_node, yaml.ScalarNode) and key_node.value in keys:
                raise _error(f"the key {key_node.value!r} appears twice in one section", key_node)
            keys.add(str(key_node.value))
        return super().construct_mapping(node, deep=deep)


def _check_size(root: yaml.Node | None) -> None:
    """Refuses a section inside itself, and aliases of aliases that stand for billions of values."""
    sizes: dict[int, int] = {}  # by the ids of nodes; 0 while a node is being counted

    def size(node: yaml.Node) -> int:
        if (known := sizes.get(id(node))) is not None:
            if not known:
                raise _error("a section inside itself", node)
            return known
        sizes[id(node)] = 0
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            parts = node.value
        elif isinstance(node, yaml.MappingNode):
            parts = [each for pair in node.value for each in pair]
        total = 1 + sum(size(part) for part in parts)
        if total > MOST_VALUES:
            raise _error(f"more than {MOST_VALUES:,} values", node)
        sizes[id(node)] = total
        return total

    if root is not None:
        size(root)


def _whole(text: str, node: yaml.Node) -> str:
    """The text, where JSON's escapes of a character in two halves are joined."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise _error("half a character, which is no text", node) from None
    return text


def _error(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark)
