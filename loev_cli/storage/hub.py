"""Model repositories on the Hugging Face Hub: ``hf://OWNER/NAME[@REVISION]`` (extra hub).

    fetch(address, names)    the folder of these files in the hub's cache, fetched if need be
    push(address, files)     files -> one commit in a repository, which is made if need be

Nothing but the files that are named is fetched. ``huggingface_hub`` keeps them (``HF_HOME``), and
gives them from there while the hub cannot be reached. Its environment variables hold:
``HF_TOKEN``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``.
"""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loev_cli import __version__
from loev_cli.errors import LoevError, UsageError, needs_extra
from loev_cli.storage.bounded import in_one_line

SCHEME = "hf://"
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"hf://({_PART}/{_PART})(?:@([A-Za-z0-9][A-Za-z0-9._/-]*))?")
_TAGS = ["music", "audio", "embeddings", "music-information-retrieval"]


@dataclass(frozen=True)
class Address:
    """A model on the hub.

    Attributes:
        repo: ``OWNER/NAME``.
        revision: a branch, a tag or a commit; None: the main branch.
    """

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return SCHEME + self.repo + (f"@{self.revision}" if self.revision else "")


def parse_address(text: str) -> Address:
    """``hf://owner/name@revision`` -> its parts.

    Raises:
        UsageError: it is not of that form.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None or ".." in text:
        raise UsageError(
            f"invalid model address '{text}'", hint="hf://OWNER/NAME or hf://OWNER/NAME@REVISION"
        )
    return Address(found[1], found[2])


def fetch(address: Address, names: Sequence[str]) -> Path:
    """A folder with those of the files ``names`` that the repository has.

    Raises:
        UsageError: no such repository or revision, or it is not for everyone.
        LoevError: the hub cannot be reached, and the files were not fetched before.
        MissingExtraError: without huggingface_hub.
    """
    with needs_extra("a model on the Hugging Face Hub", "hub"):
        from huggingface_hub import snapshot_download
    with _talking_to_hub(address):
        folder = snapshot_download(
            address.repo,
            revision=address.revision,
            allow_patterns=list(names),
            library_name="loev",
            library_version=__version__,
        )
    return Path(folder)


def push(
    address: Address, files: Mapping[str, Path | bytes], *, message: str, private: bool = False
) -> str:
    """Upload files, by name, as one commit.

    Args:
        address: its revision is a branch that exists; default the main branch.
        message: of the commit.
        private: of a repository that is made; one that is there stays as it is.

    Returns:
        The URL of the commit.

    Raises:
        UsageError: no token, one that may not write there, or a card that the hub does not accept.
        LoevError: the hub cannot be reached, or refuses.
        MissingExtraError: without huggingface_hub.
    """
    with needs_extra("--push", "hub"):
        from huggingface_hub import CommitOperationAdd, HfApi
    operations = [
        CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        for name, content in files.items()
    ]
    hub = HfApi(library_name="loev", library_version=__version__)
    with _talking_to_hub(address):
        hub.create_repo(address.repo, private=private, exist_ok=True)
        done = hub.create_commit(
            address.repo, operations, commit_message=message, revision=address.revision
        )
    return str(done.commit_url)


def with_front_matter(card: str, license_id: str | None = None) -> str:
    """A model card with what the hub reads; what its author wrote stays.

    Args:
        license_id: as the hub spells it (``mit``, ``cc-by-4.0``); None: as the card has it.

    Raises:
        UsageError: it has front matter that is not YAML of names and values.
        MissingExtraError: without huggingface_hub.
    """
    with needs_extra("--push", "hub"):
        from huggingface_hub import ModelCard
    try:
        parsed = ModelCard(card if card.startswith("---") else f"---\ntags: []\n---\n\n{card}")
    except Exception as error:  # of the YAML parser, or ValueError
        raise UsageError(
            f"the model card has invalid front matter: {in_one_line(error)}"
        ) from error
    data: Any = parsed.data
    data.library_name = data.library_name or "loev"
    data.pipeline_tag = data.pipeline_tag or "feature-extraction"
    data.tags = [*(data.tags or []), *(tag for tag in _TAGS if tag not in (data.tags or []))]
    if license_id:
        data.license = license_id
    return str(parsed)


@contextlib.contextmanager
def _talking_to_hub(address: Address) -> Iterator[None]:
    """Turns errors of huggingface_hub into ours; silences its warnings and progress bars."""
    from huggingface_hub import errors
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    logger = logging.getLogger("huggingface_hub")
    level, had_bars = logger.level, not are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    if had_bars:
        disable_progress_bars()
    needs_token = "for one that is private or gated, set HF_TOKEN or run 'hf auth login'"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except errors.GatedRepoError as error:
        raise UsageError(f"{address}: access has to be granted first", hint=needs_token) from error
    except errors.RepositoryNotFoundError as error:
        raise UsageError(f"{address}: no such model on the hub", hint=needs_token) from error
    except errors.RevisionNotFoundError as error:
        raise UsageError(
            f"{address}: the model has no revision '{address.revision}'",
            hint="a branch, a tag or a commit",
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise LoevError(
            f"{address}: the hub cannot be reached, and the model is not in its cache",
            hint="check the connection, and that HF_HUB_OFFLINE is not set",
        ) from error
    except errors.HfHubHTTPError as error:
        code = error.response.status_code
        if code in (401, 403):
            raise UsageError(
                f"{address}: the hub refuses (HTTP {code})",
                hint="set HF_TOKEN to a token that may do this, or run 'hf auth login'",
            ) from error
        raise LoevError(f"{address}: the hub answers HTTP {code}") from error
    except ValueError as error:  # an address or a card that is not accepted
        raise UsageError(f"{address}: {in_one_line(error)}") from error
    except Exception as error:
        # The HTTP client has errors of its own, and is not the same in all versions.
        if not isinstance(error, OSError) and "httpx" not in type(error).__module__:
            raise
        reason = type(error).__name__
        raise LoevError(f"{address}: the hub cannot be reached ({reason})") from error
    finally:
        logger.setLevel(level)
        if had_bars:
            enable_progress_bars()
