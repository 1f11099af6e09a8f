"""What is said to a vLLM server, what of its answers is believed, and every way in which it can be the wrong one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from inference.fake_vllm import GENERATE, Engine, FakeVLLM, Fault, on, once

from obverse.errors import ConfigError, EngineError
from obverse.inference import Completion, SamplingParams, SamplingRequest
from obverse.inference.http import Client
from obverse.inference.request_rounds import MAX_FAILED_ROUNDS
from obverse.inference.vllm import ServerRequirements, VLLMSampler, vllm_params
from obverse.inference.weight_sync import MAX_UNCHANGED, WeightSync
from obverse.types import ModelInput

LAW = SamplingParams((2,), 6, temperature=0.7, top_p=0.9, top_k=20)
ORDERS = [SamplingRequest(ModelInput((5, 6, 7)), range(4)), SamplingRequest(ModelInput((9,)), range(10, 13))]


class Quiet:
    """A policy of one number, which scores all text alike."""

    def __init__(self) -> None:
        self.number, self.score = 0, -1.0

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").write_text(str(self.number))

    def log_probs(self, ids: Sequence[int]) -> list[float]:
        return [self.score] * (len(ids) - 1)


class Made:
    """A sampler in front of a fake server, and what it noted."""

    def __init__(self, server: FakeVLLM, folder: Path, timeout: float = 5.0, **options: Any) -> None:
        self.voice, self.notes = Quiet(), list[str]()
        client = Client(server.url, timeout)
        self.weights = WeightSync(client, self.voice, folder, "mine", [1, 2, 3])
        required = ServerRequirements(100, "a text", [1, 2, 3], options.pop("length", 10))
        decode = options.pop("decode", None)
        self.sampler = VLLMSampler(client, self.weights, required, decode, note=self.notes.append, **options)


@pytest.fixture
def server() -> Iterator[FakeVLLM]:
    with FakeVLLM() as made:
        yield made


@pytest.fixture
def made(server: FakeVLLM, tmp_path: Path) -> Made:
    """A sampler that has met the server and given it weights."""
    found = Made(server, tmp_path)
    found.sampler.connect()
    found.sampler.sync_weights(0)
    return found


def expected(request: SamplingRequest, params: SamplingParams = LAW, weights: int = 0) -> list[Completion]:
    found = []
    for seed in request.seeds:
        ids, behavior = Engine().complete(list(request.prompt.token_ids), vllm_params(params, seed))
        found.append(Completion(ids, behavior, "stop" if ids[-1] in params.stop_ids else "length", weights))
    return found


# what is asked and what comes back


def test_every_completion_is_a_request_with_its_own_seed(server: FakeVLLM, made: Made) -> None:
    assert made.sampler.sample(ORDERS, LAW) == [expected(request) for request in ORDERS]
    asked = sorted(server.asked(), key=lambda body: body["sampling_params"]["seed"])
    assert [body["token_ids"] for body in asked] == [[5, 6, 7]] * 4 + [[9]] * 3
    assert [body["sampling_params"]["seed"] for body in asked] == [0, 1, 2, 3, 10, 11, 12]
    assert {body["cache_salt"] for body in asked} == {"mine-0"}  # a prefix of other weights is never read


def test_the_law_is_told_in_full() -> None:
    found = vllm_params(LAW, 7)
    wanted = {"temperature": 0.7, "top_p": 0.9, "top_k": 20, "min_p": 0.0, "max_tokens": 6, "n": 1, "seed": 7}
    assert {name: found[name] for name in wanted} == wanted
    assert found["stop_token_ids"] == [2] and found["ignore_eos"] and found["repetition_penalty"] == 1.0
    assert "stop" not in found and not found["detokenize"] and found["logprobs"] == 0
    strings = vllm_params(SamplingParams((2,), 6, stop_strings=("\n", "Q:")), 7)
    assert strings["stop"] == ["\n", "Q:"] and strings["detokenize"] and strings["include_stop_str_in_output"]
    assert strings["skip_special_tokens"] is False


@pytest.mark.parametrize(
    "params", [SamplingParams((), 4, temperature=1e-3), SamplingParams((), 4, top_p=0.9, min_p=0.1)]
)
def test_a_law_that_the_server_would_draw_otherwise_is_refused(params: SamplingParams) -> None:
    with pytest.raises(ConfigError):
        vllm_params(params, 0)


def test_greedy_tokens_have_probability_one(made: Made) -> None:
    ((found,),) = made.sampler.sample(
        [SamplingRequest(ModelInput((5,)), [4])], SamplingParams((2,), 6, temperature=0.0)
    )
    assert len(found.ids) == 5 and found.behavior == [0.0] * 5


def test_a_completion_ends_where_a_stop_string_ends(server: FakeVLLM, tmp_path: Path) -> None:
    found = Made(server, tmp_path, decode=lambda ids: "".join(chr(97 + number % 26) for number in ids))
    found.sampler.sync_weights(0)
    ((plain,),) = found.sampler.sample([SamplingRequest(ModelInput((5,)), [14])], SamplingParams((), 6))
    text = "".join(chr(97 + number % 26) for number in plain.ids)
    ((cut,),) = found.sampler.sample(
        [SamplingRequest(ModelInput((5,)), [14])], SamplingParams((), 6, stop_strings=(text[1:3],))
    )
    assert (cut.ids, cut.behavior, cut.finish) == (plain.ids[:3], plain.behavior[:3], "stop") and len(plain.ids) == 5


def test_no_more_requests_are_on_their_way_than_wished(server: FakeVLLM, tmp_path: Path) -> None:
    found = Made(server, tmp_path, at_once=3)
    found.sampler.sync_weights(0)
    server.faults.append(lambda *args: time.sleep(0.01))
    seen: list[int] = []
    found.sampler.sample([SamplingRequest(ModelInput((5,)), range(12))], LAW, seen.append)
    assert server.most_at_once == 3 and seen == sorted(seen) and seen[-1] == 12


def test_a_signal_breaks_a_call_off_at_once(server: FakeVLLM, made: Made) -> None:
    gate = threading.Event()
    server.faults.append(lambda fake, path, body: gate.wait(20) and None if path == GENERATE else None)

    class Stop(Exception):
        pass

    def progress(num: int) -> None:
        raise Stop

    begun = time.monotonic()
    with pytest.raises(Stop):
        made.sampler.sample(ORDERS, LAW, progress)
    assert time.monotonic() - begun < 5
    gate.set()


# weights


def test_weights_are_loaded_stamped_and_told_apart(server: FakeVLLM, made: Made, tmp_path: Path) -> None:
    request = ["/collective_rpc", "/reset_prefix_cache", "/update_weight_version", "/weight_info", GENERATE]
    pushed = server.paths()[server.paths().index("/collective_rpc") :]
    assert pushed[:5] == request
    rpc = next(body for path, body in server.hits if path == "/collective_rpc")
    assert rpc == {"method": "reload_weights", "kwargs": {"weights_path": str(tmp_path / "step-0")}}
    made.sampler.sync_weights(0)
    assert server.paths().count("/collective_rpc") == 1  # it has them
    made.voice.number = 1
    made.sampler.sync_weights(1)
    assert server.version == "mine-1" and [path.name for path in tmp_path.iterdir()] == ["step-1"]
    ((found,),) = made.sampler.sample([SamplingRequest(ModelInput((5,)), [3])], LAW)
    assert found.weights == 1


def test_a_server_that_only_says_that_it_reloads_is_found_out(server: FakeVLLM, made: Made) -> None:
    server.faults.append(on("/collective_rpc", 200, {"results": [None]}))
    with pytest.raises(ConfigError, match=f"after {MAX_UNCHANGED} updates"):
        for step in range(1, 20):
            made.voice.number = step
            made.sampler.sync_weights(step)
    assert made.weights.step == MAX_UNCHANGED


def test_weights_that_did_not_move_here_need_not_move_there(server: FakeVLLM, made: Made) -> None:
    server.faults.append(on("/collective_rpc", 200, {"results": [None]}))
    for step in range(1, 2 * MAX_UNCHANGED):
        made.sampler.sync_weights(step)


def test_once_they_moved_nobody_asks_again(server: FakeVLLM, made: Made) -> None:
    for step in (1, 2, 3):
        made.voice.number = step
        made.sampler.sync_weights(step)
    assert server.paths().count("/weight_checker") == 2


# servers that are gone, or come back


def test_what_was_lost_is_asked_for_again_and_nothing_else(server: FakeVLLM, made: Made) -> None:
    server.faults += [once(on(GENERATE, 0)), once(on(GENERATE, 500, {"error": {"message": "EngineDeadError"}}))]
    assert made.sampler.sample(ORDERS, LAW) == [expected(request) for request in ORDERS]
    assert len(server.asked()) == 7 + 2 and any("is unavailable" in note for note in made.notes)


def test_a_server_that_was_started_again_gets_the_weights_again(server: FakeVLLM, made: Made) -> None:
    server.kill()
    server.start()
    assert made.sampler.sample(ORDERS, LAW) == [expected(request) for request in ORDERS]
    assert server.version == "mine-0" and server.paths().count("/collective_rpc") == 2


def test_a_server_that_is_killed_in_the_midst_is_waited_for(server: FakeVLLM, made: Made) -> None:
    def again() -> None:
        server.kill()
        time.sleep(0.3)
        server.start()

    def fault(fake: FakeVLLM, path: str, body: dict[str, Any]) -> tuple[int, Any] | None:
        if len(fake.asked()) == 4 and fake.version == "mine-0":
            threading.Thread(target=again).start()
            time.sleep(0.2)
            return (0, None)
        return None

    server.faults.append(once(fault))
    assert made.sampler.sample(ORDERS, LAW) == [expected(request) for request in ORDERS]
    assert server.paths().count("/collective_rpc") == 2 and made.notes[-1].endswith("has the weights")


def test_a_server_that_stays_away_ends_the_run_in_time(server: FakeVLLM, tmp_path: Path) -> None:
    found = Made(server, tmp_path, timeout=0.4)
    found.sampler.sync_weights(0)
    server.kill()
    begun = time.monotonic()
    with pytest.raises(EngineError, match=r"no vLLM server answers at .* for 0\.4 s .*obverse serve-vllm") as caught:
        found.sampler.sample(ORDERS, LAW)
    assert 0.4 <= time.monotonic() - begun < 3 and caught.value.exit_code == 10


def test_a_server_that_answers_nothing_is_not_asked_for_ever(server: FakeVLLM, made: Made) -> None:
    server.faults.append(lambda fake, path, body: (0, None) if path == GENERATE and "cache_salt" in body else None)
    with pytest.raises(EngineError, match="completes no request"):
        made.sampler.sample([SamplingRequest(ModelInput((5,)), [3])], LAW)
    assert len(server.asked()) == MAX_FAILED_ROUNDS + 1


def test_a_server_that_swallows_a_request_is_left_when_it_is_dead(
    server: FakeVLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its host is gone: no connection breaks, nobody answers."""
    for name in ("HEALTH_SECONDS", "PROGRESS_SECONDS"):
        monkeypatch.setattr(f"obverse.inference.request_rounds.{name}", 0.1)
    found = Made(server, tmp_path, timeout=0.5)
    found.sampler.sync_weights(0)
    gate = threading.Event()
    server.faults.append(lambda fake, path, body: gate.wait(20) and (0, None))
    with pytest.raises(EngineError, match="no vLLM server answers"):
        found.sampler.sample([SamplingRequest(ModelInput((5,)), [3])], LAW)
    gate.set()


