"""A server that speaks as a vLLM server does, in a thread: what is asked is kept, and faults are made to order."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from obverse.inference import SamplingParams, SamplingRequest
from obverse.inference.hf import HFSampler
from obverse.inference.weight_sync import digest
from obverse.models.load import load
from obverse.types import ModelInput

GENERATE, COMPLETIONS = "/inference/v1/generate", "/v1/completions"
Fault = Callable[["FakeVLLM", str, dict[str, Any]], "tuple[int, Any] | None"]


class Engine:
    """What is behind the endpoints: token ids that a seed names, and no model at all."""

    tokens = (1, 2, 3)
    vocab_size = 100

    def __init__(self) -> None:
        self.weights = ""

    def reload(self, folder: Path) -> None:
        self.weights = digest(folder)

    def complete(self, prompt: list[int], how: dict[str, Any]) -> tuple[list[int], list[float]]:
        length = min(how["max_tokens"], 1 + how["seed"] % 5)
        ids = [(how["seed"] + place) % 50 + 3 for place in range(length)]
        if length < how["max_tokens"] and how["stop_token_ids"]:
            ids[-1] = how["stop_token_ids"][0]
        return ids, [-0.25 * (place + 1) for place in range(length)]

    def scores(self, ids: list[int]) -> list[float]:
        return [-1.0] * (len(ids) - 1)

    def tokenize(self, text: str) -> list[int]:
        return list(self.tokens)

    def text(self, number: int) -> str:
        return str(number)


class ModelEngine(Engine):
    """A model of its own, which takes whatever weights it is shown, and our sampler."""

    def __init__(self, place: str | Path, dtype: str = "float32") -> None:
        super().__init__()
        self.place, self.dtype, self.lock = place, dtype, threading.Lock()
        policy, self.tokenizer = load(str(place), dtype=dtype, device="cpu")
        self.model, self.vocab_size = policy.model, policy.model.config.vocab_size

    def reload(self, folder: Path) -> None:
        with self.lock:
            kind = getattr(torch, self.dtype)  # a folder of weights has no tokenizer
            self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=kind).eval()
        super().reload(folder)

    def complete(self, prompt: list[int], how: dict[str, Any]) -> tuple[list[int], list[float]]:
        params = SamplingParams(
            tuple(how["stop_token_ids"]), how["max_tokens"], how["temperature"], how["top_p"], how["top_k"]
        )
        with self.lock:
            ((found,),) = HFSampler(self.model).sample(
                [SamplingRequest(ModelInput(tuple(prompt)), [how["seed"]])], params
            )
        return found.ids, found.behavior

    def scores(self, ids: list[int]) -> list[float]:
        with self.lock, torch.no_grad():
            logp = self.model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        return [float(row[number]) for row, number in zip(logp, ids[1:], strict=True)]

    def tokenize(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, number: int) -> str:
        return str(self.tokenizer.decode([number]))


class FakeVLLM:
    """`faults` are asked before every answer and may give one instead; `hits` has (path, body) of every request.

    Example: `with FakeVLLM() as server: Client(server.url, 1.0)`
    """

    def __init__(self, engine: Engine | None = None, max_model_len: int = 64) -> None:
        self.engine, self.max_model_len = engine or Engine(), max_model_len
        self.version, self.mode = "default", "processed_logprobs"
        self.forms = {"prompt_logprobs", "echo"}  # of the log-probs of a prompt
        self.min_generated = 0  # tokens that an echo generates at least
        self.hits: list[tuple[str, dict[str, Any]]] = []
        self.faults: list[Fault] = []
        self.port = 0
        self.most_at_once = self.at_once = 0
        self.lock = threading.Lock()
        self.start()

    def start(self) -> None:
        """Serve, on the same port as before; the weights are those of the start again."""
        self.version, self.sockets = "default", []
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), handler(self))
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def kill(self) -> None:
        """Stop at once: connections break, the port is closed."""
        self.server.shutdown()
        self.server.server_close()
        self.hang_up()

    def hang_up(self) -> None:
        """Break all connections."""
        for connection in self.sockets:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> FakeVLLM:
        return self

    def __exit__(self, *args: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def paths(self) -> list[str]:
        return [path for path, _ in self.hits]

    def asked(self) -> list[dict[str, Any]]:
        """The requests for completions, without those of a push or a greeting."""
        return [body for path, body in self.hits if path == GENERATE and "cache_salt" in body]

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        with self.lock:
            self.hits.append((path, body))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            for fault in list(self.faults):
                if (found := fault(self, path, body)) is not None:
                    return found
            return self.plain(path, body)
        finally:
            with self.lock:
                self.at_once -= 1

    def plain(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """What a server in good health says."""
        if path == "/version":
            return 200, {"version": "0.32.0"}
        if path == "/v1/models":
            return 200, {"data": [{"id": "served", "max_model_len": self.max_model_len}]}
        if path == "/tokenize":
            return 200, {"tokens": self.engine.tokenize(body["prompt"])}
        if path == "/weight_info":
            return 200, {"weight_version": self.version}
        if path.startswith("/server_info"):
            return 200, {"vllm_config": {"model_config": {"logprobs_mode": self.mode}}}
        if path == "/collective_rpc":
            self.engine.reload(Path(body["kwargs"]["weights_path"]))
            return 200, {"results": [None]}
        if path == "/update_weight_version":
            self.version = body["new_version"]
            return 200, {"success": True}
        if path == "/weight_checker":
            return 200, {"checksums": {"all": self.engine.weights}}
        if path == GENERATE:
            return self.generate(body)
        if path == COMPLETIONS:
            return self.score(body)
        return (200, None) if path in ("/health", "/reset_prefix_cache") else (404, {"detail": "Not Found"})

    def generate(self, body: dict[str, Any]) -> tuple[int, Any]:
        ids, how = body["token_ids"], body["sampling_params"]
        if max(ids) >= self.engine.vocab_size:
            return 400, {"error": {"message": f"Token id {max(ids)} is out of vocabulary"}}
        if "prompt_logprobs" in how:
            scores = zip(ids[1:], self.engine.scores(ids), strict=True)
            return 200, {"prompt_logprobs": [None, *({str(n): {"logprob": score}} for n, score in scores)]}
        found, behavior = self.engine.complete(ids, how)
        stopped = bool(found) and found[-1] in how["stop_token_ids"]
        content = [{"token_id": n, "logprob": score} for n, score in zip(found, behavior, strict=True)]
        choice = {"token_ids": found, "finish_reason": "stop" if stopped else "length"}
        versions = [{"version": self.version, "start": 0, "end": len(found)}]
        return 200, {"choices": [{**choice, "weight_versions": versions, "logprobs": {"content": content}}]}

    def score(self, body: dict[str, Any]) -> tuple[int, Any]:
        """The log-probs of a prompt, by vLLM's form or by OpenAI's."""
        ids, num = body["prompt"], body["max_tokens"]
        if max(ids) >= self.engine.vocab_size:
            return 400, {"error": {"message": f"Token id {max(ids)} is out of vocabulary"}}
        if len(ids) + num > self.max_model_len:
            return 400, {"error": {"message": f"This model's maximum context length is {self.max_model_len} tokens"}}
        scores, choice = self.engine.scores(ids), {"finish_reason": "length", "text": ""}
        if "prompt_logprobs" in body and "prompt_logprobs" in self.forms:
            entries = [
                {str(n): {"logprob": score, "rank": 1, "decoded_token": self.engine.text(n)}}
                for n, score in zip(ids[1:], scores, strict=True)
            ]
            return 200, {"choices": [{**choice, "prompt_logprobs": [None, *entries], "prompt_token_ids": ids}]}
        if "echo" in body and "echo" in self.forms:
            if num < self.min_generated:
                return 400, {"detail": "max_tokens must be at least 1"}
            tokens, values = [self.engine.text(n) for n in ids] + ["!"] * num, [None, *scores] + [-0.1] * num
            return 200, {"choices": [{**choice, "logprobs": {"tokens": tokens, "token_logprobs": values}}]}
        return 200, {"choices": [choice]}


def handler(fake: FakeVLLM) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            fake.sockets.append(self.request)
            super().setup()

        def do_GET(self) -> None:
            self.reply({})

        def do_POST(self) -> None:
            self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def reply(self, body: dict[str, Any]) -> None:
            status, value = fake.answer(self.path, body)
            if status == 0:  # no answer: the line is cut
                self.close_connection = True
                return
            content = b"" if value is None else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

        def handle(self) -> None:
            with suppress(OSError):  # who asked is gone
                super().handle()

    return Handler


def once(fault: Fault) -> Fault:
    """The fault, the first time that it has something to say."""
    spent: list[bool] = []

    def first(fake: FakeVLLM, path: str, body: dict[str, Any]) -> tuple[int, Any] | None:
        found = None if spent else fault(fake, path, body)
        if found is not None:
            spent.append(True)
        return found

    return first


def on(path: str, status: int, value: Any = None) -> Fault:
    """Answer `path` by this; status 0 cuts the line."""
    return lambda fake, asked, body: (status, value) if asked.partition("?")[0] == path else None
