"""Loading: a folder or a Hub repository in, model, processor and settings out; adapters are put onto their base.

What comes from others is not trusted: no code of theirs is run, and what their files make a library do is tried first
in a process with limits (`trial`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_frameseg._files import restore_folder
from hf_frameseg._text import printable
from hf_frameseg.sharing.adapter_loading import check_tensors, lora_config_from, put_onto
from hf_frameseg.sharing.config import CONFIG_NAME, TINY_BASE, TINY_MODEL, FrameSegmentationConfig
from hf_frameseg.sharing.heads import HEADS_NAME, given_objectives, load_heads
from hf_frameseg.sharing.model_folder import (
    ADAPTER_CONFIG_NAME,
    QUANTIZATION_NAME,
    adapter_shapes,
    check_model_folder,
    check_texts,
)
from hf_frameseg.sharing.model_trial import ask_processor, check_sizes, empty_model
from hf_frameseg.sharing.trial import reason_of, try_out

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, ProcessorMixin

    from hf_frameseg.objectives import Objective

# No colon in the name of a Hub repository: this can only mean the model inside the package.
BUNDLED_BASES = {"hf_frameseg:tiny_base": TINY_BASE}
"""Names, in adapters, of bases that come with the package and have another path on every machine."""

_FILES = [
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    "adapter_model.safetensors",
    "model.safetensors",
    "model-*.safetensors",
    HEADS_NAME,
]
_OWN = {TINY_BASE, TINY_MODEL}  # came with this code
_MAX_REASON = 400  # characters
# A trial is a fork: what another thread is importing at that moment stays half imported, and locked, in the copy.
_ONE_AT_A_TIME = threading.RLock()
_REMOTE_CODE = (
    "it needs Python code of its own, which is never run here: take a model that transformers knows, or, if you trust "
    "its authors, load model and processor yourself (trust_remote_code=True) and give both to MomentRetriever"
)


class UnusableModelError(ValueError):
    """Say that a folder or a repository cannot be used as a model, and why."""


@contextmanager
def usable(name: str | Path, *, asked: bool = False) -> Iterator[None]:
    """Turn whatever goes wrong with the model of others in a block into one line; the cause stays attached.

    Models are loaded by one thread at a time; they are asked by any number.

    Args:
        name: The model's folder or Hub name, for the message.
        asked: Whether the block asks the model. A `ValueError` or `OSError` may then be about the question, and stays.

    Raises:
        UnusableModelError: If the block raises.
        ConnectionError: If the Hub cannot be reached.
        PermissionError: If the Hub refuses the token.
    """
    import torch

    try:
        with nullcontext() if asked else _ONE_AT_A_TIME:
            yield
    except (UnusableModelError, ConnectionError, PermissionError, ImportError, torch.OutOfMemoryError):
        raise
    except BaseException as error:
        if asked and isinstance(error, ValueError | OSError):
            raise
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of libraries in Rust
            raise
        raise UnusableModelError(f"{printable(name)} is not a usable model: {_explain(error)}") from error


def load_pretrained(
    path_or_repo: str | Path,
    *,
    base_model: str | Path | None = None,
    revision: str | None = None,
    token: str | None = None,
    objectives: Mapping[str, Objective | type[Objective] | None] | None = None,
    heads: bool = True,
    **model_kwargs: Any,
) -> tuple[PreTrainedModel, ProcessorMixin, FrameSegmentationConfig]:
    """Load a whole model, or an adapter onto its base, with the heads that were trained beside it.

    Args:
        path_or_repo: Folder, or `owner/name` of a Hub repository when there is no such folder.
        base_model: Folder or Hub name of the base, when it is not where the adapter says.
        revision: Branch, tag or commit of the Hub repository.
        token: Hub token; None takes the one of `hf auth login`.
        objectives: The objectives of its heads by name, where they are not in `OBJECTIVES`; None in the place of one
            leaves its head out. Heads hang on the model as `frameseg_heads`.
        heads: False leaves all heads out: the readouts of this package do without them.
        **model_kwargs: Arguments of the (base) model's `from_pretrained`, such as `dtype`.

    Returns:
        The model in evaluation mode (a `PeftModel` for an adapter), its processor, and how it is asked.

    Raises:
        FileNotFoundError: If there is no such folder or repository, or it has no `frameseg_config.json`.
        ConnectionError: If the Hub cannot be reached.
        PermissionError: If the Hub refuses the token.
        ValueError: If it cannot be used (`UnusableModelError`): damaged, of another kind, asking for code or for more
            than there is, or an adapter that fits only the base of its own run (`pissa_niter_*`).
    """
    given = given_objectives(objectives)
    folder = fetch(path_or_repo, revision=revision, token=token)
    if is_adapter(folder):
        loaded = _load_adapter(folder, path_or_repo, base_model, {"token": token, **model_kwargs})
        _load_heads(loaded[0], folder, path_or_repo, given, heads)
        return loaded
    config = _settings(folder, path_or_repo)
    processor = _load_processor(folder, path_or_repo, config.frames.num_frames)
    if _is_from_hub(path_or_repo):
        revision = folder.name  # the commit: the branch may have moved since
    model = load_base(path_or_repo, revision=revision, token=token, **model_kwargs)
    _load_heads(model, folder, path_or_repo, given, heads)
    return model, processor, config


def load_base(
    name: str | Path | None, *, revision: str | None = None, token: str | None = None, **model_kwargs: Any
) -> PreTrainedModel:
    """Load a whole model by folder, Hub name, or name of a model inside the package.

    Args:
        name: Which.
        revision: Branch, tag or commit of a Hub repository.
        token: Hub token; None takes the one of `hf auth login`.
        **model_kwargs: Arguments of `AutoModelForImageTextToText.from_pretrained`.

    Returns:
        The model in evaluation mode.

    Raises:
        FileNotFoundError: If there is no such folder or repository.
        ConnectionError: If the Hub cannot be reached.
        PermissionError: If the Hub refuses the token.
        ValueError: If there is no name, or the model cannot be used (`UnusableModelError`).
    """
    if "trust_remote_code" in model_kwargs:
        raise ValueError(f"got trust_remote_code for {name}: {_REMOTE_CODE}")
    folder = _whole_model(name, revision, token)
    # By name for the Hub, so that the model says where it comes from.
    source: dict[str, Any] = {"pretrained_model_name_or_path": folder}
    if _is_from_hub(name):
        source = {"pretrained_model_name_or_path": str(name), "revision": folder.name, "token": token}
    with usable(name):
        from transformers import AutoModelForImageTextToText

        import hf_frameseg.models.xgenmm  # noqa: F401 - registers xGen-MM with the Auto classes

        shapes = check_model_folder(folder)
        if folder not in _OWN:
            try_out(partial(check_sizes, folder, shapes))
        model, found = AutoModelForImageTextToText.from_pretrained(
            **source,
            **model_kwargs,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
        )
        _refuse_incomplete(found)
    return _with_commit(model, name, folder)


def load_processor(
    name: str | Path, *, num_frames: int = 25, revision: str | None = None, token: str | None = None
) -> ProcessorMixin:
    """Load a processor by folder, Hub name, or name of a model inside the package.

    Args:
        name: Which.
        num_frames: Frames of the question that is asked on trial.
        revision: Branch, tag or commit of a Hub repository.
        token: Hub token; None takes the one of `hf auth login`.

    Returns:
        The processor.

    Raises:
        FileNotFoundError: If there is no such folder or repository.
        ConnectionError: If the Hub cannot be reached.
        PermissionError: If the Hub refuses the token.
        ValueError: If it cannot be used (`UnusableModelError`).
    """
    return _load_processor(_whole_model(name, revision, token), name, num_frames)


def empty_base(name: str | Path, revision: str | None = None) -> PreTrainedModel:
    """Build the model that the files of a base describe, without weights.

    Args:
        name: Folder or name, as for `load_base`.
        revision: Branch, tag or commit of a Hub repository.

    Returns:
        The model on the device "meta".
    """
    folder = _whole_model(name, revision, None)
    return _with_commit(empty_model(folder), name, folder)


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds an adapter."""
    return (folder / ADAPTER_CONFIG_NAME).is_file()


