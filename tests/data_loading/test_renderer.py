"""What the renderer promises, on templates in the style of eight families and on some that misbehave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_models import EXCERPT, tiny_tokenizer
from tiny_templates import QWEN2, TEMPLATES
from transformers import PreTrainedTokenizerFast

from obverse.data.renderer import Renderer
from obverse.errors import ConfigError, DataError
from obverse.types import ModelInput, Problem

TURN_ENDS = {
    "qwen2": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "llama": "<|eot_id|>",
    "gemma": "<end_of_turn>",
    "gemma2": "<end_of_turn>",
    "mistral": "</s>",
    "phi": "<|end|>",
    "deepseek": "<|end|>",
}
STEPS = ("48/2 = 24 clips in May.\n", "48+24 = 72 altogether.\n", "#### 72")
CLIPS = Problem("clips", "How many clips did Natalia sell?", "72", STEPS)
THOUGHT = "<think>\n48/2 = 24\n</think>\n\n"


@pytest.fixture(params=TEMPLATES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def tokenizer(family: str) -> PreTrainedTokenizerFast:
    return tiny_tokenizer(family)


# Prompts


def test_prompt_ids_are_those_of_the_serving_engines(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [{"role": "user", "content": CLIPS.prompt}]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert Renderer(tokenizer).prompt(CLIPS) == ModelInput(tuple(expected))
    assert Renderer(tokenizer).prompt(Problem("as messages", messages)) == ModelInput(tuple(expected))


@pytest.mark.parametrize("template", ["auto", "none", "Question: {prompt}\\nAnswer:"])
def test_bos_exactly_once_where_there_is_one(tokenizer: PreTrainedTokenizerFast, template: str) -> None:
    ids = Renderer(tokenizer, template).prompt(CLIPS).token_ids
    if tokenizer.bos_token_id is None:
        assert "no BOS" in Renderer(tokenizer, template).describe()
    else:
        assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
        assert "BOS once" in Renderer(tokenizer, template).describe()


def test_bos_that_the_prompt_spells_out_is_not_doubled() -> None:
    tokenizer = tiny_tokenizer("llama")
    renderer = Renderer(tokenizer, "none")
    assert renderer.prompt(Problem("a", "<|begin_of_text|>2+2")) == renderer.prompt(Problem("b", "2+2"))


def test_a_template_without_bos_gets_none() -> None:
    tokenizer = tiny_tokenizer("llama", "{% for m in messages %}{{ m.content }}<|eot_id|>{% endfor %}")
    assert tokenizer.bos_token_id not in Renderer(tokenizer).prompt(CLIPS).token_ids


def test_plain_prompts() -> None:
    tokenizer = tiny_tokenizer("qwen2")
    chat = Problem("m", [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}])
    assert Renderer(tokenizer, "none").prompt_text(chat) == "Be brief.\n\n2+2?"
    assert Renderer(tokenizer, "Q: {prompt}\\nA:").prompt_text(chat) == "Q: Be brief.\n\n2+2?\nA:"
    assert Renderer(tokenizer, "Q: {prompt}", "Be kind.").prompt_text(CLIPS).startswith("Q: Be kind.\n\nHow many")
    braces = Problem("b", "the set {1, 2} and {prompt}")
    assert Renderer(tokenizer, "none").prompt_text(braces) == braces.prompt
    tokenizer.chat_template = None
    assert Renderer(tokenizer).prompt_text(CLIPS) == CLIPS.prompt


def test_a_template_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}<eos>{% endfor %}", encoding="utf-8")
    renderer = Renderer(tiny_tokenizer("gemma"), str(path))
    assert renderer.prompt_text(CLIPS) == f"[user] {CLIPS.prompt}<eos>"
    assert renderer.template_name == "mine.jinja"


def test_system_prompt_where_the_row_has_none() -> None:
    renderer = Renderer(tiny_tokenizer("qwen2"), system_prompt="Think.")
    assert "<|im_start|>system\nThink.<|im_end|>" in renderer.prompt_text(CLIPS)
    own = Problem("own", [{"role": "system", "content": "Do not."}, {"role": "user", "content": "?"}])
    assert "Think." not in renderer.prompt_text(own) and "Do not." in renderer.prompt_text(own)


def test_system_prompt_without_a_system_role_goes_to_the_user() -> None:
    renderer = Renderer(tiny_tokenizer("gemma"), system_prompt="Think.")
    assert f"<start_of_turn>user\nThink.\n\n{CLIPS.prompt}<end_of_turn>" in renderer.prompt_text(CLIPS)
    assert "first user message" in renderer.describe()


def test_the_date_stands_still() -> None:
    dated = "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }} {{ messages[-1].content }}"
    assert Renderer(tiny_tokenizer("qwen3", dated)).prompt_text(CLIPS).startswith("26 Jul 2024 ")


# Demonstrations


def test_the_stop_token_ends_every_demonstration_once(family: str, tokenizer: PreTrainedTokenizerFast) -> None:
    renderer = Renderer(tokenizer)
    ids = renderer.demonstration(CLIPS).ids
    stop = tokenizer.convert_tokens_to_ids(TURN_ENDS[family])
    assert renderer.stop_id == stop and ids[-1] == stop and ids.count(stop) == 1
    assert {stop, tokenizer.eos_token_id} <= set(renderer.stop_ids)
    assert Renderer(tokenizer, "none").demonstration(CLIPS).ids[-1] == tokenizer.eos_token_id


def test_prompt_and_demonstration_are_what_the_template_writes(family: str, tokenizer: PreTrainedTokenizerFast) -> None:
    renderer = Renderer(tokenizer)
    messages = [{"role": "user", "content": CLIPS.prompt}, {"role": "assistant", "content": "".join(STEPS)}]
    whole = tokenizer.apply_chat_template(messages, tokenize=False).rstrip("\n")
    assert tokenizer.decode(renderer.prompt(CLIPS).extended(renderer.demonstration(CLIPS).ids).token_ids) == whole
    assert renderer.demonstration(CLIPS).text.endswith("".join(STEPS))
    assert ("<think>" in renderer.demonstration(CLIPS).text) == (family == "qwen3")


def test_the_first_steps_are_a_prefix(family: str, tokenizer: PreTrainedTokenizerFast) -> None:
    renderer = Renderer(tokenizer)
    lines = [json.loads(line) for line in EXCERPT.read_text(encoding="utf-8").split("\n") if line]
    for row in lines:
        steps = tuple(row["answer"].splitlines(keepends=True))
        rendered = renderer.demonstration(Problem("g", row["question"], demonstration=steps))
        assert rendered.step_ends[-1] == len(rendered.ids) - 1
        for k, end in enumerate(rendered.step_ends, start=1):
            assert renderer.decode(rendered.ids[:end]).endswith("".join(steps[:k]))
            assert not renderer.decode(rendered.ids[: end - 1]).endswith("".join(steps[:k]))


def test_a_step_that_ends_inside_a_token_takes_the_token_along() -> None:
    tokenizer = tiny_tokenizer("qwen2")
    ids = tokenizer("altogether", add_special_tokens=False)["input_ids"]
    assert len(ids) < len("altogether")
    rendered = Renderer(tokenizer, "none").response(CLIPS, ["alto", "", "gether"])
    assert rendered.ids[:-1] == ids
    assert rendered.step_ends[0] == rendered.step_ends[1] and rendered.step_ends[2] == len(ids)
    hint = tokenizer.decode(rendered.ids[: rendered.step_ends[0]])
    assert hint.startswith("alto") and "altogether".startswith(hint)


def test_white_space_that_a_template_trims() -> None:
    for family in ("llama", "gemma"):
        rendered = Renderer(tiny_tokenizer(family)).response(CLIPS, ["\n\n ", "2+2=4", "\n#### 4\n", " \n"])
        assert rendered.text == "2+2=4\n#### 4"
        assert rendered.step_ends[0] == 0 and rendered.step_ends[2] == rendered.step_ends[3] == len(rendered.ids) - 1
    renderer = Renderer(
        tiny_tokenizer("qwen3", "{% for m in messages %}{{ m.role }}:\n{{ m.content | trim }}<|im_end|>{% endfor %}")
    )
    rendered = renderer.response(CLIPS, [" ", " ", "2+2"])
    assert renderer.decode(rendered.ids[: rendered.step_ends[0]]) == "assistant:\n"


def test_white_space_that_a_template_trims_on_one_side() -> None:
    renderer = Renderer(tiny_tokenizer("qwen3"))
    empty = renderer.response(CLIPS, []).ids[:-1]
    assert renderer.decode(empty) == "<think>\n\n</think>\n\n"
    rendered = renderer.response(CLIPS, ["\n", "\n", "#### 72 \n"])
    assert rendered.text == "<think>\n\n</think>\n\n#### 72 \n"
    assert rendered.step_ends[1:] == [len(empty), len(rendered.ids) - 1]
    for trim, text in (("rstrip", " 2+2"), ("lstrip", "2+2\n")):
        template = "{% for m in messages %}{{ m.content." + trim + "() }}<|im_end|>{% endfor %}"
        assert Renderer(tiny_tokenizer("qwen3", template)).response(CLIPS, [" ", "2+2\n"]).text == text


def test_words_that_the_template_writes_as_well() -> None:
    renderer = Renderer(
        tiny_tokenizer("qwen3", "{% for m in messages %}{{ loop.index }} of 4: {{ m.content }}\n{% endfor %}")
    )
    assert renderer.response(CLIPS, ["4"]).text == "2 of 4: 4"


def test_a_line_break_that_is_a_token_ends_no_turn() -> None:
    tokenizer = tiny_tokenizer("gemma", "{% for m in messages %}{{ m.content }}\n<end_of_turn>\n{% endfor %}")
    tokenizer.add_tokens(["\n"])
    renderer = Renderer(tokenizer)
    assert renderer.stop_id == tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert renderer.demonstration(CLIPS).text == "".join(STEPS) + "\n"


def test_a_thought_is_not_written_twice() -> None:
    renderer = Renderer(tiny_tokenizer("qwen3"))
    rendered = renderer.response(CLIPS, [THOUGHT, "#### 72"])
    assert rendered.text == THOUGHT + "#### 72"
    assert renderer.decode(rendered.ids[: rendered.step_ends[0]]) == THOUGHT


def test_white_space_that_a_template_writes_within_the_answer() -> None:
    renderer = Renderer(tiny_tokenizer("qwen3"))
    rendered = renderer.response(CLIPS, ["<think> 24 ", "</think>#### 72"])
    assert rendered.text == "<think>\n 24 \n</think>\n\n#### 72" and rendered.as_written
    assert renderer.decode(rendered.ids[: rendered.step_ends[0]]) == "<think>\n 24"
    assert rendered.step_ends[1] == len(rendered.ids) - 1


def test_a_prompt_that_opens_the_thought() -> None:
    tokenizer = tiny_tokenizer(
        "qwen3",
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
    )
    renderer = Renderer(tokenizer)
    assert renderer.prompt_text(CLIPS).endswith("assistant\n<think>\n")
    rendered = renderer.response(CLIPS, [THOUGHT, "#### 72"])  # the template strips thoughts: no prefix, so as it is
    assert rendered.text == THOUGHT.removeprefix("<think>\n") + "#### 72"
    assert renderer.decode(rendered.ids[: rendered.step_ends[0]]) == THOUGHT.removeprefix("<think>\n")


def test_a_template_that_rewrites_history() -> None:
    tokenizer = tiny_tokenizer(
        "qwen3",
        "{{ '=' * (9 * messages | length) }}\n"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    )
    renderer = Renderer(tokenizer)
    rendered = renderer.demonstration(CLIPS)
    assert rendered.text == "".join(STEPS)
    assert rendered.ids[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert renderer.prompt_text(CLIPS).startswith("=========\n")


def test_a_turn_end_that_is_no_token_is_followed_by_eos() -> None:
    tokenizer = tiny_tokenizer(
        "qwen3", "{% for m in messages %}### {{ m.role }}: {{ m.content }}\n### End\n\n{% endfor %}"
    )
    renderer = Renderer(tokenizer)
    rendered = renderer.demonstration(CLIPS)
    assert rendered.text.endswith("#### 72\n### End")
    assert rendered.ids[-1] == tokenizer.eos_token_id and renderer.stop_ids == (tokenizer.eos_token_id,)


def test_a_stop_token_spelled_out_by_the_data_is_not_doubled(family: str, tokenizer: PreTrainedTokenizerFast) -> None:
    for template in ("auto", "none"):
        renderer = Renderer(tokenizer, template)
        stop = tokenizer.convert_ids_to_tokens(renderer.stop_id)
        assert renderer.response(CLIPS, ["#### 72", stop + "\n"]).ids == renderer.response(CLIPS, ["#### 72"]).ids


def test_pad_that_is_eos_changes_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    before = Renderer(tokenizer)
    expected = before.prompt(CLIPS), before.demonstration(CLIPS), before.stop_ids
    tokenizer.pad_token = tokenizer.eos_token
    after = Renderer(tokenizer)
    assert (after.prompt(CLIPS), after.demonstration(CLIPS), after.stop_ids) == expected
    assert after.pad_id == tokenizer.eos_token_id


def test_an_empty_answer_is_a_stop_token() -> None:
    renderer = Renderer(tiny_tokenizer("llama"))
    rendered = renderer.response(CLIPS, [])
    assert rendered.ids == [renderer.stop_id] and rendered.step_ends == [] and rendered.text == ""


def test_pad_id_without_any_token() -> None:
    assert Renderer(tiny_tokenizer("llama")).pad_id == tiny_tokenizer("llama").eos_token_id
    tokenizer = tiny_tokenizer("qwen3", "{{ messages[-1].content }}<|im_end|>")
    tokenizer.eos_token = tokenizer.pad_token = None
    assert Renderer(tokenizer).pad_id == 0


def test_ends_of_the_generation_config() -> None:
    tokenizer = tiny_tokenizer("llama")
    end = tokenizer.convert_tokens_to_ids("<|end_of_text|>")
    assert Renderer(tokenizer, eos_ids=[end, tokenizer.eos_token_id]).stop_ids == (tokenizer.eos_token_id, end)
    assert Renderer(tokenizer, eos_ids=end).stop_ids == (tokenizer.eos_token_id, end)
    assert Renderer(tokenizer, "none", eos_ids=end).stop_id == tokenizer.eos_token_id


# User errors


@pytest.mark.parametrize("choice", ["chatml", "", "{{ prompt }}", "missing.jinja"])
def test_a_wrong_template_is_refused_by_name(choice: str) -> None:
    with pytest.raises(ConfigError, match="chat_template: "):
        Renderer(tiny_tokenizer("qwen2"), choice)


@pytest.mark.parametrize("template", ["{% for m in messages %}", "{{ messages[0].content", "{{ 1 + 'a' }}"])
def test_a_broken_template_is_refused(template: str) -> None:
    with pytest.raises(ConfigError):
        Renderer(tiny_tokenizer("qwen3", template)).prompt(CLIPS)


def test_a_template_that_forgets_the_answer_is_refused() -> None:
    with pytest.raises(ConfigError, match="chat template.*assistant"):
        Renderer(tiny_tokenizer("qwen3", "{{ messages[0].content }}"))


def test_several_templates_without_a_default_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiple chat templates"):
        Renderer(tiny_tokenizer("qwen3", {"rag": QWEN2, "tool_use": QWEN2}))  # type: ignore[arg-type]
    assert Renderer(tiny_tokenizer("qwen3", {"default": QWEN2})).template_name == "the tokenizer's own"  # type: ignore[arg-type]


def test_messages_that_a_template_refuses_name_the_problem() -> None:
    twice = Problem("row 7", [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])
    with pytest.raises(ConfigError, match=r"row 7: .*alternate"):
        Renderer(tiny_tokenizer("gemma")).prompt(twice)
    begun = Problem("row 8", [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    with pytest.raises(ConfigError, match="row 8: .*assistant"):
        Renderer(tiny_tokenizer("qwen2")).prompt(begun)
    with pytest.raises(ConfigError, match="row 9: .*no messages"):
        Renderer(tiny_tokenizer("qwen2")).prompt(Problem("row 9", []))


def test_without_a_demonstration() -> None:
    with pytest.raises(DataError, match="bare .*demonstration"):
        Renderer(tiny_tokenizer("qwen2")).demonstration(Problem("bare", "2+2?"))


def test_without_any_stop_token() -> None:
    tokenizer = tiny_tokenizer("llama")
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="no eos token"):
        Renderer(tokenizer, "none")
    assert Renderer(tokenizer).stop_id == tokenizer.convert_tokens_to_ids("<|eot_id|>")