def test_another_run_on_the_same_server_is_told(server: FakeVLLM, made: Made) -> None:
    server.version = "yours-3"
    with pytest.raises(EngineError, match="another run .*'yours-3'"):
        made.sampler.sample(ORDERS, LAW)


@pytest.mark.parametrize(
    "change",
    [
        {"token_ids": [1, 2]},
        {"token_ids": [400]},
        {"token_ids": []},
        {"logprobs": None},
        {"weight_versions": None},
    ],
)
def test_an_answer_that_cannot_be_ends_the_run(change: dict[str, Any], server: FakeVLLM, made: Made) -> None:
    def fault(fake: FakeVLLM, path: str, body: dict[str, Any]) -> tuple[int, Any] | None:
        if path != GENERATE:
            return None
        status, answer = fake.plain(path, body)
        answer["choices"][0] |= change
        return status, answer

    server.faults.append(fault)
    with pytest.raises(EngineError, match="sent "):
        made.sampler.sample([SamplingRequest(ModelInput((5,)), [3])], LAW)


def test_a_completion_that_was_aborted_is_drawn_again(server: FakeVLLM, made: Made) -> None:
    def fault(fake: FakeVLLM, path: str, body: dict[str, Any]) -> tuple[int, Any] | None:
        if path != GENERATE or "cache_salt" not in body:
            return None
        status, answer = fake.plain(path, body)
        answer["choices"][0]["finish_reason"] = "abort"
        return status, answer

    server.faults.append(once(fault))
    assert made.sampler.sample(ORDERS, LAW) == [expected(request) for request in ORDERS]