def fetch(path_or_repo: str | Path, *, revision: str | None = None, token: str | None = None) -> Path:
    """Return a folder as it is; download a Hub repository into the Hub's cache, without weights that are not read.

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
    if not folder.exists():
        restore_folder(folder)  # of a process that was killed while it replaced it
    if folder.is_dir() or isinstance(path_or_repo, Path) or name.count("/") != 1 or name[0] in "./~":
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, revision=revision, token=token, allow_patterns=_FILES))
    except HFValidationError:
        return folder
    except Exception as error:
        raise hub_error(error, f"load {printable(name)}") from error


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
        detail = printable(" ".join(f"{type(error).__name__}: {error}".split()))
        return ConnectionError(f"{where}: the connection broke ({detail[:200]}); try again")
    return error


def _load_adapter(
    folder: Path, name: str | Path, base_model: str | Path | None, model_kwargs: Mapping[str, Any]
) -> tuple[PeftModel, ProcessorMixin, FrameSegmentationConfig]:
    """Put the adapter of a folder onto its base, as that was when it was trained."""
    with usable(name):
        lora = lora_config_from(check_texts(folder)[ADAPTER_CONFIG_NAME])
        shapes = adapter_shapes(folder)
    config = _settings(folder, name)
    recorded = config.base_model or lora.base_model_name_or_path
    base, own = base_model or recorded, {"dtype": config.dtype}
    if str(base) == str(recorded):
        own |= {"revision": lora.revision, "quantization_config": _quantization(folder, name)}
    options = {**{key: value for key, value in own.items() if value is not None}, **model_kwargs}
    processor = _load_processor(folder, name, config.frames.num_frames)
    base_folder = _whole_model(base, options.get("revision"), options.get("token"))
    model = load_base(base, **options)  # first, so that what is wrong with the base is said of the base
    with usable(name):
        try_out(lambda: check_tensors(empty_model(base_folder), lora, shapes))
        return put_onto(model, lora, folder, shapes), processor, config


def _load_heads(
    model: PreTrainedModel | PeftModel, folder: Path, name: str | Path, objectives: Any, wanted: bool
) -> None:
    """Hang the heads of a folder on its model."""
    if not wanted:
        return
    with usable(name):
        load_heads(model, folder, objectives)


def _load_processor(folder: Path, name: str | Path, num_frames: int) -> ProcessorMixin:
    """Load the processor of a folder after a trial."""
    with usable(name):
        from transformers import AutoProcessor

        import hf_frameseg.models.xgenmm  # noqa: F401 - registers xGen-MM with the Auto classes

        check_texts(folder)
        if folder not in _OWN:
            try_out(partial(ask_processor, folder, num_frames))
        return AutoProcessor.from_pretrained(folder, trust_remote_code=False)


def _whole_model(name: str | Path | None, revision: str | None, token: str | None) -> Path:
    """Return the folder of a base."""
    if name is None:
        raise ValueError("the adapter does not say which base it belongs to: pass base_model= with its name or folder")
    folder = BUNDLED_BASES.get(str(name)) or fetch(name, revision=revision, token=token)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {printable(name)}, and it is no owner/name of the Hub: check the path")
    return folder


def _is_from_hub(name: str | Path) -> bool:
    """Tell whether the name of something that was found is one of the Hub."""
    return str(name) not in BUNDLED_BASES and not Path(name).is_dir()


def _with_commit(model: PreTrainedModel, name: str | Path, folder: Path) -> PreTrainedModel:
    """Let a model from the Hub say its commit, which transformers (5.24) forgets and an adapter must record."""
    if _is_from_hub(name):
        model.config._commit_hash = folder.name
    return model


def _settings(folder: Path, name: str | Path) -> FrameSegmentationConfig:
    """Read how a model is asked."""
    if not (folder / CONFIG_NAME).exists():
        return FrameSegmentationConfig.load(folder)  # says what is missing
    with usable(name):
        check_texts(folder)
        return FrameSegmentationConfig.load(folder)


def _quantization(folder: Path, name: str | Path) -> Any | None:
    """Return how the base of an adapter was quantised when it was loaded for training, if it was."""
    if not (folder / QUANTIZATION_NAME).exists():
        return None
    from transformers.quantizers.auto import AutoQuantizationConfig

    with usable(name):
        return AutoQuantizationConfig.from_dict(check_texts(folder)[QUANTIZATION_NAME])


def _refuse_incomplete(found: Mapping[str, Any]) -> None:
    """Refuse a model whose weights are not those of its configuration, both ways."""
    kinds = {"missing_keys": "missing", "unexpected_keys": "without a place", "mismatched_keys": "of another shape"}
    problems = []
    for key, problem in kinds.items():
        names = sorted(name if isinstance(name, str) else name[0] for name in found.get(key) or ())
        if names:
            problems.append(f"{len(names)} weights are {problem} ({', '.join(names[:3])}{', ...' * (len(names) > 3)})")
    if problems:
        raise ValueError(f"{'; '.join(problems)}: configuration and weights must belong together")


def _explain(error: BaseException) -> str:
    """Return the reason in an error, without control characters."""
    reason = reason_of(error)
    if "trust_remote_code" in reason:
        return _REMOTE_CODE
    return printable(reason if len(reason) <= _MAX_REASON else f"{reason[:_MAX_REASON]} ...")
