"""The label of a single response: the layout of unpaired preferences, `prompt`, `completion`, `label`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LABELS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def read_label(row: Mapping[str, Any], fields: dict[str, Any], template: dict[str, Any]) -> str | None:
    """Read `label` of a row with a demonstration into `fields` and `template`; returns why that is impossible, or None.

    true: the response is a chosen one and a demonstration; false: it is a rejected one, and no demonstration. A label
    that is neither, or of a row without a single response, has no effect.
    """
    label = LABELS.get(str(row.get("label")).strip().lower())
    is_of_response = isinstance(row.get("label"), bool) or "completion" in row
    if label is None or not is_of_response or "demonstration" not in fields:
        return None
    field = "chosen" if label else "rejected"
    if field in fields:
        return f"the row has a {field} response too: keep the pair, or the completion and its label"
    fields[field] = "".join(fields["demonstration"])
    template |= {field: template["demonstration"]} if "demonstration" in template else {}
    if not label:
        del fields["demonstration"]
        template.pop("demonstration", None)
    return None
