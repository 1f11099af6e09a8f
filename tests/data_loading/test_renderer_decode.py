"""From ids back to text, for graders and readers, on tokenizers of every kind."""

from __future__ import annotations

import json

import pytest
from tiny_models import gsm8k_texts, tiny_tokenizer
from tiny_templates import TEMPLATES
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from obverse.data.renderer import Renderer
from obverse.types import Problem

STEPS = ("48/2 = 24 clips in May.\n", "48+24 = 72 altogether.\n", "#### 72")
CLIPS = Problem("clips", "How many clips did Natalia sell?", "72", STEPS)


@pytest.fixture(params=TEMPLATES)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return tiny_tokenizer(request.param)


def llama2_tokenizer(scheme: str) -> PreTrainedTokenizerFast:
    """A BPE that marks words by a leading space and puts one before a text, as SentencePiece models do."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256))]
    backend.train_from_iterator(gsm8k_texts(), trainers.BpeTrainer(vocab_size=600, special_tokens=specials))
    fresh = json.loads(backend.to_str())
    fresh["added_tokens"] = [token for token in fresh["added_tokens"] if token["id"] < 3]  # bytes are no control tokens
    backend = Tokenizer.from_str(json.dumps(fresh))
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize(
    "text",
    [
        "2 + 2 = 4 . It 's done , is n't it ?",
        "  two\n\n\tspaces ",
        "\u00a35 and \u20ac6: \u00bd \u2212 \u00d7",
        "\u6f22\u5b57 \U0001f600 e\u0301",
    ],
)
def test_round_trip(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    tokenizer.clean_up_tokenization_spaces = True
    renderer = Renderer(tokenizer, "none")
    assert renderer.decode(renderer.response(CLIPS, [text]).ids) == text


def test_unicode_steps_end_between_characters(tokenizer: PreTrainedTokenizerFast) -> None:
    steps = ["\u6f22\u5b57 \U0001f600\n", "\u00bd \u00d7 \u20ac", "\u2212\u00a3"]
    renderer = Renderer(tokenizer, "none")
    rendered = renderer.response(CLIPS, steps)
    for k, end in enumerate(rendered.step_ends, start=1):
        assert renderer.decode(rendered.ids[:end]) == "".join(steps[:k])


def test_special_tokens_survive_inside_and_go_at_the_end() -> None:
    tokenizer = tiny_tokenizer("qwen3")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>", "<answer>", "</answer>"]})
    renderer = Renderer(tokenizer)
    text = "<think>\n24\n</think>\n\n<answer>72</answer>"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) < 20
    ends = [renderer.stop_id, tokenizer.pad_token_id, renderer.stop_id]
    assert renderer.decode(ids + ends) == renderer.decode(ids) == text
    assert renderer.decode([renderer.stop_id, *ids]).startswith("<|im_end|><think>")
    assert renderer.decode([]) == renderer.decode([renderer.stop_id]) == ""


def test_a_pad_token_that_is_a_word_is_text() -> None:
    tokenizer = tiny_tokenizer("llama")
    tokenizer.pad_token = "!"
    ids = tokenizer("72!", add_special_tokens=False)["input_ids"]
    assert ids[-1] == tokenizer.pad_token_id
    assert Renderer(tokenizer).decode(ids) == "72!"


def test_ids_beyond_the_vocabulary_read_as_a_replacement_character() -> None:
    renderer = Renderer(tiny_tokenizer("qwen2"))
    assert renderer.decode([511]) == "\ufffd"  # real models pad their vocabulary, and a random one samples there


@pytest.mark.parametrize("scheme", ["first", "always"])
def test_a_tokenizer_that_puts_a_space_before_texts(scheme: str) -> None:
    tokenizer = llama2_tokenizer(scheme)
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content | trim }} </s>{% endif %}{% endfor %}"
    )
    for choice, before in (("Q: {prompt}\nA:", ""), ("auto", " ")):
        tokenizer.chat_template = template
        renderer = Renderer(tokenizer, choice)
        rendered = renderer.demonstration(CLIPS)
        gap = " " if before else ""
        assert rendered.text == before + "".join(STEPS) + gap
        assert rendered.ids[-1] == tokenizer.eos_token_id
        assert renderer.decode(rendered.ids[: rendered.step_ends[1]]).startswith(before + "".join(STEPS[:2]))
        prompt = list(renderer.prompt(CLIPS).token_ids)
        assert prompt[0] == tokenizer.bos_token_id and prompt.count(tokenizer.bos_token_id) == 1
        assert renderer.response(CLIPS, ["#### 72"]).text.strip() == "#### 72"  # though "\\n####" is one token here
        together = tokenizer(renderer.prompt_text(CLIPS) + rendered.text, add_special_tokens=False)["input_ids"]
        assert (prompt + rendered.ids)[-len(rendered.ids) : -1] == together[-len(rendered.ids) + 1 :]


def test_a_tokenizer_without_offsets() -> None:
    renderer = Renderer(ByT5Tokenizer())
    rendered = renderer.demonstration(CLIPS)
    assert rendered.text == "".join(STEPS)
    assert [renderer.decode(rendered.ids[:end]) for end in rendered.step_ends] == [
        "".join(STEPS[:k]) for k in (1, 2, 3)
    ]


def test_show_names_every_token(tokenizer: PreTrainedTokenizerFast) -> None:
    renderer = Renderer(tokenizer)
    rows = renderer.show(CLIPS)
    assert [token for _, token, part in rows if part == "prompt"] == list(renderer.prompt(CLIPS).token_ids)
    assert [token for _, token, part in rows if part == "demonstration"] == renderer.demonstration(CLIPS).ids
    assert rows[-1][0] == tokenizer.convert_ids_to_tokens(renderer.stop_id)
    assert {part for *_, part in renderer.show(Problem("bare", "2+2?"))} == {"prompt"}


def test_describe_is_one_line(tokenizer: PreTrainedTokenizerFast) -> None:
    for template in ("auto", "none", "Q: {prompt}\nA:"):
        assert "\n" not in Renderer(tokenizer, template).describe()
