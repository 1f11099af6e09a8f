"""Answers that cannot be end the run by one sentence with address and field; what trickles in has a deadline."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from inference.fake_vllm import GENERATE, FakeVLLM, on, once
from inference.test_vllm import LAW, ORDERS, Made, expected, made, server  # noqa: F401  # fixtures

from obverse.errors import ConfigError, EngineError
from obverse.inference import SamplingParams, SamplingRequest
from obverse.inference.http import AnswerTimeout, Client, ServerUnavailable, retry_after
from obverse.inference.server_schemas import About, Completed
from obverse.types import ModelInput

NAN, INFINITE = float("nan"), float("inf")
CHOICE = {
    "finish_reason": "stop",
    "token_ids": [4, 2],
    "logprobs": {"content": [{"token_id": 4, "logprob": -0.5}, {"token_id": 2, "logprob": -0.25}]},
    "weight_versions": [{"version": "mine-0"}],
}


def scores(*pairs: tuple[Any, Any]) -> dict[str, Any]:
    return {"logprobs": {"content": [{"token_id": number, "logprob": score} for number, score in pairs]}}


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        ({}, "choices"),
        ([], "body"),
        ("hello", "body"),
        (None, "body"),
        (7, "body"),
        ({"choices": None}, "choices"),
        ({"choices": []}, "choices"),
        ({"choices": [CHOICE, CHOICE]}, "choices"),
        ({"choices": {"0": CHOICE}}, "choices"),
        ({"choices": [None]}, "choices.0"),
        *(({"choices": [{key: CHOICE[key] for key in CHOICE if key != gone}]}, gone) for gone in CHOICE),
        *(({"choices": [{**CHOICE, **change}]}, field) for change, field in (
            ({"finish_reason": None}, "finish_reason"),
            ({"finish_reason": "tool_calls"}, "finish_reason"),
            ({"finish_reason": "stop", "token_ids": [4, 4], **scores((4, -0.5), (4, -0.5))}, "finish_reason"),
            ({"token_ids": None}, "token_ids"),
            ({"token_ids": "42"}, "token_ids"),
            ({"token_ids": ["4", 2]}, "token_ids.0"),
            ({"token_ids": [4.0, 2]}, "token_ids.0"),
            ({"token_ids": [True, 2]}, "token_ids.0"),
            ({"token_ids": [-1, 2]}, "token_ids.0"),
            ({"token_ids": [], **scores()}, "token_ids"),
            ({"token_ids": [4] * 7, **scores(*[(4, -0.5)] * 7)}, "token_ids"),
            ({"token_ids": [100, 2], **scores((100, -0.5), (2, -0.5))}, "vocabulary"),
            ({"token_ids": [10**30, 2]}, "token_ids"),
            ({"logprobs": {"content": None}}, "logprobs.content"),
            (scores((4, -0.5)), "token_ids"),
            (scores((4, -0.5), (3, -0.5)), "token_ids"),
            (scores((4, None), (2, -0.5)), "logprob"),
            (scores((4, NAN), (2, -0.5)), "logprob"),
            (scores((4, -INFINITE), (2, -0.5)), "logprob"),
            (scores((4, 0.5), (2, -0.5)), "logprob"),
            (scores((4, "-0.5"), (2, -0.5)), "logprob"),
            ({"weight_versions": []}, "weight_versions"),
            ({"weight_versions": [{}]}, "version"),
            ({"weight_versions": [{"version": ""}]}, "version"),
            ({"weight_versions": [{"version": 3}]}, "version"),
        )),
    ],
)  # fmt: skip
def test_a_completion_of_another_form_is_refused_by_its_field(answer: Any, field: str, server, made) -> None:  # noqa: F811
    server.faults.append(on(GENERATE, 200, answer))
    with pytest.raises(EngineError, match="sent ") as caught:
        made.sampler.sample([SamplingRequest(ModelInput((5,)), [3])], LAW)
    assert server.url in str(caught.value) and field in str(caught.value) and caught.value.exit_code == 10


@pytest.mark.parametrize(
    ("path", "answer", "field"),
    [
        ("/v1/models", {"data": []}, "data"),
        ("/v1/models", {"data": [{"id": "m", "max_model_len": "64"}]}, "max_model_len"),
        ("/v1/models", {"data": [{"id": "m", "max_model_len": 0}]}, "max_model_len"),
        ("/v1/models", {"data": [{"max_model_len": 64}]}, "id"),
        ("/tokenize", {"tokens": None}, "tokens"),
        ("/tokenize", {"tokens": ["1", "2"]}, "tokens"),
        ("/server_info", {"vllm_config": None}, "vllm_config"),
        ("/server_info", {"vllm_config": {"model_config": {"logprobs_mode": None}}}, "logprobs_mode"),
        ("/weight_info", {"weight_version": None}, "weight_version"),
        ("/weight_info", {"weight_version": ""}, "weight_version"),
        ("/weight_info", [], "body"),
        ("/weight_checker", {}, "checksums"),
        ("/weight_checker", {"checksums": {}}, "checksums"),
        (GENERATE, {"prompt_logprobs": None}, "prompt_logprobs"),
        (GENERATE, {"prompt_logprobs": [None]}, "prompt_logprobs"),
        (GENERATE, {"prompt_logprobs": [None, {"9": {"logprob": -1.0}}, {"3": {"logprob": -1.0}}]}, "prompt_logprobs"),
        (GENERATE, {"prompt_logprobs": [None, {"2": {"logprob": NAN}}, {"3": {"logprob": -1.0}}]}, "logprob"),
    ],
)
def test_every_other_answer_has_a_form_too(path: str, answer: Any, field: str, server, tmp_path: Path) -> None:  # noqa: F811
    found = Made(server, tmp_path)
    server.faults.append(on(path, 200, answer))
    with pytest.raises(EngineError) as caught:
        found.sampler.connect()
        found.sampler.sync_weights(0)
    assert server.url in str(caught.value) and field in str(caught.value) and path in str(caught.value)


@pytest.mark.parametrize("answer", [{"version": ""}, {"version": None}, {}, "hello"])
def test_a_server_without_a_version_is_no_vllm_server(answer: Any, server, tmp_path: Path) -> None:  # noqa: F811
    server.faults.append(on("/version", 200, answer))
    with pytest.raises(ConfigError, match="is not a vLLM server"):
        Made(server, tmp_path).sampler.connect()


# bytes that are no HTTP, or come one by one


@contextmanager
def raw(reply: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that answers every request by `reply`; its address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    def answer(sock: socket.socket) -> None:
        with sock, suppress(OSError):
            sock.recv(65536)
            reply(sock)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def whole(*pieces: bytes, pause: float = 0.0) -> Callable[[socket.socket], None]:
    def reply(sock: socket.socket) -> None:
        for piece in pieces:
            sock.sendall(piece)
            time.sleep(pause)

    return reply


def head(length: int | str, more: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{more}\r\n".encode()


BODY = json.dumps({"version": "1"}).encode()
DRIP = [bytes([each]) for each in head(500) + b"x" * 400]


@pytest.mark.parametrize("seconds", [None, 0.3])
@pytest.mark.parametrize(
    "reply",
    [
        whole(head(500), *[b"x"] * 400, pause=0.05),
        whole(head(len(BODY) + 9) + BODY, pause=5.0),
        whole(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"1\r\nx\r\n"] * 400, pause=0.05),
    ],
)
def test_what_trickles_in_has_a_deadline(reply: Callable[[socket.socket], None], seconds: float | None) -> None:
    with raw(reply) as url:
        client, begun = Client(url, 0.3), time.monotonic()
        with pytest.raises(ServerUnavailable, match="/version"):
            client.request("/version", seconds=seconds)
        assert time.monotonic() - begun < 2
        with pytest.raises(EngineError, match="no vLLM server answers"):
            client.with_retries(lambda: client.request("/version", seconds=60.0, schema=About))
        assert time.monotonic() - begun < 4


def test_headers_that_trickle_in_have_a_deadline() -> None:
    with raw(whole(*DRIP, pause=0.05)) as url:
        client, begun = Client(url, 0.3), time.monotonic()
        with pytest.raises(AnswerTimeout, match=r"/version"):
            client.request("/version", seconds=0.2)
        with pytest.raises(EngineError, match="no vLLM server answers"):
            client.with_retries(lambda: client.request("/version", schema=About))
        assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    "reply",
    [
        whole(b"<html>hello</html>"),
        whole(head(100) + BODY),  # cut off
        whole(head(5) + BODY),  # its length is too small
        whole(head(len(BODY)) + b"<html>hello"),
        whole(head(4) + b"\xff\xfe\x00{"),
        whole(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        whole(head("many") + b"["),
        whole(head(200_000) + b"[" * 200_000),
        whole(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 2000 + b"\r\n"),
        whole(b"HTTP/1.1 307 Temporary\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n"),
        whole(b""),
    ],
)
def test_what_is_no_answer_ends_by_a_sentence(reply: Callable[[socket.socket], None]) -> None:
    with raw(reply) as url:
        client = Client(url, 0.3)
        with pytest.raises(EngineError) as caught:
            client.with_retries(lambda: client.request("/version", seconds=1.0, schema=About))
        assert url in str(caught.value) and "\n" not in str(caught.value)


def test_a_message_names_the_cause() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ServerUnavailable, match="Connection refused"):
        Client(f"http://127.0.0.1:{port}", 0.3).request("/version", seconds=1.0)


def test_a_content_type_and_a_compressed_body_are_not_believed() -> None:
    """JSON is read whatever its type; what is packed is not unpacked, however small it is."""
    with raw(whole(head(len(BODY), "Content-Type: text/html\r\n") + BODY)) as url:
        assert Client(url, 1.0).request("/version", schema=About).version == "1"
    packed = gzip.compress(BODY)
    reply = whole(head(len(packed), "Content-Encoding: gzip\r\n") + packed)
    with raw(reply) as url, pytest.raises(EngineError, match="the body"):
        Client(url, 1.0).request("/version", schema=About)


def test_one_header_after_another_is_cut_off() -> None:
    endless = [b"X: " + b"y" * 5000 + b"\r\n"] * 400
    with raw(whole(b"HTTP/1.1 200 OK\r\n", *endless)) as url, pytest.raises(ServerUnavailable):
        Client(url, 5.0).request("/version", seconds=5.0)


def test_threads_share_a_client_and_cancelling_ends_what_they_wait_for() -> None:
    closed = threading.Event()

    def hold(sock: socket.socket) -> None:
        if not sock.recv(1):  # the client has gone
            closed.set()

    errors: list[Exception] = []

    def ask(client: Client) -> None:
        try:
            client.request("/version", schema=About)
        except ServerUnavailable as error:
            errors.append(error)

    with raw(hold) as url:
        client = Client(url, 60.0)
        threads = [threading.Thread(target=ask, args=(client,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        client.cancel_all()
        for thread in threads:
            thread.join(5.0)
        assert len(errors) == 4 and closed.wait(5.0)


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with raw(whole(head(len(BODY)) + BODY)) as url:
        assert Client(url, 1.0).request("/version", schema=About).version == "1"


def test_the_key_is_sent_to_this_server_and_stands_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))
    elsewhere = f"http://127.0.0.1:{listener.getsockname()[1]}/"

    def serve() -> None:
        sock, _ = listener.accept()
        seen.append(sock.recv(65536))
        sock.sendall(f"HTTP/1.1 307 X\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\n\r\n".encode())
        listener.settimeout(0.5)
        with suppress(TimeoutError):
            seen.append(listener.accept()[0].recv(65536))

    thread = threading.Thread(target=serve)
    thread.start()
    monkeypatch.setenv("VLLM_API_KEY", "sesame-4711")
    with listener:
        with pytest.raises(EngineError, match=elsewhere) as caught:
            Client(elsewhere, 1.0).request("/version", seconds=1.0)
        thread.join()
    assert b"Authorization: Bearer sesame-4711" in seen[0] and len(seen) == 1
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("key", ["sesame\r\nX: y", "sesame\n", "s\u00e9same", " sesame"])
def test_a_key_that_no_header_holds_is_refused_without_it(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", key)
    with pytest.raises(ConfigError, match="VLLM_API_KEY") as caught:
        Client("http://127.0.0.1:1", 1.0)
    assert "same" not in str(caught.value)


def test_a_huge_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("obverse.inference.http.MAX_BYTES", 1000)
    with raw(whole(head(10**12), *[b"x" * 1000] * 50)) as url, pytest.raises(EngineError, match="more than"):
        Client(url, 2.0).request("/version", schema=Completed)


# a server that is busy


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after("3") == 3.0 and retry_after(" 0 ") == 0.0 and retry_after("-5") == 0.0
    assert 1.0 < (retry_after(formatdate(time.time() + 3, usegmt=True)) or 0.0) <= 3.0
    assert retry_after(formatdate(time.time() - 60, usegmt=True)) == 0.0
    assert [retry_after(text) for text in (None, "", "soon", "1.5", "Fri, 99 Foo 9999")] == [None] * 5


@pytest.mark.parametrize("status", [pytest.param(429, marks=pytest.mark.slow), 503])
@pytest.mark.parametrize("kind", ["seconds", "date"])
def test_a_busy_server_is_asked_when_it_says(status: int, kind: str) -> None:
    times: list[float] = []

    def reply(sock: socket.socket) -> None:
        times.append(time.monotonic())
        wait = "1" if kind == "seconds" else formatdate(time.time() + 2, usegmt=True)
        busy = f"HTTP/1.1 {status} Busy\r\nRetry-After: {wait}\r\nContent-Length: 0\r\n\r\n".encode()
        sock.sendall(busy if len(times) == 1 else head(len(BODY)) + BODY)

    with raw(reply) as url:
        client = Client(url, 10.0)
        assert client.with_retries(lambda: client.request("/version", schema=About)).version == "1"
    assert len(times) == 2 and times[1] - times[0] > 0.9


def test_a_server_that_is_busy_beyond_the_deadline_is_given_up_at_once() -> None:
    busy = b"HTTP/1.1 429 Busy\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n"
    with raw(whole(busy)) as url:
        client, begun = Client(url, 2.0), time.monotonic()
        with pytest.raises(EngineError, match="429"):
            client.with_retries(lambda: client.request("/version"))
        assert time.monotonic() - begun < 1


def test_a_completion_that_a_busy_server_refused_is_asked_for_again(server: FakeVLLM, made: Made) -> None:  # noqa: F811
    server.faults.append(once(on(GENERATE, 429, {"error": {"message": "busy"}})))
    assert made.sampler.sample(ORDERS, LAW) == [expected(request) for request in ORDERS]


@pytest.mark.parametrize("url", ["http://u:pw@h:1", "http://token@h:1", "http://h:1/?key=x", "http://h:1/#a"])
def test_an_address_has_no_key(url: str) -> None:
    with pytest.raises(ConfigError, match="VLLM_API_KEY") as caught:
        Client(url, 1.0)
    assert "pw" not in str(caught.value) and "token" not in str(caught.value)


def test_a_greedy_law_is_no_exception(made: Made) -> None:  # noqa: F811
    assert (
        made.sampler.sample([SamplingRequest(ModelInput((5,)), [3])], SamplingParams((2,), 6, temperature=0.0))[0][
            0
        ].behavior[0]
        == 0.0
    )
