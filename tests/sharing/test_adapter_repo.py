"""Adapters on the Hub: pushed whole or not at all, pulled by their commit."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from safetensors.torch import save as safetensors_bytes

from hf_frameseg.inference import MomentRetriever
from hf_frameseg.sharing import adapter_folder as hub
from hf_frameseg.sharing.adapter_repo import push_to_hub
from hf_frameseg.sharing.loading import load_base

sys.path.insert(0, str(Path(__file__).parents[1]))  # with importlib mode a test cannot import its neighbour otherwise
from adapter_fixtures import CONFIG, logits, lora  # noqa: E402
from hub_server import TOKEN, Hub, serve  # noqa: E402


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The real client, pointed to a Hub on loopback, that does not wait between its retries."""
    from huggingface_hub import constants

    with serve() as server:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(
            constants, "HF_HUB_DISABLE_XET", True
        )  # its storage is another server with another protocol
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        yield server


def test_push_and_pull(trained: Any, save: Any, base: Path, online: Hub) -> None:
    folder = save(base_model="owner/base")
    url = push_to_hub("me/adapter", folder, token=TOKEN)
    assert url.startswith(online.url)
    assert set(online.files("me/adapter")) >= {path.name for path in folder.iterdir()}
    assert b'from_pretrained("me/adapter")' in online.files("me/adapter")["README.md"]
    assert b'from_pretrained(".")' in (folder / "README.md").read_bytes()
    assert len(online.large) == 1  # the weights went the way of large files

    model, _, config = hub.load_adapter("me/adapter", base_model=base, token=TOKEN)
    assert (logits(model, trained.batch) - logits(trained.model, trained.batch)).abs().max() < 1e-4
    assert config.base_model == "owner/base"
    kwargs = {"base_model": base, "token": TOKEN}
    assert MomentRetriever.from_pretrained("me/adapter", model_kwargs=kwargs).config == config


def test_the_base_comes_from_the_hub_by_its_commit(trained: Any, save: Any, base: Path, online: Hub) -> None:
    online.repos["owner/base"] = [{path.name: path.read_bytes() for path in base.iterdir()}]
    push_to_hub("me/adapter", save(base_model="owner/base"), token=TOKEN)
    model, _, _ = hub.load_adapter("me/adapter", token=TOKEN)
    assert (logits(model, trained.batch) - logits(trained.model, trained.batch)).abs().max() < 1e-4
    config = model.get_base_model().config
    assert (config.name_or_path, config._commit_hash) == ("owner/base", "0" * 40)
    online.repos["owner/base"].append(online.files("owner/base") | {"model.safetensors": broken(base)})
    with pytest.raises(ValueError, match="^owner/base is not a usable model: .*lm_head.weight"):
        hub.load_adapter("me/adapter", token=TOKEN)


