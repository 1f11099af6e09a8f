"""One server over HTTP: JSON there, JSON back, and what can go wrong in two kinds: it is gone, or it refuses."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

from obverse.errors import ConfigError, EngineError

CONNECT_SECONDS = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # between two tries, in seconds; each pause is twice the one before
TOLD = 300  # characters of a server's answer that a message repeats

Answer = TypeVar("Answer")


class Gone(Exception):
    """Nobody answers at the address, or the connection broke; a later try may succeed."""


class Refused(Exception):
    """The server answered with an error; the same request would get it again."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status} {said}")
        self.status, self.said = status, said


class Client:
    """Speaks to the server at `url` (http or https, a path in front is kept); one connection per thread.

    `timeout` is the longest that `patiently` waits for a server that does not answer, in seconds. The variable
    VLLM_API_KEY, where it is set, is sent along. Raises ConfigError for an address that is none.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.url, self.timeout = url.rstrip("/"), timeout
        try:
            parts = urlsplit(self.url)
            self.host, self.port, self.prefix, scheme = parts.hostname or "", parts.port, parts.path, parts.scheme
        except ValueError:
            self.host, scheme = "", ""
        if scheme not in ("http", "https") or not self.host:
            raise ConfigError(f"--vllm_url: {url!r} is no address: write it as http://HOST:PORT")
        self.kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        self.headers = {"Content-Type": "application/json"}
        if key := os.environ.get("VLLM_API_KEY"):
            self.headers["Authorization"] = f"Bearer {key}"
        self._own = threading.local()
        self._open: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()

    def ask(self, path: str, body: Any = None, seconds: float | None = None) -> Any:
        """The answer to one request, None where it is empty; POST with a body, else GET.

        Without `seconds` it waits for the answer as long as the connection stands. Raises Gone and Refused.
        """
        kept = getattr(self._own, "connection", None)
        connection = kept or self._connect()
        data = None if body is None else json.dumps(body)
        try:
            connection.sock.settimeout(seconds)
            connection.request("GET" if body is None else "POST", self.prefix + path, data, self.headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException, AttributeError) as error:  # AttributeError: closed by hang_up
            was_hung_up = connection not in self._open
            self._drop(connection)
            if kept and not was_hung_up and not isinstance(error, TimeoutError):
                return self.ask(path, body, seconds)  # servers close a connection that was idle: a new one tells
            raise Gone(str(error) or type(error).__name__) from None
        if response.will_close:
            self._drop(connection)
        return self._read(response.status, content)

    def patiently(self, ask: Callable[[], Answer], check: Callable[[], None] = lambda: None) -> Answer:
        """`ask()`, again while the server is gone, with growing pauses, for `timeout` seconds in all.

        `check` is called between tries and may raise. Raises EngineError once the time is over.
        """
        begun, pause = time.monotonic(), FIRST_PAUSE
        while True:
            try:
                return ask()
            except Gone as error:
                left = self.timeout - (time.monotonic() - begun)
                if left <= 0:
                    raise EngineError(
                        f"no vLLM server answers at {self.url} for {self.timeout:g} s ({error}): start one with "
                        "'obverse serve-vllm', or give its address by --vllm_url"
                    ) from None
                check()
                time.sleep(min(pause, max(left, 0.0)))
                pause = min(2 * pause, LONGEST_PAUSE)

    def close(self) -> None:
        """End this thread's connection."""
        if (connection := getattr(self._own, "connection", None)) is not None:
            self._drop(connection)

    def hang_up(self) -> None:
        """Break every open connection, whoever waits on it: the server then drops what it was asked for."""
        with self._lock:
            for connection in self._open:
                if connection.sock is not None:
                    with suppress(OSError):  # it was broken already
                        connection.sock.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def _connect(self) -> http.client.HTTPConnection:
        connection = self.kind(self.host, self.port, timeout=CONNECT_SECONDS)
        try:
            connection.connect()
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except OSError as error:
            raise Gone(error.strerror or str(error)) from None
        self._own.connection = connection
        with self._lock:
            self._open.add(connection)
        return connection

    def _drop(self, connection: http.client.HTTPConnection) -> None:
        connection.close()
        self._own.connection = None
        with self._lock:
            self._open.discard(connection)

    def _read(self, status: int, content: bytes) -> Any:
        try:
            found = json.loads(content) if content else None
        except ValueError:
            found = content.decode("utf-8", "replace")
        if status == 200:
            return found
        if isinstance(found, dict) and isinstance(found.get("error"), dict):
            found = found["error"].get("message", found["error"])
        elif isinstance(found, dict):
            found = found.get("detail", found.get("error", found))
        if status in (502, 503, 504):  # a proxy without a server, or a server that starts or ends
            raise Gone(f"{status} {found}"[:TOLD])
        raise Refused(status, " ".join(str(found).split())[:TOLD])
