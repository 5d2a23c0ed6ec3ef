"""Models of others: nothing of theirs is run, and what is wrong with them is one line, in bounded time and memory."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from hf_frameseg import inference
from hf_frameseg.cli import main
from hf_frameseg.moments import FrameGrid
from hf_frameseg.sharing import adapter_folder as hub
from hf_frameseg.sharing import loading
from hf_frameseg.sharing.config import FrameSegmentationConfig
from hf_frameseg.sharing.loading import UnusableModelError, load_base, load_pretrained, load_processor
from hf_frameseg.sharing.trial import try_out
from hf_frameseg.video.settings import FrameSettings

sys.path.insert(0, str(Path(__file__).parents[1]))  # with importlib mode a test cannot import its neighbour otherwise
from model_mutations import Pickle, outcomes, run_apart  # noqa: E402

CONFIG = FrameSegmentationConfig(FrameSettings(num_frames=3, frame_size=16), prompt="compact")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any, tiny_processor: Any) -> Path:
    """Folder of the tiny base, as a whole model."""
    folder = tmp_path_factory.mktemp("base") / "model"
    tiny_model.save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    CONFIG.save(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path, tiny_processor: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an adapter for it."""
    model = get_peft_model(
        load_base(base), LoraConfig(r=2, target_modules=["o_proj", "qkv_proj"], task_type="CAUSAL_LM")
    )
    return hub.save_adapter(model, tiny_processor, CONFIG, tmp_path_factory.mktemp("adapter") / "adapter")


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[Path], Path]:
    def build(source: Path) -> Path:
        return Path(shutil.copytree(source, tmp_path / "copy"))

    return build


def change(folder: Path, name: str, **values: Any) -> None:
    """Set fields of a JSON file."""
    path = folder / name
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | values))


def refused(folder: Path, match: str) -> None:
    """Check that a folder is refused in one line, for the reason."""
    with pytest.raises(UnusableModelError, match=match) as caught:
        load_pretrained(folder)
    text = str(caught.value)
    assert text.startswith(f"{folder} is not a usable model: ")
    assert "\n" not in text
    assert len(text) < 700


@pytest.fixture
def predict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Path], int]:
    """Run `frameseg predict` on frames that need no video file."""
    frames = torch.randint(256, (3, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    grid = FrameGrid.middle(6.0, 3)
    value = SimpleNamespace(frames=frames, times_seconds=grid.times, grid=grid)
    monkeypatch.setattr(inference, "read_frames", lambda *args, **kwargs: value)
    monkeypatch.setattr("hf_frameseg.video.read.probe_duration", lambda *args, **kwargs: 6.0)
    (tmp_path / "video.mp4").write_bytes(b"")
    return lambda folder: main(["predict", str(tmp_path / "video.mp4"), "a dog", "--model", str(folder)])


# ---- No code of others -----------------------------------------------------------------------------------------------


def plant(folder: Path, mark: Path) -> None:
    """Put Python files into a folder that leave a mark when they are run."""
    code = f"import os\nos.system('touch {mark}')\nfrom transformers import PreTrainedConfig\n"
    code += "class Config(PreTrainedConfig):\n    model_type = 'evil'\nModel = Processor = Tokenizer = Config\n"
    (folder / "evil.py").write_text(code)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(f"import os\nos.system('touch {mark}')\n")


AUTO_MAP = {
    "AutoConfig": "evil.Config",
    "AutoModelForImageTextToText": "evil.Model",
    "AutoProcessor": "evil.Processor",
    "AutoImageProcessor": "evil.Processor",
    "AutoTokenizer": [None, "evil.Tokenizer"],
}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("config.json", {"model_type": "evil"}),
        ("config.json", {}),
        ("processor_config.json", {"processor_class": "Nothing"}),
        ("tokenizer_config.json", {"tokenizer_class": "Nothing"}),
        ("preprocessor_config.json", {"image_processor_type": "Nothing"}),
        ("generation_config.json", {"custom_generate": "evil"}),
    ],
)
def test_the_code_of_a_folder_is_not_run_whatever_stands_on_standard_input(
    name: str, values: dict, base: Path, copy: Callable[[Path], Path], predict: Callable[[Path], int], tmp_path: Path
) -> None:
    folder, mark = copy(base), tmp_path / "mark"
    plant(folder, mark)
    if name == "preprocessor_config.json":
        (folder / "processor_config.json").unlink()
    change(folder, name, auto_map=AUTO_MAP, **values)
    status, text, _, _ = run_apart(lambda: predict(folder), tmp_path)
    assert not mark.exists()
    assert (status, text) == (0, "") or (status == 2 and text.count("\n") == 1), text
    if values.get("model_type") == "evil":
        assert "needs Python code of its own, which is never run here: take a model that transformers knows" in text


