"""A web server on this machine that answers as a test wants, or never."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

Answer = Callable[[BaseHTTPRequestHandler], None]


class Web:
    """Answers by path without its query; ``asked`` has the requests' lines and credentials."""

    def __init__(self, port: int):
        self.host = f"127.0.0.1:{port}"
        self.url = f"http://{self.host}"
        self.asked: list[tuple[str, str | None]] = []
        self.answers: dict[str, Answer | bytes] = {}


@contextmanager
def web_server() -> Iterator[Web]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            web.asked.append((self.path, self.headers.get("Authorization")))
            answer = web.answers.get(unquote(self.path.partition("?")[0]), not_found)
            if isinstance(answer, bytes):
                send(self, answer)
            else:
                answer(self)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    web = Web(server.server_address[1])
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()


def send(handler: BaseHTTPRequestHandler, content: bytes) -> None:
    """Answers with a content, or the part of it that is asked for."""
    total, part = len(content), handler.headers.get("Range")
    handler.send_response(206 if part else 200)
    if part:
        first, last = (int(number) for number in part.removeprefix("bytes=").split("-"))
        content = content[first : last + 1]
        handler.send_header("Content-Range", f"bytes {first}-{last}/{total}")
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    if handler.command == "GET":
        handler.wfile.write(content)


def status(number: int) -> Answer:
    """Answers with a number alone."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(number)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


not_found = status(404)


def busy_for(times: int, number: int, content: bytes, retry_after: str = "") -> Answer:
    """Answers so many requests with a number, and perhaps when to come again, then as it should."""
    left = iter(range(times))

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if next(left, None) is None:
            send(handler, content)
            return
        handler.send_response(number)
        if retry_after:
            handler.send_header("Retry-After", retry_after)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def redirect(to: str) -> Answer:
    """Answers that the file is elsewhere."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", to)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def endless(handler: BaseHTTPRequestHandler) -> None:
    """Sends as long as somebody reads."""
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(bytes(2**16))
    except OSError:
        pass
