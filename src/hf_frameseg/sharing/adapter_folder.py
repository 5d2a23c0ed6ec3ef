"""Adapters that come back: saved as an ordinary LoRA for the original base, compared before they stay."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hf_frameseg._files import replace_folder
from hf_frameseg.readout.precision import autocast_of
from hf_frameseg.sharing.adapter_check import compare, noise_batch
from hf_frameseg.sharing.adapters import changes_base, lora_config_of, plain_lora, read_snapshot
from hf_frameseg.sharing.config import CONFIG_NAME, FrameSegmentationConfig
from hf_frameseg.sharing.heads import save_heads
from hf_frameseg.sharing.loading import BUNDLED_BASES, empty_base, fetch, is_adapter, load_pretrained
from hf_frameseg.sharing.model_card import CARD_NAME, model_card
from hf_frameseg.sharing.model_folder import ADAPTER_CONFIG_NAME, ADAPTER_WEIGHTS_NAME, QUANTIZATION_NAME

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, ProcessorMixin


def save_adapter(
    model: PeftModel,
    processor: ProcessorMixin,
    config: FrameSegmentationConfig,
    folder: str | Path,
    *,
    initial_adapter: Mapping[str, Tensor] | str | Path | None = None,
    base_model: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    dataset: str | None = None,
    check_batch: Mapping[str, Tensor] | None = None,
    tolerance: float | None = None,
) -> Path:
    """Write an ordinary LoRA that applies to the original base, with all that is needed to ask the model.

    PiSSA is converted (the rank doubles). What was written is loaded onto a new base and compared with the trained
    model before the folder gets its name, so `folder` holds either a complete adapter that gives the same answers, or
    what it held before. An adapter that fails the comparison, or cannot be compared, is kept beside it under another
    name (`FOLDER.refused`). In a distributed run call it on one process, with the unwrapped model.

    Args:
        model: The trained model, wrapped by PEFT.
        processor: Its processor.
        config: How it was trained to be asked.
        folder: Where to; an older model or adapter there is replaced.
        initial_adapter: For PiSSA and its relatives: what `snapshot_adapter` returned or wrote before training.
        base_model: Hub name or folder of the base; None takes the place it was loaded from. Set it when the base was
            loaded from a copy that others do not have.
        metrics: Scores for the model card: numbers by name, or rows of them by name.
        recipe: Settings of the training for the model card.
        dataset: What it was trained on, for the model card; "QVHighlights" brings its licence.
        check_batch: Model inputs for the comparison, such as a batch of the collator; None asks about noise frames.
        tolerance: Largest absolute difference of a logit; None takes `adapter_check.TOLERANCE`, and for PiSSA also lets
            pass what is within `ROUNDING_FACTOR` of the rounding measured on the same batch.

    Returns:
        The folder.

    Raises:
        ValueError: If the snapshot is missing or foreign, the base is not known, or the saved adapter gives other
            logits or could not be compared; the message says where it is kept then.
        FileExistsError: If `folder` holds something that is no model of this package.

    Example:
        Around any training::

            model = get_peft_model(base, LoraConfig(init_lora_weights="pissa_niter_4", ...))
            initial = snapshot_adapter(model)
            ...  # train
            save_adapter(model, processor, config, "runs/adapter", initial_adapter=initial)
    """
    folder, base = _place(folder), _base_of(model, base_model)
    dtype = str(model.get_base_model().dtype).removeprefix("torch.")
    config = replace(config, base_model=base.name, dtype=dtype, autocast=config.autocast or autocast_of(model))
    state, lora = plain_lora(model, initial_adapter, _has_own_tokens(model, base.outline))
    lora.base_model_name_or_path = base.name
    if base.name == base.loaded_from:  # else the commit is one of another repository
        lora.revision = base.revision
    card = model_card(config, metrics=metrics, recipe=recipe, dataset=dataset)
    batch = noise_batch(processor, config) if check_batch is None else check_batch

    with _staging(folder) as partial:
        from safetensors.torch import save_file

        save_file(state, partial / ADAPTER_WEIGHTS_NAME, metadata={"format": "pt"})
        save_heads(model, partial)
        lora.save_pretrained(str(partial))
        processor.save_pretrained(partial)
        config.save(partial)
        (partial / CARD_NAME).write_text(card, encoding="utf-8")
        _write_quantization(model, base.outline, partial)
        start = read_snapshot(initial_adapter)[0] if changes_base(lora_config_of(model)) else None
        with _keeping(partial, folder):
            compare(model, base.place, base.revision, partial, batch, start, tolerance, config.autocast)
    return folder


def load_adapter(
    path_or_repo: str | Path, *, base_model: str | Path | None = None, **kwargs: Any
) -> tuple[PeftModel, ProcessorMixin, FrameSegmentationConfig]:
    """Load an adapter onto its original base.

    Args:
        path_or_repo: Folder of `save_adapter`, or `owner/name` on the Hub.
        base_model: Folder or Hub name of the base, when it is not where the adapter says.
        **kwargs: As for `load_pretrained`: `revision`, `token`, `objectives`, and the base's arguments such as `dtype`.

    Returns:
        The model in evaluation mode, its processor, and how it is asked.

    Raises:
        FileNotFoundError: If there is no such folder or repository.
        ConnectionError: If the Hub cannot be reached.
        PermissionError: If the Hub refuses the token.
        ValueError: If it holds no adapter, or one that fits only the base of its own run.
    """
    folder = fetch(path_or_repo, **{name: kwargs[name] for name in ("revision", "token") if name in kwargs})
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {path_or_repo}, and it is no owner/name of the Hub: check the path")
    if not is_adapter(folder):
        raise ValueError(
            f"expected an adapter, got {folder} without {ADAPTER_CONFIG_NAME}: load it with load_pretrained"
        )
    return load_pretrained(folder, base_model=base_model, **{k: v for k, v in kwargs.items() if k != "revision"})


def merge_and_save(adapter: str | Path, folder: str | Path, **kwargs: Any) -> Path:
    """Put an adapter into its base and save the whole model.

    Args:
        adapter: Folder of `save_adapter`, or `owner/name` on the Hub.
        folder: Where to; an older model or adapter there is replaced.
        **kwargs: As for `load_adapter`, such as `dtype`.

    Returns:
        The folder: model, processor and `frameseg_config.json`.

    Raises:
        FileExistsError: If `folder` holds something that is no model of this package.
    """
    folder = _place(folder)
    model, processor, config = load_adapter(adapter, **kwargs)
    with _staging(folder) as partial:
        save_heads(model, partial)
        model.merge_and_unload().save_pretrained(partial)
        processor.save_pretrained(partial)
        replace(config, base_model=None, dtype=None).save(partial)
    return folder


# ---- Files -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Base:
    """What an adapter stands on.

    Args:
        name: Hub name or folder, under which the adapter will look for it.
        loaded_from: Where the model was loaded from, if it says.
        revision: Commit of it on the Hub, or None.
        outline: The model that its files describe, without weights; None if they cannot be read.
    """

    name: str
    loaded_from: str | None
    revision: str | None
    outline: PreTrainedModel | None

    @property
    def place(self) -> str:
        """Return where it can be loaded from on this machine."""
        return self.loaded_from or self.name


def _base_of(model: PeftModel, name: str | None) -> _Base:
    """Find out what an adapter stands on; a name of the user's goes before what the model says."""
    lora = lora_config_of(model)
    loaded_from = lora.base_model_name_or_path
    name = name or _shared_name(loaded_from)
    if name is None:
        raise ValueError(
            "the model does not say where its base was loaded from: pass base_model= with its name or folder"
        )
    revision = lora.revision or getattr(model.get_base_model().config, "_commit_hash", None)
    outline = _base_without_weights(loaded_from or name, revision)
    revision = getattr(outline and outline.config, "_commit_hash", revision)  # the commit that a branch stands for
    return _Base(name, loaded_from, revision, outline)


