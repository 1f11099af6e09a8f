"""Secrets, recognized by the name of their variable or by their form: masked in output, refused in options.

Options are never rewritten: a value with a secret in it is refused before the run (`secret_in`), so that the stored
options are those that were used. `masked` is for output: messages, tables, reports, tracebacks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HIDDEN = "***"

# Endings of the names of environment variables with secrets. TOKENIZER_PATH and MAX_TOKENS are no such names.
_NAME = re.compile(
    r"(API_?KEY|ACCESS_?KEY(_ID)?|SECRET(_KEY)?|PRIVATE_?KEY|TOKEN|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)(_?\d+)?$"
    r"|_(KEY|PWD|PAT|AUTH|PASS)(_?\d+)?$|^PGPASSWORD$",
    re.IGNORECASE,
)
_SHORTEST = 8  # characters of such a variable's value: a shorter one may be an ordinary word
_ANYWHERE = 16  # characters from which on a value is matched inside longer words too

# Tokens by the prefixes of their issuers.
_TOKEN = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\bsk-[A-Za-z0-9_-]{16,}|\b[rs]k_(?:live|test)_[A-Za-z0-9]{10,}|\bgh[pousr]_[A-Za-z0-9]{20,}"
    r"|\bgithub_pat_[A-Za-z0-9_]{20,}|\bglpat-[A-Za-z0-9_-]{16,}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bxox[abeoprs]-[\w-]{10,}"
    r"|\bAIza[0-9A-Za-z_-]{30,}|\bgsk_[A-Za-z0-9]{20,}|\bnvapi-[A-Za-z0-9_-]{20,}|\bnpm_[A-Za-z0-9]{30,}"
    r"|\bpypi-[A-Za-z0-9_-]{40,}|\bdckr_pat_[A-Za-z0-9_-]{20,}|\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----(?:.|\n)*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)"
)
# Patterns in which any value is a secret, however short; the first group is kept. A Path merges two slashes into one.
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
    """The text with secrets replaced by ***: values of such environment variables, known forms, and credential fields.

    Example:
        masked("https://me:hunter2@host/?api_key=1") == "https://***@host/?api_key=***"
    """
    for pattern in _environment():
        text = pattern.sub(HIDDEN, text)
    text = _TOKEN.sub(HIDDEN, text)
    for pattern in (*_PLACES, _FIELD):
        text = pattern.sub(rf"\1{HIDDEN}", text)
    return text


def secret_in(text: str) -> str:
    """The kind of secret in an option's value; "" for none. The path of an existing file is no secret."""
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
    """Text from outside the program, safe to print: secrets masked, control characters as \\xNN."""
    text = masked(str(value))
    return "".join(char if char.isprintable() or char in "\n\t" else f"\\x{ord(char):02x}" for char in text)


def _secrets() -> dict[str, str]:
    """The environment variables with secrets, by name; a path is no secret."""
    return {
        name: value
        for name, value in os.environ.items()
        if len(value.strip()) >= _SHORTEST and _NAME.search(name) and not _is_path(value)
    }


def _environment() -> list[re.Pattern[str]]:
    """The patterns of the values of `_secrets`, in their order: short values match as whole words."""
    patterns = []
    for value in _secrets().values():
        text = re.escape(value.strip())
        patterns.append(re.compile(text if len(value) >= _ANYWHERE else rf"(?<![A-Za-z0-9]){text}(?![A-Za-z0-9])"))
    return patterns


def _is_path(text: str) -> bool:
    if text.startswith(("/", "./", "../", "~/")):
        return True
    try:
        return os.path.exists(text)
    except ValueError:  # a zero byte
        return False
