"""The console that everything is printed on, where text from data stays text."""

import contextlib
import io
import sys
from collections.abc import Iterable
from typing import IO, Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from semigrid.data.escape import terminal


class Terminal(Console):
    """Prints text as it is: no markup, no emoji codes, no characters that act, in any encoding.

    Data belongs in plain strings, which are measured as they are printed; ``Text`` is for words of
    our own that have a style.
    """

    def __init__(
        self, file: IO[str] | None = None, *, stderr: bool = False, width: int | None = None
    ):
        if stderr:
            file = cast(IO[str], _Remarks())
        super().__init__(
            file=file, stderr=stderr, width=width, markup=False, emoji=False, highlight=False
        )

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(terminal(text.expandtabs(), self.encoding), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            shown = segment.text if segment.control else terminal(segment.text, self.encoding)
            yield segment._replace(text=shown)


class _Remarks(io.TextIOBase):
    """The stderr of the moment; what cannot be written is lost: runs outlive their terminal."""

    @property
    def stream(self) -> TextIO:
        """Behind what a live display puts in its place, which writes here: it would never end."""
        stream: TextIO = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
        return stream

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has an attribute
        return getattr(self.stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()
