"""Upload of an exported folder to the Hugging Face hub, as one commit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

from httpx2 import HTTPError
from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.constants import is_offline_mode
from huggingface_hub.errors import HfHubHTTPError

from obverse.errors import HubError
from obverse.evaluation.card_options import CARD
from obverse.hub.model_card import is_unchanged
from obverse.redact import flat
from obverse.runtime.callbacks import Watcher

OF_THE_HUB = {".gitattributes", CARD}  # files that every repository may have


def check_credentials() -> None:
    """Raise HubError without a token for the hub, or in offline mode. Nothing is sent."""
    if is_offline_mode():
        raise HubError("--push_to_hub: HF_HUB_OFFLINE is set, which forbids connections to the hub: unset it")
    if get_token() is None:
        raise HubError("--push_to_hub: there is no token for the hub: set HF_TOKEN, or run 'hf auth login'")


def push(folder: Path, name: str, private: bool, watcher: Watcher) -> str:
    """Upload the files of a model folder to the repository `name`; returns the address of the commit.

    `name` is owner/name, or a name for the repository of the token's owner. A repository that does not exist is
    created. One that exists is changed only if it is empty, or holds an export of obverse with a card that was not
    edited and with no other file than those of `folder`. The upload is one commit: a reader sees all of it or nothing.

    Raises HubError: without a token or connection, if the hub refuses, and for a repository with other content.
    """
    command = f"hf upload {name} {quote(str(folder))} .{' --private' if private else ''}"
    advice = f"the model is in {folder}, and '{command}' uploads it"
    try:
        check_credentials()
        with _hub_errors(name):
            api = HfApi()
            repository = api.create_repo(name, private=private, exist_ok=True).repo_id
            info = api.model_info(repository)
            files = {file.rfilename for file in info.siblings or ()}
            paths = sorted(path for path in folder.iterdir() if path.is_file())
            _refuse_other_content(api, repository, files, paths)
            if private and info.private is False:
                raise HubError(f"{repository} is public: add --no-hub_private_repo to push to it, or give another name")
            size = sum(path.stat().st_size for path in paths)
            watcher.note(f"uploading {len(paths)} files, {size / 1e6:,.1f} MB, to {repository}")
            operations = [CommitOperationAdd(path.name, path) for path in paths]
            for number, operation in enumerate(operations):  # large files go up before the commit that names them
                watcher.phase("upload", sum(path.stat().st_size for path in paths[:number]), size)
                api.preupload_lfs_files(repository, [operation])
            commit = api.create_commit(
                repository,
                operations,
                commit_message="Model exported by obverse",
                parent_commit=info.sha,  # refused if the repository has changed since it was checked
            )
    except HubError as error:
        raise HubError(f"{error}; {advice}") from error.__cause__
    watcher.note(f"{folder} is on the hub: {commit.commit_url}")
    return str(commit.commit_url)


def _refuse_other_content(api: HfApi, repository: str, files: set[str], paths: Sequence[Path]) -> None:
    """Raise HubError for a repository with other files than those to upload, or with a card of another author."""
    exported = {path.name: path for path in paths}
    surplus = sorted(files - exported.keys() - OF_THE_HUB)
    if surplus:
        listed = ", ".join(surplus[:3]) + (", ..." if len(surplus) > 3 else "")
        raise HubError(f"{repository} has other content ({listed}): give another name")
    if CARD in files:
        card = Path(api.hf_hub_download(repository, CARD)).read_bytes()
        is_same = CARD in exported and exported[CARD].read_bytes() == card
        if not is_same and not is_unchanged(card.decode("utf-8", "replace")):
            raise HubError(f"{repository} has a {CARD} that was edited or is not of obverse: give another name")
    elif files - OF_THE_HUB:
        raise HubError(f"{repository} has a model without a card of obverse: give another name")


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    """Convert the exceptions of huggingface_hub into HubErrors of one sentence."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        reason = error.server_message or (str(error).strip().splitlines() or [type(error).__name__])[0]
        explained = {401: "the token is not valid", 403: "the token may not write there"}.get(status, "it refuses")
        raise HubError(f"hub: {name}: {explained} (status {status}: {flat(reason)})") from error
    except HTTPError as error:
        raise HubError(f"hub: it cannot be reached: {flat(error) or type(error).__name__}") from error
    except (OSError, ValueError, RuntimeError) as error:  # of a file's upload: its cause is the HTTP error
        cause = error.__cause__ or error
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        raise HubError(f"hub: {name}: the upload failed: {flat(reason)}") from error
