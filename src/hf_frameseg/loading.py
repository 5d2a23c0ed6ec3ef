"""Loading: a folder or a Hub repository in, model, processor and settings out; adapters are put onto their base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_frameseg.config import TINY_BASE, FrameSegmentationConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

ADAPTER_CONFIG_NAME = "adapter_config.json"
"""File that makes a folder an adapter (PEFT's name)."""

# No colon in the name of a Hub repository: this can only mean the model inside the package.
BUNDLED_BASES = {"hf_frameseg:tiny_base": TINY_BASE}
"""Names, in adapters, of bases that come with the package and have another path on every machine."""

_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]


def load_pretrained(
    path_or_repo: str | Path,
    *,
    base_model: str | Path | None = None,
    revision: str | None = None,
    token: str | None = None,
    **model_kwargs: Any,
) -> tuple[PreTrainedModel, ProcessorMixin, FrameSegmentationConfig]:
    """Load a whole model, or an adapter onto its base.

    Args:
        path_or_repo: Folder, or `owner/name` of a Hub repository when there is no such folder.
        base_model: Folder or Hub name of the base, when it is not where the adapter says.
        revision: Branch, tag or commit of the Hub repository.
        token: Hub token; None takes the one of `hf auth login`.
        **model_kwargs: Arguments of the (base) model's `from_pretrained`, such as `dtype`.

    Returns:
        The model in evaluation mode (a `PeftModel` for an adapter), its processor, and how it is asked.

    Raises:
        FileNotFoundError: If there is no such folder or repository, or it has no `frameseg_config.json`.
        ConnectionError: If the Hub cannot be reached.
        PermissionError: If the Hub refuses the token.
        ValueError: If the adapter fits only the base of its own run (`pissa_niter_*`).
    """
    from transformers import AutoProcessor

    folder = fetch(path_or_repo, revision=revision, token=token)
    config = FrameSegmentationConfig.load(folder) if not is_adapter(folder) else _adapter_settings(folder)
    if is_adapter(folder):
        from peft import PeftModel

        adapter = json.loads((folder / ADAPTER_CONFIG_NAME).read_text(encoding="utf-8"))
        base = base_model or config.base_model or adapter.get("base_model_name_or_path")
        if base_model is None and adapter.get("revision"):
            model_kwargs = {"revision": adapter["revision"], **model_kwargs}
        if config.dtype is not None:
            model_kwargs = {"dtype": config.dtype, **model_kwargs}
        if token is not None:
            model_kwargs = {"token": token, **model_kwargs}
        model = PeftModel.from_pretrained(load_base(base, **model_kwargs), str(folder)).eval()
    else:
        model = load_base(folder, **model_kwargs)
    return model, AutoProcessor.from_pretrained(folder), config


def load_base(name: str | Path | None, **model_kwargs: Any) -> PreTrainedModel:
    """Load a whole model by folder, Hub name, or name of a model inside the package.

    Args:
        name: Which.
        **model_kwargs: Arguments of `AutoModelForImageTextToText.from_pretrained`.

    Returns:
        The model in evaluation mode.

    Raises:
        ValueError: If there is no name.
    """
    from transformers import AutoModelForImageTextToText

    import hf_frameseg.models.xgenmm  # noqa: F401 - registers xGen-MM with the Auto classes

    if name is None:
        raise ValueError("the adapter does not say which base it belongs to: pass base_model= with its name or folder")
    return AutoModelForImageTextToText.from_pretrained(BUNDLED_BASES.get(str(name), name), **model_kwargs)


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds an adapter."""
    return (folder / ADAPTER_CONFIG_NAME).is_file()


def fetch(path_or_repo: str | Path, *, revision: str | None = None, token: str | None = None) -> Path:
    """Return a folder as it is; download a Hub repository into the Hub's cache.

    Args:
        path_or_repo: Folder, or `owner/name` when there is no such folder.
        revision: Branch, tag or commit of the repository.
        token: Hub token; None takes the one of `hf auth login`.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If there is neither folder nor repository.
        ConnectionError: If the Hub cannot be reached.
        PermissionError: If the Hub refuses the token.
    """
    folder, name = Path(path_or_repo), str(path_or_repo)
    if folder.is_dir() or isinstance(path_or_repo, Path) or name.count("/") != 1 or name[0] in "./~":
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, revision=revision, token=token, allow_patterns=_FILES))
    except HFValidationError:
        return folder
    except Exception as error:
        raise hub_error(error, f"load {name}") from error


def hub_error(error: Exception, action: str) -> Exception:
    """Say in one line what went wrong between here and the Hub, and what to do.

    Args:
        error: What `huggingface_hub` raised.
        action: What was tried, such as "push to owner/name".

    Returns:
        A `PermissionError`, `FileNotFoundError` or `ConnectionError` to raise; an error of another kind as it is.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    # The client wraps what went wrong: "not in the cache either", "Error while uploading".
    while isinstance(error, LocalEntryNotFoundError | RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    where = f"could not {action} at {constants.ENDPOINT}"
    if isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError):
        return FileNotFoundError(
            f"could not {action}: there is no such folder, and the Hub was not reached or HF_HUB_OFFLINE is set"
        )
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status == 401:
            return PermissionError(f"{where}: it did not accept the token (401); log in with `hf auth login`")
        if status == 403:
            return PermissionError(f"{where}: the token has no right to do this (403); use one that may write there")
        if status == 404:
            return FileNotFoundError(f"{where}: no such repository or revision (404); check the name")
        return ConnectionError(f"{where}: it answered {status}; try again")
    # The client's HTTP library is named httpx or httpx2, by version; its errors are no ConnectionError.
    libraries = {cls.__module__.partition(".")[0] for cls in type(error).__mro__}
    if isinstance(error, ConnectionError | TimeoutError) or libraries & {"httpx", "httpx2"}:
        detail = " ".join(f"{type(error).__name__}: {error}".split())
        return ConnectionError(f"{where}: the connection broke ({detail[:200]}); try again")
    return error


def _adapter_settings(folder: Path) -> FrameSegmentationConfig:
    """Read the settings of an adapter that applies to a base that others have."""
    init = json.loads((folder / ADAPTER_CONFIG_NAME).read_text(encoding="utf-8")).get("init_lora_weights")
    if str(init).startswith("pissa_niter"):
        # PEFT would put it onto another decomposition without a word
        raise ValueError(
            f"{folder} holds an adapter made with {init}: it fits only the random decomposition of the base in its own "
            "run; convert it there with save_adapter, or merge it (merge_and_unload)"
        )
    return FrameSegmentationConfig.load(folder)
