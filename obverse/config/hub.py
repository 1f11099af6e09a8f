"""The options of uploads to the hub. No torch here."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from obverse.config.fields import HUB_PRIVATE_TEXT, Options, Repository, option


def flag_only(value: Any) -> Any:
    if isinstance(value, str) and "/" in value:
        raise ValueError("is true or false: name the repository by hub_model_id, owner/name")
    return value


class HubOptions(Options):
    """The upload of the model at the end of a run, by the names of transformers. The token is read from HF_TOKEN."""

    push_to_hub: Annotated[bool, BeforeValidator(flag_only)] = option(
        "logging and saving", "upload the model of the last step to the hub at the end of the run", False, resume="free"
    )
    hub_model_id: Repository | None = option(
        "logging and saving",
        "repository of the hub, owner/name; none: the run folder's name, in the token's account",
        None,
        resume="free",
    )
    hub_private_repo: bool = option("logging and saving", HUB_PRIVATE_TEXT, True, resume="free")
