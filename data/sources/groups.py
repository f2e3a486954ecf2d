"""Groups of images that turn out to be one."""


class JoinedGroups:
    """Disjoint sets of group names; a set goes by its smallest name."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def name(self, group: str) -> str:
        root = group
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[group] != root:
            self._parent[group], group = root, self._parent[group]
        return root

    def join(self, first: str, second: str) -> None:
        for group in (first, second):
            self._parent.setdefault(group, group)
        a, b = sorted((self.name(first), self.name(second)))
        self._parent[b] = a
