"""What is a secret, by the name it is kept under and by its form; texts are shown without, options with one refused.

Nothing that decides a run is rewritten: a value with a secret in it is refused before the run (`secret_in`), so that
what is stored is what was used. `masked` is for what people read: messages, tables, reports, tracebacks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HIDDEN = "***"

# Variables of the environment that hold a secret: what their names end with. TOKENIZER_PATH and MAX_TOKENS do not.
_NAME = re.compile(
    r"(API_?KEY|ACCESS_?KEY(_ID)?|SECRET(_KEY)?|PRIVATE_?KEY|TOKEN|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)(_?\d+)?$"
    r"|_(KEY|PWD|PAT|AUTH|PASS)(_?\d+)?$|^PGPASSWORD$",
    re.IGNORECASE,
)
_SHORTEST = 8  # characters of such a variable's value: a shorter one may be any word
_ANYWHERE = 16  # from so many on a value is found inside longer words too

# Tokens by the beginnings that their issuers gave them.
_TOKEN = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\bsk-[A-Za-z0-9_-]{16,}|\b[rs]k_(?:live|test)_[A-Za-z0-9]{10,}|\bgh[pousr]_[A-Za-z0-9]{20,}"
    r"|\bgithub_pat_[A-Za-z0-9_]{20,}|\bglpat-[A-Za-z0-9_-]{16,}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bxox[abeoprs]-[\w-]{10,}"
    r"|\bAIza[0-9A-Za-z_-]{30,}|\bgsk_[A-Za-z0-9]{20,}|\bnvapi-[A-Za-z0-9_-]{20,}|\bnpm_[A-Za-z0-9]{30,}"
    r"|\bpypi-[A-Za-z0-9_-]{40,}|\bdckr_pat_[A-Za-z0-9_-]{20,}|\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----(?:.|\n)*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)"
)
# Places in which anything is a secret, however short; the first group stays. A Path makes one slash of two.
_USER = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*:/{1,2})[^\s/?#]+(?=@)")
_SECRET_WORD = r"(?:key|token|secret|password|passwd|passphrase|pwd|auth|sig|signature|credentials?)"
_QUERY = re.compile(rf"([?&;#][\w.%-]*{_SECRET_WORD}=)[^&;#\s'\"]+", re.IGNORECASE)
_BEARER = re.compile(r"(\b(?:Bearer|Basic)\s+)(?=[^\s'\"]*\d)[^\s'\",;]{6,}", re.IGNORECASE)
_HEADER = re.compile(r"(\bAuthorization['\"]?\s*[:=]\s*['\"]?(?:(?:Bearer|Basic|Token)\s+)?)[^\s'\",;]+", re.IGNORECASE)
_FIELD = re.compile(
    r"(\b[\w-]*(?:api[_-]?key|access[_-]?key|secret[_-]?key|client[_-]?secret|private[_-]?key|password|passwd"
    r"|(?:access|auth|hf|api)[_-]token)['\"]?\s*[:=]\s*['\"]?)(?!\*\*\*)[^\s'\",;&]+",
    re.IGNORECASE,
)
_PLACES = (_USER, _QUERY, _BEARER, _HEADER)


def masked(text: str) -> str:
    """Text without secrets: values of the environment that are named as one, known forms, and places for secrets.

    Example:
        masked("https://me:hunter2@host/?api_key=1") == "https://***@host/?api_key=***"
    """
    for pattern in _environment():
        text = pattern.sub(HIDDEN, text)
    text = _TOKEN.sub(HIDDEN, text)
    for place in (*_PLACES, _FIELD):
        text = place.sub(rf"\1{HIDDEN}", text)
    return text


def secret_in(text: str) -> str:
    """What kind of secret stands in an option's value; "" for none. The name of a file that is there is none."""
    if _is_path(text):
        return ""
    for name, pattern in zip(_secrets(), _environment(), strict=True):
        if pattern.search(text):
            return f"the value of the environment's {name}"
    if _TOKEN.search(text):
        return "a token"
    if _USER.search(text):
        return "a user or password in an address"
    if _QUERY.search(text):
        return "a key in an address"
    return "a token" if _BEARER.search(text) or _HEADER.search(text) else ""


def secret_of(value: Any) -> str:
    """`secret_in` of a text, or of the texts in a list or mapping."""
    if isinstance(value, Mapping):
        return secret_of([*value.keys(), *value.values()])
    if isinstance(value, list | tuple | set):
        return next(filter(None, map(secret_of, value)), "")
    return secret_in(str(value)) if isinstance(value, str | Path) else ""


def flat(value: Any) -> str:
    """Text that came from outside, safe to print: without secrets, and control characters are shown as \\xNN."""
    text = masked(str(value))
    return "".join(char if char.isprintable() or char in "\n\t" else f"\\x{ord(char):02x}" for char in text)


def _secrets() -> dict[str, str]:
    """The variables of the environment that hold a secret, by name; a path to one is none."""
    return {
        name: value
        for name, value in os.environ.items()
        if len(value.strip()) >= _SHORTEST and _NAME.search(name) and not _is_path(value)
    }


def _environment() -> list[re.Pattern[str]]:
    """What finds the values of `_secrets`, in their order: short ones as whole words."""
    found = []
    for value in _secrets().values():
        text = re.escape(value.strip())
        found.append(re.compile(text if len(value) >= _ANYWHERE else rf"(?<![A-Za-z0-9]){text}(?![A-Za-z0-9])"))
    return found


def _is_path(text: str) -> bool:
    if text.startswith(("/", "./", "../", "~/")):
        return True
    try:
        return os.path.exists(text)
    except ValueError:  # a zero byte
        return False