def test_an_adapter_records_the_commit_of_its_base(
    base: Path, tiny_processor: Any, tmp_path: Path, online: Hub
) -> None:
    online.repos["owner/base"] = [{path.name: path.read_bytes() for path in base.iterdir()}]
    model = load_base("owner/base", token=TOKEN)
    model = get_peft_model(model, lora(model, init_lora_weights=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        folder = hub.save_adapter(model, tiny_processor, CONFIG, tmp_path / "adapter")
    written = json.loads((folder / "adapter_config.json").read_text())
    assert (written["base_model_name_or_path"], written["revision"]) == ("owner/base", "0" * 40)
    hub.merge_and_save(folder, tmp_path / "merged", token=TOKEN)
    assert "_commit_hash" not in (tmp_path / "merged" / "config.json").read_text()


def broken(base: Path) -> bytes:
    """Return the weights of a base without a part."""
    state = load_file(base / "model.safetensors")
    return safetensors_bytes({name: value for name, value in state.items() if "lm_head" not in name}, {"format": "pt"})


def test_pushing_again_replaces_or_does_nothing(save: Any, online: Hub) -> None:
    folder = save(base_model="owner/base")
    push_to_hub("me/adapter", folder, token=TOKEN)
    push_to_hub("me/adapter", folder, token=TOKEN)
    assert len(online.repos["me/adapter"]) == 2  # empty, and one commit
    state = load_file(folder / "adapter_model.safetensors")
    save_file({name: value + 1 for name, value in state.items()}, folder / "adapter_model.safetensors")
    push_to_hub("me/adapter", folder, token=TOKEN)
    assert len(online.repos["me/adapter"]) == 3
    assert (
        online.files("me/adapter")["adapter_model.safetensors"] == (folder / "adapter_model.safetensors").read_bytes()
    )


def test_a_branch_is_made(save: Any, online: Hub) -> None:
    folder = save(base_model="owner/base")
    for _ in range(2):
        push_to_hub("me/adapter", folder, token=TOKEN, revision="trial")
    assert "adapter_config.json" in online.files("me/adapter", "trial")
    assert online.files("me/adapter") == {}


def test_only_what_was_written_is_uploaded(save: Any, online: Hub, tmp_path: Path) -> None:
    folder = save(base_model="owner/base")
    written = {path.name for path in folder.iterdir()}
    (tmp_path / "secret.txt").write_text("mine")
    (folder / "notes.json").write_text("{}")
    (folder / "link.json").symlink_to(tmp_path / "secret.txt")
    (folder / "optimizer.pt").write_bytes(b"0")
    push_to_hub("me/adapter", folder, token=TOKEN)
    assert set(online.files("me/adapter")) == written
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(ValueError, match=r"README.md in .* is a link"):
        push_to_hub("me/adapter", folder, token=TOKEN)
    assert len(online.repos["me/adapter"]) == 2


def test_private_is_not_pushed_to_a_public_repository(save: Any, online: Hub) -> None:
    folder = save(base_model="owner/base")
    push_to_hub("me/adapter", folder, token=TOKEN)
    with pytest.raises(ValueError, match="expected a private repository, me/adapter is public"):
        push_to_hub("me/adapter", folder, token=TOKEN, private=True)
    push_to_hub("me/other", folder, token=TOKEN, private=True)
    assert online.private["me/other"]


def test_a_rejected_token_is_one_line(save: Any, online: Hub) -> None:
    folder = save(base_model="owner/base")
    with pytest.raises(
        PermissionError, match=r"could not push to me/adapter .*did not accept the token \(401\)"
    ) as caught:
        push_to_hub("me/adapter", folder, token="hf_wrong")
    assert "\n" not in str(caught.value)
    assert online.repos == {}
    with pytest.raises(PermissionError, match=r"could not load me/adapter .*401"):
        hub.load_adapter("me/adapter", token="hf_wrong")
    with pytest.raises(FileNotFoundError, match=r"could not load me/adapter .*404"):
        hub.load_adapter("me/adapter", token=TOKEN)


@pytest.mark.parametrize("where", ["POST /api/repos/create", "preupload", "objects/batch", "PUT /lfs", "/commit/"])
def test_a_dropped_connection_leaves_no_half_push(where: str, save: Any, online: Hub) -> None:
    folder = save(base_model="owner/base")
    online.drop = where
    with pytest.raises(
        ConnectionError, match="could not push to me/adapter .*the connection broke.*try again"
    ) as caught:
        push_to_hub("me/adapter", folder, token=TOKEN)
    assert "\n" not in str(caught.value)
    assert online.repos.get("me/adapter", [{}]) == [{}]
    online.drop = None
    push_to_hub("me/adapter", folder, token=TOKEN)
    assert "adapter_config.json" in online.files("me/adapter")


@pytest.mark.parametrize("where", ["GET /api/models", "resolve/.*/adapter_model"])
def test_a_dropped_connection_while_loading(where: str, trained: Any, save: Any, base: Path, online: Hub) -> None:
    push_to_hub("me/adapter", save(base_model="owner/base"), token=TOKEN)
    online.drop = where
    with pytest.raises(ConnectionError, match="could not load me/adapter .*the connection broke") as caught:
        hub.load_adapter("me/adapter", base_model=base, token=TOKEN)
    assert "\n" not in str(caught.value)
    online.drop = None
    model, _, _ = hub.load_adapter("me/adapter", base_model=base, token=TOKEN)
    assert (logits(model, trained.batch) - logits(trained.model, trained.batch)).abs().max() < 1e-4
