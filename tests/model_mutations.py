"""Damage to model folders, drawn by a seed, and what a command does with it: measured in a process of its own."""

from __future__ import annotations

import json
import os
import pickle
import random
import resource
import select
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VALUES = [
    *(
        None,
        True,
        [],
        {},
        "",
        "x",
        -1,
        0,
        1,
        3,
        2**31,
        10**9,
        10**12,
        10**30,
        0.5,
        -0.5,
        1e308,
        float("nan"),
        float("inf"),
    ),
    *(
        [1, 2, 3],
        [[[]]],
        {"a": {"b": []}},
        "../../etc/passwd",
        "/etc/passwd",
        "os.system",
        "a/b",
        "(a+)+$",
        "x" * 10_000,
    ),
    *("float64", "sdpa", "eager", "__class__", [None] * 1000, {"type": "x"}, "\x1b[2J\n", "\ud800"),
]
KEYS = {
    "auto_map": {"AutoConfig": "evil.Config", "AutoModelForImageTextToText": "evil.Model", "AutoProcessor": "evil.P"},
    "attn_implementation": "owner/kernel",
    "_attn_implementation": "owner/kernel:run",
    "custom_generate": "evil",
    "use_kernels": True,
    "transformers_weights": "../evil.bin",
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "audio_tokenizer": {"audio_tokenizer_class": "evil.A", "audio_tokenizer_name_or_path": "evil"},
    "tokenizer_file": "/etc/passwd",
    "vocab_file": "/etc/passwd",
    "tokenizer_class": "evil.Tokenizer",
    "processor_class": "evil.Processor",
    "image_processor_type": "evil.Processor",
    "auto_mapping": {"parent_library": "evil", "base_model_class": "Model"},
    "megatron_config": {"a": 1},
    "megatron_core": "evil",
    "layer_replication": [[0, 100_000]],
    "loftq_config": {"loftq_bits": 4},
    "runtime_config": {"ephemeral_gpu_offload": True},
    "task_type": "SEQ_CLS",
    "dtype": "load",
    "fusion_config": {"patch_embeddings": True},
    "padding": {"strategy": {"Fixed": 10**12}, "direction": "Left", "pad_id": 1, "pad_type_id": 0, "pad_token": "x"},
    "num_hidden_layers": 10**7,
    "vocab_size": 10**9,
    "model_type": "llava",
}
PATTERNS = [
    r"(",
    r"(.*)+$",
    r"((a|[a-z_.0-9])*)*X",
    r"(.*a){40}",
    "",
    r"[",
    r"(?P<x>",
    r".*",
    r"\1",
    r"(([a-z_0-9]+)\.?)+!",
]
TEMPLATES = [
    "",
    "{{ raise_exception('no') }}",
    "{% for i in range(10**9) %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 'a' * 10**11 }}",
    "{{ ('a' * 10**6) * 10**6 }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ cycler.__init__.__globals__.os.system('touch MARK') }}",
    "{% include '/etc/passwd' %}",
    "{% if %}",
    "{{ nothing.at.all }}",
    "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "{{ messages | map('upper') | list }}",
    "{{ '<image>' }}",
    "\x00\xff",
    "{{ messages" + "[0]" * 20_000 + " }}",
    "{{ " + "(" * 5_000 + ")" * 5_000 + " }}",
]


@dataclass
class Outcome:
    """What a command did with one mutation."""

    kind: str
    what: str
    status: int | None  # exit status; None for one that was killed after the time
    stderr: str
    seconds: float  # of the processor: how long it takes otherwise is up to what else the machine does
    max_rss: int  # bytes, of the process and those it waited for

    def problem(self, max_seconds: float = 60, max_rss: int = 4 * 2**30) -> str | None:
        """Return what is wrong with it, if anything."""
        lines = self.stderr.splitlines()
        if self.status is None:
            return "did not end"
        if self.max_rss > max_rss:
            return f"took {self.max_rss / 2**30:.1f} GB"
        if self.seconds > max_seconds:
            return f"took {self.seconds:.0f} s"
        if self.status == 0:
            return None if not lines else f"answered, and said {lines}"
        if self.status != 2 or len(lines) != 1 or not lines[0].startswith("frameseg: error: "):
            return f"status {self.status}: {self.stderr[-1500:]}"
        return None