# servers that are the wrong one: each a sentence, before the first step


def setting(name: str, value: Any) -> Callable[[FakeVLLM], None]:
    return lambda server: setattr(server, name, value)


def faulty(fault: Fault) -> Callable[[FakeVLLM], None]:
    return lambda server: server.faults.append(fault)


def other_tokens(server: FakeVLLM) -> None:
    server.engine.tokens = (1, 2, 4)  # type: ignore[misc]


def fewer_tokens(server: FakeVLLM) -> None:
    server.engine.vocab_size = 90


OFF = {"error": {"message": "Scale-out endpoints are disabled. Restart vllm serve with --enable-scale-out"}}


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (faulty(on("/version", 404, {"detail": "Not Found"})), "is not a vLLM server"),
        (faulty(on("/version", 200, "hello")), "is not a vLLM server"),
        (other_tokens, "another tokenizer than the policy: it serves served; serve the run's model"),
        (setting("max_model_len", 9), "takes 9 tokens, prompt and completion need 10: .*--max_model_len 10"),
        (faulty(on("/weight_info", 404)), r"\(version 0.32.0\) does not accept weights .*VLLM_SERVER_DEV_MODE=1"),
        (faulty(on("/server_info", 404)), "does not accept weights"),
        (setting("mode", "raw_logprobs"), "raw_logprobs.*--logprobs-mode processed_logprobs"),
        (faulty(on(GENERATE, 403, OFF)), "does not accept token ids .*--enable-scale-out"),
        (fewer_tokens, "another vocabulary: it does not know token 99 of the policy's 100"),
    ],
)
def test_a_server_that_does_not_fit_is_refused(
    spoil: Callable[[FakeVLLM], None], sentence: str, server: FakeVLLM, tmp_path: Path
) -> None:
    spoil(server)
    with pytest.raises(ConfigError, match=sentence) as caught:
        Made(server, tmp_path).sampler.connect()
    assert server.url in str(caught.value) and "\n" not in str(caught.value)