def test_remote_code_of_the_reference_layout_is_not_run(
    base: Path, copy: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder, mark = copy(base), tmp_path / "mark"
    plant(folder, mark)
    (folder / "processor_config.json").unlink()  # then the processor is made of the tokenizer's files
    change(folder, "tokenizer_config.json", auto_map=AUTO_MAP, tokenizer_class="Nothing")
    status, _, _, _ = run_apart(lambda: load_processor(folder) and 0, tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("config.json", {"attn_implementation": "owner/kernel"}, "names code to be fetched"),
        ("config.json", {"text_config": {"_attn_implementation": "owner/kernel:run"}}, "names code to be fetched"),
        ("config.json", {"attn_implementation": {"": "sdpa", "text_config": "owner/k"}}, "names code to be fetched"),
        ("config.json", {"transformers_weights": "../pytorch_model.bin"}, "points out of the folder"),
        ("tokenizer_config.json", {"tokenizer_file": "/etc/passwd"}, "points out of the folder"),
        ("tokenizer_config.json", {"fast_tokenizer_files": ["../tokenizer.9.0.json"]}, "points out of the folder"),
        ("processor_config.json", {"audio_tokenizer": {"audio_tokenizer_class": "X"}}, "audio_tokenizer"),
        ("generation_config.json", {"custom_generate": "owner/x"}, "custom_generate"),
    ],
)
def test_keys_that_lead_elsewhere_are_refused(
    name: str, values: dict, reason: str, base: Path, copy: Callable[[Path], Path]
) -> None:
    folder = copy(base)
    change(folder, name, **values)
    refused(folder, reason)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_not_opened(name: str, base: Path, copy: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = copy(base)
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Pickle(tmp_path / "mark")))
    refused(folder, f"no model.safetensors, but {name}: only safetensors are read")
    assert not (tmp_path / "mark").exists()


def test_pickles_of_an_adapter_are_not_opened(adapter: Path, copy: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = copy(adapter)
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Pickle(tmp_path / "mark")))
    refused(folder, "no adapter_model.safetensors, but adapter_model.bin: only safetensors are read")
    assert not (tmp_path / "mark").exists()


def test_trust_cannot_be_passed(base: Path) -> None:
    with pytest.raises(ValueError, match="trust_remote_code .*never run here"):
        load_base(base, trust_remote_code=True)


# ---- Every tensor accounted for --------------------------------------------------------------------------------------


def without_half(state: dict) -> dict:
    return {name: state[name] for name in sorted(state)[::2]}


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda state: {}, "8 tensors are missing"),
        (lambda state: {"x": torch.zeros(2)}, "8 tensors are missing.*1 tensors are without a place .first x"),
        (without_half, "4 tensors are missing .first base_model"),
        (lambda state: state | {"base_model.model.lm_head.lora_A.weight": torch.zeros(2, 16)}, "1 tensors are without"),
        (
            lambda state: {name: value[..., :1].clone() for name, value in state.items()},
            "8 tensors are of another shape",
        ),
    ],
    ids=["none", "foreign", "half", "more", "shape"],
)
def test_an_adapter_that_is_not_whole_is_refused(
    edit: Callable[[dict], dict], reason: str, adapter: Path, copy: Callable[[Path], Path]
) -> None:
    folder = copy(adapter)
    path = folder / "adapter_model.safetensors"
    save_file({name: value.contiguous() for name, value in edit(load_file(path)).items()}, path)
    refused(folder, reason)


def test_modules_to_save_need_their_weights(adapter: Path, copy: Callable[[Path], Path]) -> None:
    folder = copy(adapter)
    change(folder, "adapter_config.json", modules_to_save=["resampler"])
    refused(folder, r"tensors are missing \(first base_model.model.model.resampler")


