"""The section of a model card that shows how the model is loaded in transformers, vLLM, TRL and obverse."""

from __future__ import annotations

from collections.abc import Iterator

WHOLE = """\
### transformers

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
```

### vLLM

```sh
vllm serve {name}
```

### TRL

```python
from trl import GRPOTrainer

trainer = GRPOTrainer(model="{name}", reward_funcs=..., train_dataset=...)
```

### obverse

```sh
obverse eval {name}
obverse train grpo --model {name} --dataset DATASET
```"""

ADAPTER = """\
### transformers

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "{name}")
```"""

ADAPTER_VLLM = """\
### vLLM

```sh
vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules adapter={name}
```"""

ADAPTER_TRL = """\
### TRL

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM
from trl import GRPOTrainer

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "{name}", is_trainable=True)
trainer = GRPOTrainer(model=model, reward_funcs=..., train_dataset=...)
```

### obverse

```sh
obverse eval {name}
```"""

REWARD_MODEL = """\
### transformers

```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForSequenceClassification.from_pretrained("{name}", num_labels=1)
```

### TRL

```python
from trl import GRPOTrainer

trainer = GRPOTrainer(model=..., reward_funcs="{name}", train_dataset=...)
```

### obverse

```sh
obverse train grpo --model MODEL --dataset DATASET --reward_model {name}
```"""

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the values that vLLM's --max-lora-rank accepts


def loading_sections(kind: str, name: str, base: str | None, lora_rank: int) -> Iterator[str]:
    """The examples for a model, an adapter or a reward model called `name`.

    `base` is the name of an adapter's base on the hub. `lora_rank` is 0 for an adapter that vLLM does not load.
    """
    yield "## Loading"
    if kind == "reward model":
        yield "The model returns one logit per text, its reward."
        yield REWARD_MODEL.format(name=name)
        return
    if kind == "model":
        yield WHOLE.format(name=name)
        return
    if base is None:
        yield "`BASE` is the folder of the base model, which is not known to be on the hub."
    names = {"name": name, "base": base or "BASE"}
    yield ADAPTER.format(**names)
    rank = next((size for size in LORA_RANKS if 0 < lora_rank <= size), None)
    if rank is not None:
        yield ADAPTER_VLLM.format(**names, rank=rank)
    yield ADAPTER_TRL.format(**names)