def test_weights_that_do_not_fit_are_refused(server: FakeVLLM, tmp_path: Path) -> None:
    server.faults.append(on("/collective_rpc", 500, {"error": {"message": "size mismatch"}}))
    with pytest.raises(ConfigError, match=r"500 size mismatch.*step-0"):
        Made(server, tmp_path).sampler.sync_weights(0)


def test_a_server_with_another_opinion_of_a_known_text_is_refused(server: FakeVLLM, tmp_path: Path) -> None:
    found = Made(server, tmp_path)
    found.voice.score = -1.5
    with pytest.raises(ConfigError, match="0.5 nats per token"):
        found.sampler.sync_weights(0)


def test_a_prompt_that_is_too_long_is_refused_before_anything_is_asked(server: FakeVLLM, made: Made) -> None:
    with pytest.raises(ConfigError, match="64 tokens, .* 66"):
        made.sampler.sample([SamplingRequest(ModelInput(tuple(range(60))), [1])], LAW)
    assert not server.asked()


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", "http://host:port"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="--vllm_url"):
        Client(url, 1.0)


def test_nobody_at_the_address(tmp_path: Path, server: FakeVLLM) -> None:
    found = Made(server, tmp_path, timeout=0.2)
    server.kill()
    with pytest.raises(EngineError, match="no vLLM server answers"):
        found.sampler.connect()


def test_a_server_that_needs_its_time_is_waited_for(server: FakeVLLM, tmp_path: Path) -> None:
    found = Made(server, tmp_path)
    server.kill()
    threading.Timer(0.3, server.start).start()
    found.sampler.connect()
    assert found.sampler.version == "0.32.0"


def test_a_connection_that_the_server_closed_when_it_was_idle_is_no_loss(server: FakeVLLM, made: Made) -> None:
    server.hang_up()
    time.sleep(0.1)
    made.sampler.sync_weights(1)
    assert server.version == "mine-1" and server.paths().count("/collective_rpc") == 2 and not made.notes


def test_a_push_that_breaks_off_is_made_again(server: FakeVLLM, made: Made) -> None:
    server.faults.append(once(on("/weight_info", 0)))
    made.sampler.sync_weights(1)
    assert server.version == "mine-1" and server.paths().count("/collective_rpc") == 3 and not made.notes


def test_a_server_that_still_has_the_weights_is_not_given_them_again(server: FakeVLLM, made: Made) -> None:
    server.faults.append(once(on(GENERATE, 0)))
    made.sampler.sample([SamplingRequest(ModelInput((5,)), [3])], LAW)
    assert server.paths().count("/collective_rpc") == 1