@pytest.mark.parametrize("maker", ["xgenmm", "llava"])
def test_a_whole_model_must_have_its_weights_and_no_others(
    maker: str, base: Path, copy: Callable[[Path], Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = base
    if maker == "llava":
        source = tmp_path / "llava"
        request.getfixturevalue("tiny_llava_model").save_pretrained(source)
        request.getfixturevalue("make_llava_processor")().save_pretrained(source)
        CONFIG.save(source)
    folder = copy(source)
    path = folder / "model.safetensors"
    state = load_file(path)
    name = next(name for name in state if name.endswith("embed_tokens.weight"))
    save_file({key: value for key, value in state.items() if key != name}, path, metadata={"format": "pt"})
    refused(folder, "embed_tokens.weight")
    save_file(state | {"nobody.asked": torch.zeros(3)}, path, metadata={"format": "pt"})
    refused(folder, "nobody.asked")
    save_file(state | {name: state[name][:7].clone()}, path, metadata={"format": "pt"})
    refused(folder, r"embed_tokens.weight has the shape .7, 16. in the weights|of another shape .*embed_tokens.weight")


# ---- Broken and hostile files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("config.json", {"text_config": {"num_hidden_layers": 10**7}}, "config.json asks for|memory|processor busy"),
        ("config.json", {"text_config": {"vocab_size": 10**9, "image_token_id": 5}}, "has the shape"),
        ("config.json", {"text_config": []}, "."),
        ("config.json", {"vision_config": {"hidden_size": -3}}, "."),
        ("config.json", {"model_type": "bert"}, "."),
        ("config.json", {"model_type": ["xgenmm"]}, "."),
        ("processor_config.json", {"num_image_tokens": 10**10}, "memory"),
        ("processor_config.json", {"image_processor": {"size": {"height": 10**6, "width": 10**6}}}, "."),
        ("processor_config.json", {"image_processor": 3}, "."),
        ("tokenizer_config.json", {"added_tokens_decoder": 3}, "."),
        ("generation_config.json", {"eos_token_id": {"a": 1}, "num_beams": [3]}, "."),
        ("frameseg_config.json", {"frames": {"num_frames": "many"}}, "num_frames"),
        ("frameseg_config.json", {"frames": {"grid_kind": "x" * 10_000}}, "grid_kind to be one of"),
        ("frameseg_config.json", {"frames": {"grid_phase": 10**30}}, "grid_phase to be a number above"),
        ("frameseg_config.json", {"frames": {"frame_size": [10**9, 1]}}, "frame_size to be None"),
        ("frameseg_config.json", {"frames": {"short_side": [32]}}, "short_side to be None"),
        ("frameseg_config.json", {"frames": {"variant_offset_frames": {}}}, "variant_offset_frames to be a whole"),
        ("frameseg_config.json", {"frames": {"variant_offset_seconds": "1"}}, "variant_offset_seconds to be a number"),
        ("frameseg_config.json", {"frames": {"reader": "os:abort"}}, "frames to hold some of"),
        ("frameseg_config.json", {"frames": ["num_frames"]}, "frames to hold some of"),
    ],
)
def test_broken_configurations_are_one_line(
    name: str, values: dict, reason: str, base: Path, copy: Callable[[Path], Path], predict: Any, tmp_path: Path
) -> None:
    folder = copy(base)
    change(folder, name, **values)
    status, text, seconds, memory = run_apart(lambda: predict(folder), tmp_path)
    if (status, text) == (0, ""):
        return  # what it says does not matter for an answer
    assert status == 2
    assert text.count("\n") == 1
    assert text.startswith(f"frameseg: error: {folder} is not a usable model: ")
    assert pytest.approx(0, abs=4 * 2**30) == memory


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"target_modules": "((a|[a-z_.0-9])*)*X"}, "keeps a processor busy"),
        ({"target_modules": "("}, "error"),
        ({"rank_pattern": {"((a|[a-z_.0-9])*)*X": 3}}, "keeps a processor busy"),
        ({"rank_pattern": {"(": 3}}, "."),
        ({"rank_pattern": {"o_proj": 10**12}}, "of another shape"),
        ({"r": 10**12}, "of another shape"),
        ({"r": -1}, "."),
        ({"r": "8"}, "."),
        ({"peft_type": "IA3"}, "expected an adapter of peft_type 'LORA'"),
        ({"peft_type": ["LORA"]}, "expected an adapter of peft_type 'LORA'"),
        ({"megatron_config": {"a": 1}, "megatron_core": "evil"}, "sets megatron_config, which"),
        ({"layer_replication": [[0, 10**6]]}, "sets layer_replication, which"),
        ({"lora_alpha": float("inf")}, "finite"),
        ({"base_model_name_or_path": ["x"], "revision": 3}, "to be a text"),
        ({"unknown_option": {"a": 1}}, "sets unknown_option, which"),
    ],
)
def test_broken_adapters_are_one_line(
    values: dict, reason: str, adapter: Path, copy: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_frameseg.sharing.trial.CPU_SECONDS", 2)
    folder = copy(adapter)
    change(folder, "adapter_config.json", **values)
    refused(folder, reason)


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10**11 }}",
    ],
)
def test_templates_without_end_are_stopped(
    template: str, base: Path, copy: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_frameseg.sharing.trial.CPU_SECONDS", 2)
    folder = copy(base)
    (folder / "chat_template.jinja").write_text(template)
    refused(folder, "keeps a processor busy|more than 2 GB")


def test_templates_that_fail_are_one_line(
    base: Path, copy: Callable[[Path], Path], predict: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy(base)
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no\x1b[2J way') }}")
    assert predict(folder) == 2
    assert (
        capsys.readouterr().err == f"frameseg: error: {folder} is not a usable model: TemplateError: no\\x1b[2J way\n"
    )


def test_debug_keeps_the_traceback_of_a_trial(
    base: Path, copy: Callable[[Path], Path], predict: Any, tmp_path: Path
) -> None:
    folder = copy(base)
    change(folder, "config.json", vision_config={"hidden_size": -3})
    with pytest.raises(UnusableModelError) as caught:
        main(["predict", str(tmp_path / "video.mp4"), "a dog", "--model", str(folder), "--debug"])
    assert "in the trial:\nTraceback" in "".join(caught.value.__cause__.__notes__)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "large", "cut", "list", "deep"])
def test_files_that_are_none(kind: str, base: Path, copy: Callable[[Path], Path]) -> None:
    folder = copy(base)
    path = folder / "generation_config.json"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(2**40)
    else:
        path.write_text({"cut": '{"a"', "list": "[1]", "deep": "[" * 10**5}[kind])
    reasons = {
        "large": "has more than 64 MB",
        "cut": "is not valid JSON",
        "list": "got list",
        "deep": "nested too deeply",
    }
    refused(folder, reasons.get(kind, "generation_config.json is no file"))


@pytest.mark.parametrize("where", ["/etc/passwd", "../copy/model.safetensors", "config.json", 3, None])
def test_an_index_leads_nowhere_else(where: Any, base: Path, copy: Callable[[Path], Path]) -> None:
    folder = copy(base)
    (folder / "model.safetensors").unlink()
    change(folder, "model.safetensors.index.json", weight_map={"lm_head.weight": where})
    refused(folder, "points out of the folder")


def test_a_model_in_several_files_still_loads(base: Path, tiny_model: Any, tiny_processor: Any, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path / "split", max_shard_size="20KB")
    assert len(list((tmp_path / "split").glob("*.safetensors"))) > 1
    loaded = load_base(tmp_path / "split")
    assert all(torch.equal(value, tiny_model.state_dict()[name]) for name, value in loaded.state_dict().items())


# ---- Trials ----------------------------------------------------------------------------------------------------------


def test_no_thread_imports_what_another_tries_out(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of a process in the middle of an import waits for ever for the thread that does not come along."""
    free = []

    def tried(action: Callable[[], None]) -> None:
        with ThreadPoolExecutor(1) as pool:
            free.append(pool.submit(loading._ONE_AT_A_TIME.acquire, blocking=False).result())
        try_out(action)

    monkeypatch.setattr(loading, "try_out", tried)
    load_pretrained(adapter)
    assert free == [False, False, False]  # processor, base, adapter
    assert loading._ONE_AT_A_TIME.acquire(blocking=False)
    loading._ONE_AT_A_TIME.release()


def test_a_trial_leaves_nothing_behind_and_says_what_went_wrong() -> None:
    seen = []
    try_out(lambda: seen.append(1))
    assert seen == []
    with pytest.raises(ValueError, match="KeyError: 'x'"):
        try_out(lambda: {}["x"])
    with pytest.raises(ValueError, match="crashed on it .SIGABRT"):
        try_out(os.abort)
    with pytest.raises(ValueError, match="more than 2 GB of memory"):
        try_out(lambda: bytearray(3 * 2**30))


def test_a_crash_of_a_trial_writes_nothing() -> None:
    code = "import faulthandler, os\nfrom hf_frameseg.sharing.trial import try_out\n"
    code += "faulthandler.enable(); try_out(os.abort)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Fatal Python error" not in ended.stderr
    assert "crashed on it (SIGABRT)" in ended.stderr


def test_a_trial_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_frameseg.sharing.trial.CPU_SECONDS", 1)

    def spin() -> None:
        while True:
            pass

    with pytest.raises(ValueError, match="keeps a processor busy for more than 1 s"):
        try_out(spin)


# ---- Drawn damage ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_drawn_damage_is_one_line_or_an_answer(
    base: Path, adapter: Path, predict: Callable[[Path], int], tmp_path: Path
) -> None:
    count, first = int(os.environ.get("FRAMESEG_MUTATIONS", "60")), int(os.environ.get("FRAMESEG_FIRST_MUTATION", "0"))
    mark = tmp_path / "mark"
    (tmp_path / "scratch").mkdir()
    found = outcomes([base, adapter], range(first, first + count), predict, tmp_path / "scratch", mark)
    assert not mark.exists()
    table = Counter((outcome.kind, "answered" if outcome.status == 0 else "one line") for outcome in found)
    slowest, largest = max(o.seconds for o in found), max(o.max_rss for o in found)
    print(
        f"{len(found)} mutations, at most {slowest:.0f} s and {largest / 2**30:.1f} GB: {dict(sorted(table.items()))}"
    )
    problems = [f"{outcome.what}: {outcome.problem()}" for outcome in found if outcome.problem()]
    assert problems == []