def _shared_name(loaded_from: str | None) -> str | None:
    """Return the base's name, with that of a base inside the package instead of its path on this machine."""
    names = {str(path): name for name, path in BUNDLED_BASES.items()}
    return names.get(str(loaded_from), loaded_from)


def _base_without_weights(name: str, revision: str | None) -> PreTrainedModel | None:
    """Return the base as its own files describe it; None if they cannot be read, which the comparison will say."""
    try:
        return empty_base(name, revision)
    except Exception:
        return None


def _has_own_tokens(model: PeftModel, base: PreTrainedModel | None) -> bool:
    """Tell whether tokens were added to the base, whose embeddings must then come with the adapter."""
    if base is None:
        return True  # more in the file than needed does no harm
    before, now = (part.get_input_embeddings().weight.shape[0] for part in (base, model.get_base_model()))
    return before != now


def _write_quantization(model: PeftModel, base: PreTrainedModel | None, folder: Path) -> None:
    """Write down how the base was quantised when it was loaded, which its own files do not say."""
    quantization = getattr(model.get_base_model().config, "quantization_config", None)
    own = base is not None and getattr(base.config, "quantization_config", None) is not None
    if quantization is not None and not own:
        text = quantization.to_json_string(use_diff=False)
        (folder / QUANTIZATION_NAME).write_text(text, encoding="utf-8")


def _place(folder: str | Path) -> Path:
    """Return where a folder really is; refuse to replace one that holds something else."""
    known = (CONFIG_NAME, ADAPTER_CONFIG_NAME)
    circle = OSError(errno.ELOOP, "its links lead in a circle", str(folder))
    try:
        folder = Path(folder).resolve()
    except RuntimeError:  # until Python 3.12
        raise circle from None
    if folder.is_symlink():  # later
        raise circle
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: choose another folder")
    if folder.exists() and any(folder.iterdir()) and not any((folder / name).is_file() for name in known):
        raise FileExistsError(f"{folder} holds something that is no model of this package: choose another folder")
    return folder


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Give a folder to fill that takes the name of `folder` when the block ends, and vanishes when the block raises."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name[:100]}.partial-{socket.gethostname()}-"
    for old in folder.parent.glob(f"{glob.escape(prefix)}*"):
        if not Path("/proc", old.name.removeprefix(prefix)).exists():  # of a process that was killed
            shutil.rmtree(old, ignore_errors=True)
    partial = folder.with_name(f"{prefix}{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        _set_modes(partial)
        replace_folder(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _keeping(partial: Path, folder: Path) -> Iterator[None]:
    """Keep a finished adapter under another name when the block raises, and say where."""
    try:
        yield
    except BaseException as error:
        names = (
            folder.with_name(f"{folder.name}.refused{number}") for number in chain([""], map("-{}".format, count(2)))
        )
        kept = next(name for name in names if not name.exists())
        _set_modes(partial)
        partial.rename(kept)
        where = f"the adapter is kept in {kept}, {folder} is as it was"
        if not isinstance(error, Exception):  # Ctrl-C
            error.add_note(where)
            raise
        reason = str(error) if isinstance(error, ValueError) else f"not compared, {type(error).__name__}: {error}"
        raise ValueError(f"{reason}; {where}") from error


def _set_modes(folder: Path) -> None:
    """Give the files of a folder the mode of any new file; some libraries let nobody else read what they write."""
    probe = folder / ".mode"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in folder.iterdir():
        if path.is_file():
            path.chmod(mode)
