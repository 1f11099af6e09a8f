"""Chat templates in the style of model families, written for the tests; no torch here."""

from __future__ import annotations

from dataclasses import dataclass

# ChatML with a default system prompt.
QWEN2 = """\
{%- for message in messages %}
{%- if loop.first and message.role != 'system' %}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# ChatML that writes a think block (empty if need be) into the last answer and strips it from the earlier ones.
QWEN3 = """\
{%- for message in messages %}
{%- set content = message.content %}
{%- if message.role == 'assistant' %}
{%- set thought = '' %}
{%- if '</think>' in content %}
{%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
{%- set content = content.split('</think>')[-1] %}
{%- endif %}
{%- if loop.last %}
{%- set content = '<think>\\n' + thought + '\\n</think>\\n\\n' + content.lstrip('\\n') %}
{%- endif %}
{%- endif %}
{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# Headers, trimmed contents, and BOS written by the template although the tokenizer adds one as well.
LLAMA = """\
{{- bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

# Two roles, strictly in turn; a system message is refused.
GEMMA = """\
{{- bos_token }}
{%- for message in messages %}
{%- if message.role == 'system' %}
{{- raise_exception('System role not supported') }}
{%- endif %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant') }}
{%- endif %}
{%- set role = 'model' if message.role == 'assistant' else message.role %}
{{- '<start_of_turn>' + role + '\\n' + message.content | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<start_of_turn>model\\n' }}
{%- endif %}
"""

# Brackets around what the user says, no role of its own for the system, no sign before the answer but white space.
MISTRAL = """\
{{- bos_token }}
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{{- ' ' + message.content | trim + eos_token }}
{%- elif message.role == 'system' %}
{{- raise_exception('Only user and assistant roles are supported') }}
{%- else %}
{{- '[INST] ' + message.content + ' [/INST]' }}
{%- endif %}
{%- endfor %}
"""

# A role's name is a token; its turn ends in another one and a line break.
PHI = """\
{%- for message in messages %}
{{- '<|' + message.role + '|>\\n' + message.content + '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|assistant|>\\n' }}
{%- endif %}
"""

# No line breaks, the system's words bare in front; only answers end in a token.
DEEPSEEK = """\
{{- bos_token }}
{%- for message in messages %}
{%- if message.role == 'system' %}
{{- message.content }}
{%- elif message.role == 'user' %}
{{- '<|User|>' + message.content }}
{%- else %}
{{- '<|Assistant|>' + message.content + eos_token }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|Assistant|>' }}
{%- endif %}
"""


@dataclass(frozen=True)
class Family:
    """What makes a family's tokenizer its own: names of the special tokens, who writes BOS, the template."""

    template: str
    specials: tuple[str, ...]
    eos: str
    pad: str | None
    bos: str | None = None  # the tokenizer puts it before every text by itself
    words: tuple[str, ...] = ()  # added tokens that are ordinary text
    stops: tuple[str, ...] = ()  # what generation_config.json names as ends


FAMILIES: dict[str, Family] = {
    "qwen2": Family(
        QWEN2,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        eos="<|endoftext|>",
        pad="<|endoftext|>",
        stops=("<|im_end|>", "<|endoftext|>"),
    ),
    "qwen3": Family(
        QWEN3,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        eos="<|im_end|>",
        pad="<|endoftext|>",
        words=("<think>", "</think>"),
        stops=("<|im_end|>", "<|endoftext|>"),
    ),
    "llama": Family(
        LLAMA,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        eos="<|eot_id|>",
        pad=None,
        bos="<|begin_of_text|>",
        stops=("<|end_of_text|>", "<|eot_id|>"),
    ),
    "gemma": Family(
        GEMMA,
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        eos="<eos>",
        pad="<pad>",
        bos="<bos>",
        stops=("<eos>", "<end_of_turn>"),
    ),
    "gemma2": Family(
        GEMMA,
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        eos="<eos>",
        pad="<pad>",
        bos="<bos>",
        stops=("<eos>", "<end_of_turn>"),
    ),
}

# Families that need no model of their own: what a template does to text is not a matter of weights.
TEMPLATES: dict[str, Family] = {
    **FAMILIES,
    "mistral": Family(MISTRAL, ("<unk>", "<s>", "</s>"), eos="</s>", pad=None, bos="<s>", words=("[INST]", "[/INST]")),
    "phi": Family(
        PHI,
        ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        eos="<|end|>",
        pad="<|endoftext|>",
        stops=("<|endoftext|>", "<|end|>"),
    ),
    "deepseek": Family(
        DEEPSEEK,
        ("<|begin|>", "<|end|>", "<|User|>", "<|Assistant|>"),
        eos="<|end|>",
        pad="<|end|>",
        bos="<|begin|>",
    ),
}
