"""A real S3 server on this machine, moto's, and what stands before it and can break."""

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import boto3
from tests.cluster.nodes import free_port

KEY, SECRET = "AKIATESTTESTTESTTEST", "secret-that-must-not-be-shown"
BUCKET = "shop"


class S3Server:
    """moto's server in a process of its own, with an empty bucket; all it holds is in memory."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int):
        self.process, self.port = process, port
        # past whatever stands before the server
        self.client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
        )
        self.client.create_bucket(Bucket=BUCKET)

    def names(self, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]

    def read(self, name: str) -> bytes:
        content: bytes = self.client.get_object(Bucket=BUCKET, Key=name)["Body"].read()
        return content


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    port = free_port()
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=5).close()
                break
            except URLError:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.1)
        yield S3Server(process, port)
    finally:
        process.kill()
        process.wait()


class Forwarder:
    """Passes connections on to the server, refuses them while ``closed``, and counts requests.

    The answers of the next ``losing`` writes are lost: they are done, and the connection breaks.
    Each request is held up for ``delay`` seconds.
    """

    def __init__(self, target: int):
        self.target, self.port = target, free_port()
        self.requests: list[bytes] = []
        self.losing = 0
        self.delay = 0.0
        self._listener: socket.socket | None = None
        self.open()

    def open(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def close(self) -> None:
        assert self._listener is not None
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client, listener), daemon=True).start()

    def _serve(self, client: socket.socket, listener: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self.target))
        lost = threading.Event()

        def answer() -> None:
            try:
                while content := server.recv(65536):
                    if lost.is_set():
                        break
                    client.sendall(content)
            except OSError:
                pass
            _end(client, server)

        threading.Thread(target=answer, daemon=True).start()
        try:
            while content := client.recv(65536):
                if listener.fileno() < 0:
                    break
                verb = content.split(b" ", 1)[0]
                if verb in (b"GET", b"PUT", b"HEAD", b"POST", b"DELETE"):
                    self.requests.append(content.split(b"\r\n", 1)[0])
                    time.sleep(self.delay)
                    if verb == b"PUT" and self.losing:
                        self.losing -= 1
                        lost.set()
                server.sendall(content)
        except OSError:
            pass
        _end(client, server)


def _end(*connections: socket.socket) -> None:
    """At once, also where another thread waits for what comes."""
    for each in connections:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


def credentials(port: int) -> dict[str, str]:
    """The environment of a machine that reaches the server through the forwarder at a port."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