class Pickle:
    """Make a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.mark}",))


def mutate(folder: Path, draw: random.Random, mark: Path) -> tuple[str, str]:
    """Damage a folder in one way.

    Args:
        folder: A model or an adapter; changed.
        draw: Where the choice comes from.
        mark: File that code in the folder makes if it is ever run.

    Returns:
        The kind of the damage, and the damage.
    """
    for name in ("evil.py", "modeling_evil.py", "configuration_evil.py", "custom_generate/generate.py"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"import os\nos.system('touch {mark}')\nclass Config: pass\nModel = P = Processor = Config\n")
    kinds: list[tuple[int, Callable[..., str]]] = [
        (8, _json_value), (2, _json_key), (3, _json_added), (2, _json_file), (2, _template), (4, _weights), (2, _file)
    ]  # fmt: skip
    if (folder / "adapter_config.json").is_file():
        kinds.append((3, _pattern))
    kind = draw.choices([function for _, function in kinds], [weight for weight, _ in kinds])[0]
    return kind.__name__.strip("_"), kind(folder, draw, mark)


def _jsons(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


def _paths(value: Any, path: tuple = ()) -> list[tuple]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, part in value.items():
            if key not in ("vocab", "merges") or len(part) < 5:
                found += _paths(part, (*path, key))
    elif isinstance(value, list):
        for index, part in enumerate(value[:3]):
            found += _paths(part, (*path, index))
    return found


def _at(value: Any, path: tuple) -> Any:
    for key in path:
        value = value[key]
    return value


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def _json_value(folder: Path, draw: random.Random, mark: Path) -> str:
    path = draw.choice(_jsons(folder))
    content = json.loads(path.read_text())
    where = draw.choice(_paths(content))
    old = _at(content, where)
    new = draw.choice(VALUES)
    if isinstance(old, int) and not isinstance(old, bool) and draw.random() < 0.5:
        new = draw.choice([-old, 0, old + 1, old * 10, old * 10**6, float(old), str(old), [old]])
    _at(content, where[:-1])[where[-1]] = new
    _write(path, content)
    return f"{path.name}: {'.'.join(map(str, where))} = {str(new)[:60]!r}"


def _json_key(folder: Path, draw: random.Random, mark: Path) -> str:
    path = draw.choice(_jsons(folder))
    content = json.loads(path.read_text())
    where = draw.choice(_paths(content))
    del _at(content, where[:-1])[where[-1]]
    _write(path, content)
    return f"{path.name}: without {'.'.join(map(str, where))}"


def _json_added(folder: Path, draw: random.Random, mark: Path) -> str:
    path = draw.choice(_jsons(folder))
    content = json.loads(path.read_text())
    key = draw.choice(sorted(KEYS))
    inside = draw.choice([(), *(where for where in _paths(content) if isinstance(_at(content, where), dict))])
    _at(content, inside)[key] = KEYS[key]
    _write(path, content)
    return f"{path.name}: {'.'.join(map(str, inside))} with {key}"


def _json_file(folder: Path, draw: random.Random, mark: Path) -> str:
    path = draw.choice(_jsons(folder))
    text = path.read_bytes()
    choices = {
        "empty": b"",
        "list": b"[]",
        "null": b"null",
        "text": b'"x"',
        "number": b"7",
        "cut": text[: draw.randrange(1, len(text))],
        "deep list": b"[" * 200_000,
        "deep object": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        "no UTF-8": b"\xff\xfe" + text,
        "NUL": text.replace(b'"', b"\0", 1),
        "long number": b'{"model_type": ' + b"9" * 100_000 + b"}",
        "twice": text + text,
        "other": draw.choice(_jsons(folder)).read_bytes(),
    }
    name = draw.choice(sorted(choices))
    path.write_bytes(choices[name])
    return f"{path.name}: {name}"


def _template(folder: Path, draw: random.Random, mark: Path) -> str:
    text = draw.choice(TEMPLATES).replace("MARK", str(mark))
    if draw.random() < 0.3:
        (folder / "chat_template.jinja").unlink()
        _write(folder / "chat_template.json", {"chat_template": text})
    else:
        (folder / "chat_template.jinja").write_text(text)
    return text[:60]


def _pattern(folder: Path, draw: random.Random, mark: Path) -> str:
    path = folder / "adapter_config.json"
    content = json.loads(path.read_text())
    pattern = draw.choice(PATTERNS)
    field = draw.choice(
        ["target_modules", "rank_pattern", "alpha_pattern", "exclude_modules", "layers_pattern", "modules_to_save"]
    )
    whole = {"target_modules": pattern, "exclude_modules": pattern, "modules_to_save": [pattern]}
    content[field] = whole.get(
        field, [pattern] if field == "layers_pattern" else {pattern: draw.choice([2, -1, 10**9, "x"])}
    )
    if field == "layers_pattern":
        content["layers_to_transform"] = [0]
    _write(path, content)
    return f"{field}: {pattern}"


def _weights(folder: Path, draw: random.Random, mark: Path) -> str:
    import torch
    from safetensors.torch import load_file, save_file

    path = next(folder.glob("*model.safetensors"))
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    name = draw.choice(
        [
            "cut",
            "empty",
            "garbage",
            "length",
            "head",
            "drop",
            "half",
            "extra",
            "shape",
            "dtype",
            "nan",
            "none",
            "index",
            "pickle",
        ]
    )  # noqa: E501
    if name == "cut":
        data = data[: draw.randrange(len(data))]
    elif name == "empty":
        data = bytearray()
    elif name == "garbage":
        data = bytearray(draw.randbytes(len(data)))
    elif name == "length":
        data[:8] = draw.choice([0, 1, length + 1, 2**32, 2**63, 2**64 - 1]).to_bytes(8, "little")
    elif name == "head":
        for _ in range(3):
            data[8 + draw.randrange(length)] = draw.randrange(256)
    if name in ("cut", "empty", "garbage", "length", "head"):
        path.write_bytes(data)
        return name
    if name == "pickle":
        path.unlink()
        for other in ("pytorch_model.bin", "adapter_model.bin"):
            (folder / other).write_bytes(pickle.dumps(Pickle(mark)))
        return name
    if name == "index":
        where = draw.choice(["/etc/passwd", "../model.safetensors", "absent.safetensors", ".", "", 3, None])
        path.unlink()
        _write(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": {"a": where}})
        return f"index to {where}"
    state = load_file(path)
    names = sorted(state)
    chosen = draw.choice(names)
    if name == "drop":
        del state[chosen]
    elif name == "half":
        state = {key: state[key] for key in names[::2]}
    elif name == "none":
        state = {}
    elif name == "extra":
        state["what.is.this"] = torch.zeros(3)
    elif name == "shape":
        state[chosen] = draw.choice(
            [state[chosen].flatten(), torch.zeros(1), torch.zeros(0), torch.zeros(2, 3, 4)]
        ).clone()
    elif name == "dtype":
        state[chosen] = state[chosen].to(draw.choice([torch.int8, torch.float64, torch.bool, torch.float16]))
    elif name == "nan":
        state[chosen] = torch.full_like(state[chosen], float("nan"))
    save_file(state, path, metadata={"format": "pt"})
    return f"{name} {chosen}"


def _file(folder: Path, draw: random.Random, mark: Path) -> str:
    path = draw.choice(sorted(path for path in folder.iterdir() if path.is_file() and path.suffix != ".py"))
    name = draw.choice(["gone", "folder", "pipe", "loop", "zero", "dangling", "unreadable link", "large"])
    path.unlink()
    if name == "folder":
        path.mkdir()
    elif name == "pipe":
        os.mkfifo(path)
    elif name == "loop":
        path.symlink_to(path.name)
    elif name == "zero":
        path.symlink_to("/dev/zero")
    elif name == "dangling":
        path.symlink_to("/nowhere/at/all")
    elif name == "unreadable link":
        path.symlink_to("/proc/1/mem")
    elif name == "large":
        with path.open("wb") as file:
            file.truncate(20 * 2**30)  # without a block on the disk
    return f"{path.name}: {name}"


def run_apart(
    action: Callable[[], int], folder: Path, limit_seconds: float = 900
) -> tuple[int | None, str, float, int]:
    """Run a command in a copy of this process that answers "y" to every question.

    Returns:
        Exit status or None, standard error, seconds of the processor, and the most memory in bytes.
    """
    error_file, answers = folder / "stderr", folder / "answers"
    answers.write_text("y\n" * 1000)
    alive_reader, alive_writer = os.pipe()  # closed when the copy is gone
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            os.close(alive_reader)
            os.dup2(os.open(answers, os.O_RDONLY), 0)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(os.open(error_file, os.O_WRONLY | os.O_CREAT), 2)
            import sys

            import torch

            torch.set_num_threads(1)
            sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, mode) for n, mode in ((0, "r"), (1, "w"), (2, "w")))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            try:
                status = action()
            except BaseException:
                import traceback

                traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    os.close(alive_writer)
    ready, _, _ = select.select([alive_reader], [], [], limit_seconds)
    if not ready:
        os.kill(pid, signal.SIGKILL)
    os.close(alive_reader)
    _, status, usage = os.wait4(pid, 0)
    text = error_file.read_text(errors="replace") if error_file.exists() else ""
    code = None if not ready else os.waitstatus_to_exitcode(status)
    return code, text, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def outcomes(
    sources: list[Path], seeds: range, action: Callable[[Path], int], scratch: Path, mark: Path
) -> list[Outcome]:
    """Damage a copy of each source in turn, a seed each, and return what a command does with it."""
    found = []
    for seed in seeds:
        draw = random.Random(seed)
        folder = scratch / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(sources[seed % len(sources)], folder)
        kind, what = mutate(folder, draw, mark)
        result = run_apart(lambda folder=folder: action(folder), scratch)
        found.append(Outcome(kind, f"seed {seed}, {sources[seed % len(sources)].name}, {what}", *result))
        for name in ("stderr", "answers"):
            (scratch / name).unlink(missing_ok=True)
    return found
