"""A teacher behind a server: both forms of a prompt's log-probs, servers that do not fit, and those that fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from inference.fake_vllm import COMPLETIONS, FakeVLLM, Fault, ModelEngine, on, once

from obverse.errors import ConfigError, EngineError
from obverse.inference.http import Client
from obverse.inference.prompt_scores import Echo, PromptLogProbs, plain
from obverse.inference.scoring import ScoringRequest
from obverse.inference.teacher_server import ROLE, TeacherRequirements, TeacherServer
from obverse.inference.tokenizer_probe import TEXT, TokenizerProbe
from obverse.types import ModelInput, Source

ENGINE = ModelEngine("embedded")
PROBE = TokenizerProbe(ENGINE.tokenizer, "xyz\u4eac\u00e9+-*=")
PROMPT, RESPONSE = PROBE.ids("Q:7+4-1\nA:"), [*PROBE.ids("7+4=11\n11-1=10"), 256]
INFINITE = float("inf")


def request(response: list[int] = RESPONSE) -> ScoringRequest:
    return ScoringRequest(ModelInput(tuple(PROMPT)), response, [Source.ROLLOUT] * len(response))


REQUESTS = [request(), request(RESPONSE[:3]), request([]), request(RESPONSE[4:])]


@pytest.fixture
def server() -> Iterator[FakeVLLM]:
    with FakeVLLM(ENGINE, max_model_len=256) as fake:
        yield fake


def teacher(server: FakeVLLM, timeout: float = 5.0, length: int = 100, **options: Any) -> TeacherServer:
    return TeacherServer(
        Client(server.url, timeout, ROLE), TeacherRequirements(PROBE, length, (256,)), note=NOTES.append, **options
    )


NOTES: list[str] = []


def connected(server: FakeVLLM, **options: Any) -> TeacherServer:
    scorer = teacher(server, **options)
    scorer.connect()
    return scorer


def expected(requests: list[ScoringRequest] = REQUESTS) -> list[list[float]]:
    """The log-probs by the model itself."""
    rows = []
    for scored in requests:
        ids = [*scored.prompt.token_ids, *scored.ids]
        rows.append([pytest.approx(score) for score in ENGINE.scores(ids)[len(PROMPT) - 1 :]])
    return rows


FORMS = [({"prompt_logprobs", "echo"}, 0, PromptLogProbs, 1), ({"echo"}, 0, Echo, 0), ({"echo"}, 1, Echo, 1)]


@pytest.mark.parametrize(("forms", "min_generated", "kind", "max_tokens"), FORMS)
def test_every_form_returns_the_log_probs_of_the_ids_that_were_sent(
    forms: set[str], min_generated: int, kind: type, max_tokens: int, server: FakeVLLM
) -> None:
    server.forms, server.min_generated = forms, min_generated
    scorer, progress = connected(server), list[int]()
    num_probes = len(server.hits)
    assert isinstance(scorer.form, kind) and scorer.form.num_generated == max_tokens and scorer.model == "served"
    assert scorer.score(REQUESTS, progress.append) == expected()
    sent = [body for path, body in server.hits[num_probes:] if path == COMPLETIONS]
    assert sorted(body["prompt"] for body in sent) == sorted(
        [*scored.prompt.token_ids, *scored.ids] for scored in REQUESTS if scored.ids
    )
    assert {(body["max_tokens"], body["temperature"], body["model"]) for body in sent} == {(max_tokens, 1.0, "served")}
    assert progress == [1, 2, 3]


def test_a_log_prob_that_the_server_cut_off_is_minus_infinity_and_rounding_above_0_is_0(server: FakeVLLM) -> None:
    scorer = connected(server)

    def fault(fake: FakeVLLM, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        status, answer = fake.plain(path, body)
        rows = answer["choices"][0]["prompt_logprobs"]
        for row, score in zip(rows[-2:], (-9999.0, 1e-6), strict=True):
            next(iter(row.values()))["logprob"] = score
        return status, answer

    server.faults.append(fault)
    assert scorer.score([request()])[0][-2:] == [-INFINITE, 0.0]


def other_tokenizer(server: FakeVLLM) -> None:
    server.faults.append(on("/tokenize", 200, {"tokens": [1, 2, 3]}))


def other_decoded(server: FakeVLLM) -> None:
    server.faults.append(on("/tokenize", 404, {"detail": "Not Found"}))
    server.engine = Renamed()


class Renamed:
    """The engine with other texts of the tokens."""

    vocab_size, scores = ENGINE.vocab_size, staticmethod(ENGINE.scores)

    def __init__(self, text: Callable[[int], str] = lambda number: "?") -> None:
        self.text = text


def faulty(*faults: Fault) -> Callable[[FakeVLLM], None]:
    return lambda server: server.faults.extend(faults)


def setting(name: str, value: Any) -> Callable[[FakeVLLM], None]:
    return lambda server: setattr(server, name, value)


def logits(fake: FakeVLLM, path: str, body: dict[str, Any]) -> tuple[int, Any] | None:
    if path != COMPLETIONS:
        return None
    status, answer = fake.plain(path, body)
    for row in answer["choices"][0]["prompt_logprobs"][1:]:
        row |= {"7": {"logprob": -0.1}, "8": {"logprob": -0.2}}
    return status, answer


def low_logits(fake: FakeVLLM, path: str, body: dict[str, Any]) -> tuple[int, Any] | None:
    """Logits far below 0, as those of GPT-2, of the five most probable tokens."""
    if path != COMPLETIONS:
        return None
    status, answer = fake.plain(path, body)
    for token, row in zip(body["prompt"][1:], answer["choices"][0]["prompt_logprobs"][1:], strict=True):
        row.update({str(token + number): {"logprob": -30.0 - number} for number in range(5)})
    return status, answer


TWO = {"data": [{"id": "small", "max_model_len": 256}, {"id": "large", "max_model_len": 256}]}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (other_tokenizer, "another tokenizer than the policy: it serves served, .* choose a teacher"),
        (other_decoded, r"another tokenizer .* is '\?' there"),
        (setting("max_model_len", 100), "takes 100 tokens, .* need 101: .*--max-model-len"),
        (setting("forms", set()), "no log-probs .*prompt_logprobs is missing.*serve the teacher with vLLM"),
        (faulty(logits), "no log-probs .*--logprobs-mode"),
        (faulty(low_logits), "no log-probs .*--logprobs-mode"),
        (faulty(on("/v1/models", 200, TWO)), "serves small, large: .*--teacher_name"),
        (faulty(on("/v1/models", 404)), "does not list its models .*--teacher_name"),
        (faulty(on("/v1/models", 401, {"error": "Unauthorized"})), "refuses the key .*TEACHER_API_KEY"),
        (faulty(on(COMPLETIONS, 403, {"error": "Forbidden"})), "refuses the key .*TEACHER_API_KEY"),
        (faulty(on("/tokenize", 404), lambda *request: None), ""),
    ],
)
def test_a_server_that_does_not_fit_is_refused_in_one_sentence(
    spoil: Callable[[FakeVLLM], None], words: str, server: FakeVLLM
) -> None:
    spoil(server)
    if not words:  # without /tokenize the tokens of the answers are compared
        connected(server)
        return
    with pytest.raises(ConfigError, match=words) as caught:
        connected(server)
    assert server.url in str(caught.value) and "\n" not in str(caught.value)


def test_a_server_that_names_no_tokens_at_all_cannot_be_compared(server: FakeVLLM) -> None:
    server.faults.append(on("/tokenize", 404))
    server.engine = Renamed(lambda number: "")  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="cannot be compared"):
        connected(server)


def test_characters_of_several_tokens_need_no_text(server: FakeVLLM) -> None:
    probe = TokenizerProbe(ENGINE.tokenizer, "\u4eac\u6771")
    server.faults.append(on("/tokenize", 404))
    TeacherServer(Client(server.url, 5.0, ROLE), TeacherRequirements(probe, 100, (256,))).connect()


def test_a_name_chooses_the_model(server: FakeVLLM) -> None:
    server.faults.append(on("/v1/models", 200, TWO))
    assert connected(server, model="large").score([request()]) == expected([request()])
    assert {body["model"] for path, body in server.hits if path == COMPLETIONS} == {"large"}
    with pytest.raises(ConfigError, match="--teacher_name huge: .* serves small, large"):
        connected(server, model="huge")
    server.faults.append(on("/v1/models", 404))
    server.faults.reverse()
    assert connected(server, model="hidden").max_length is None


def test_the_probe_has_the_rows_characters_and_the_special_tokens(server: FakeVLLM) -> None:
    connected(server)
    texts = [body["prompt"] for path, body in server.hits if path == "/tokenize"]
    assert texts[0] == TEXT and set("xyz\u4eac\u00e9") <= set("".join(texts)) and "<|endoftext|>" in texts[-1]
    assert [plain(text) for text in ("\u0120the", "\u2581the", " the ")] == ["the"] * 3


ROW = {"logprob": -0.5}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prompt_logprobs": None}, "prompt_logprobs"),
        ({"prompt_logprobs": [None] * (len(PROMPT) + len(RESPONSE))}, "prompt_logprobs.1"),
        ({"prompt_logprobs": [None, {str(PROMPT[1]): ROW}]}, "2 entries"),
        ({"prompt_token_ids": PROMPT}, "prompt_token_ids"),
        ({"prompt_logprobs": [None, {"7": {"logprob": float("nan")}}]}, "logprob"),
        ({"prompt_logprobs": [None, {"7": {"logprob": -INFINITE}}]}, "logprob"),
        ({"prompt_logprobs": [None, {"7": {"logprob": 0.5}}]}, "logprob"),
        ({"prompt_logprobs": [None, {"7": {"logprob": None}}]}, "logprob"),
        ({"prompt_logprobs": "none"}, "prompt_logprobs"),
    ],
)
def test_an_answer_of_another_form_is_refused_by_its_field(change: Any, field: str, server: FakeVLLM) -> None:
    scorer = connected(server)

    def fault(fake: FakeVLLM, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        status, answer = fake.plain(path, body)
        answer["choices"][0] |= change
        return status, answer

    server.faults.append(fault)
    with pytest.raises(EngineError, match=field) as caught:
        scorer.score([request()])
    assert f"teacher server at {server.url}" in str(caught.value) and COMPLETIONS in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [{"tokens": ["a"], "token_logprobs": [None]}, {"tokens": ["a"]}, {"token_logprobs": [None] * 99}, None],
)
def test_an_echo_of_another_form_is_refused(change: Any, server: FakeVLLM) -> None:
    server.forms = {"echo"}
    scorer = connected(server)

    def fault(fake: FakeVLLM, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        status, answer = fake.plain(path, body)
        answer["choices"][0]["logprobs"] = change and {**answer["choices"][0]["logprobs"], **change}
        return status, answer

    server.faults.append(fault)
    with pytest.raises(EngineError, match="logprobs"):
        scorer.score([request()])
    server.faults.clear()
    server.engine = Renamed()  # type: ignore[assignment]
    with pytest.raises(EngineError, match=r"token 1 is '\?', not token"):
        scorer.score([request()])


@pytest.mark.parametrize("page", ["<html>It works</html>", [], {"choices": []}, None])
def test_a_page_is_no_answer(page: Any, server: FakeVLLM) -> None:
    scorer = connected(server)
    server.faults.append(on(COMPLETIONS, 200, page))
    with pytest.raises(EngineError, match=f"invalid answer at {COMPLETIONS}"):
        scorer.score([request()])


def test_requests_that_were_lost_are_sent_again_and_no_others(server: FakeVLLM) -> None:
    scorer = connected(server)
    abort = {"choices": [{"finish_reason": "abort"}]}
    server.faults += [once(on(COMPLETIONS, 0)), once(on(COMPLETIONS, 500, "dead")), once(on(COMPLETIONS, 200, abort))]
    NOTES.clear()
    assert scorer.score(REQUESTS) == expected() and any("is unavailable" in note for note in NOTES)


def test_a_server_that_was_started_again_is_checked_again(server: FakeVLLM) -> None:
    scorer = connected(server)
    server.faults.append(once(on(COMPLETIONS, 503)))
    assert scorer.score(REQUESTS) == expected()
    server.engine = Shifted()
    server.faults.append(once(on(COMPLETIONS, 503)))
    with pytest.raises(EngineError, match="another model than when the run began"):
        scorer.score(REQUESTS)


class Shifted(Renamed):
    """The engine of another model with the same tokenizer."""

    tokenize = staticmethod(ENGINE.tokenize)

    def __init__(self) -> None:
        super().__init__(ENGINE.text)

    def scores(self, ids: list[int]) -> list[float]:  # type: ignore[override]
        return [score - 1.0 for score in ENGINE.scores(ids)]


def test_a_server_that_stays_away_ends_the_run_in_time(server: FakeVLLM) -> None:
    scorer = connected(server, timeout=0.4)
    server.kill()
    begun = time.monotonic()
    with pytest.raises(EngineError, match=r"no teacher server answers at .* for 0\.4 s .*--teacher_url") as caught:
        scorer.score(REQUESTS)
    assert time.monotonic() - begun < 3 and caught.value.exit_code == 10


def test_a_signal_ends_a_call_at_once(server: FakeVLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("obverse.inference.request_rounds.PROGRESS_SECONDS", 0.05)
    scorer, gate = connected(server), threading.Event()
    server.faults.append(lambda fake, path, body: gate.wait(20) and None)

    class Stop(Exception):
        pass

    def progress(num: int) -> None:
        raise Stop

    begun = time.monotonic()
    with pytest.raises(Stop):
        scorer.score(REQUESTS, progress)
    assert time.monotonic() - begun < 5
    gate.set()


def test_requests_in_flight_are_bounded(server: FakeVLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("obverse.inference.teacher_server.AT_ONCE", 3)
    scorer = connected(server)
    server.faults.append(lambda *args: time.sleep(0.01))
    assert len(scorer.score([request(RESPONSE[:1])] * 12)) == 12
    assert server.most_at_once == 3


def test_a_text_that_is_too_long_is_refused_before_anything_is_sent(server: FakeVLLM) -> None:
    scorer = connected(server)
    num_requests = len(server.hits)
    with pytest.raises(ConfigError, match="takes 256 tokens"):
        scorer.score([request(RESPONSE * 30)])
    assert len(server.hits) == num_requests


@pytest.mark.parametrize(
    ("variables", "key"),
    [
        ({"TEACHER_API_KEY": "sesame-4711"}, "sesame-4711"),
        ({"VLLM_API_KEY": "sesame-0815"}, "sesame-0815"),
        ({"TEACHER_API_KEY": "sesame-4711", "VLLM_API_KEY": "sesame-0815"}, "sesame-4711"),
    ],
)
def test_the_key_is_the_teachers(variables: dict[str, str], key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TEACHER_API_KEY", "VLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    client = Client("http://127.0.0.1:1", 1.0, ROLE)
    assert client._http.headers["Authorization"] == f"Bearer {key}"
