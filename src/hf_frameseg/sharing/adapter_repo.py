"""Adapters on the Hub: what `save_adapter` wrote, all of it and nothing else, in one commit."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hf_frameseg.sharing.config import CONFIG_NAME, FrameSegmentationConfig
from hf_frameseg.sharing.heads import HEADS_NAME
from hf_frameseg.sharing.loading import BUNDLED_BASES, hub_error, load_processor
from hf_frameseg.sharing.model_card import CARD_NAME, name_in_card
from hf_frameseg.sharing.model_folder import ADAPTER_CONFIG_NAME, ADAPTER_WEIGHTS_NAME, QUANTIZATION_NAME


def push_to_hub(
    repo_id: str,
    folder: str | Path,
    *,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload adapter",
) -> str:
    """Upload a saved adapter, in one commit: the repository gets all of it or nothing.

    What `save_adapter` wrote is uploaded, and nothing else that lies in the folder. Pushing again replaces the files;
    without a change there is no new commit.

    Args:
        repo_id: `owner/name`; made when it does not exist.
        folder: Folder of `save_adapter`.
        token: Hub token with the right to write; None takes the one of `hf auth login`.
        private: Whether a new repository is private; None takes the account's default.
        revision: Branch, made when it does not exist; None takes the main one.
        commit_message: First line of the commit.

    Returns:
        Address of the commit.

    Raises:
        FileNotFoundError: If the folder is no complete adapter.
        ValueError: If the base is a folder of this machine, where nobody else can find it; if a file is a link, which
            could lead to anything; or if the repository is public and `private` is true.
        PermissionError: If the Hub refuses the token.
        ConnectionError: If the Hub cannot be reached or the connection breaks.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    folder = Path(folder).resolve()
    _check_shareable(folder)
    names = _written_files(folder)
    card = name_in_card((folder / CARD_NAME).read_text(encoding="utf-8"), repo_id)
    operations = [
        CommitOperationAdd(name, card.encode() if name == CARD_NAME else str(folder / name)) for name in names
    ]
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if private and not api.model_info(repo_id).private:  # an old repository keeps its visibility
            raise ValueError(f"expected a private repository, {repo_id} is public: choose another name")
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.create_commit(repo_id, operations, commit_message=commit_message, revision=revision)
    except Exception as error:
        raise hub_error(error, f"push to {repo_id}") from error
    return str(commit.commit_url)


def _written_files(folder: Path) -> list[str]:
    """Return the names of what `save_adapter` wrote into a folder; none may be a link."""
    names = {ADAPTER_CONFIG_NAME, ADAPTER_WEIGHTS_NAME, CONFIG_NAME, CARD_NAME, QUANTIZATION_NAME, HEADS_NAME}
    with tempfile.TemporaryDirectory() as again:  # which files a processor has is its own affair
        load_processor(folder).save_pretrained(again)
        names |= {str(path.relative_to(again)) for path in Path(again).rglob("*") if path.is_file()}
    for name in names:
        if (folder / name).resolve() != folder / name:
            raise ValueError(f"{name} in {folder} is a link, which may lead to anything: put a copy in its place")
    return sorted(name for name in names if (folder / name).is_file())


def _check_shareable(folder: Path) -> None:
    """Refuse to push what others could not load."""
    needed = (ADAPTER_CONFIG_NAME, ADAPTER_WEIGHTS_NAME, CONFIG_NAME, CARD_NAME)
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"expected a folder of save_adapter, got {folder} without {', '.join(missing)}")
    base = str(FrameSegmentationConfig.load(folder).base_model)
    if base not in BUNDLED_BASES and (base.count("/") != 1 or Path(base).is_dir()):
        raise ValueError(
            f"the base of {folder} is {base}, which others do not have: save it with base_model='owner/name'"
        )
