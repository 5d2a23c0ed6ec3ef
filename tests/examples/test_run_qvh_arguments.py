"""Whatever is wrong with the arguments of the example script is one line, before a video is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def refused(
    qvh: ModuleType,
    qvh_run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., str]:
    """(arguments) -> the one line with which the script ends, before it reads a video."""

    def read_videos(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("videos were read")

    monkeypatch.setattr(qvh, "load_rows", read_videos)

    def call(*more: str) -> str:
        with pytest.raises(SystemExit) as ended:
            qvh_run(tmp_path / "out", *more)
        printed = capsys.readouterr().err.splitlines()
        lines = [ended.value.code] if isinstance(ended.value.code, str) else printed
        assert len(lines) == 1, lines
        assert "\n" not in lines[0]
        assert lines[0].startswith("run_qvh.py: error: ")
        return lines[0].removeprefix("run_qvh.py: error: ")

    return call


WRONG = [
    ("--num_figures=-5", "num_figures of at least 0, got -5"),
    ("--num_figures=few", "argument --num_figures"),
    ("--learning_rate=nan", "learning_rate to be a number of at least 0, got nan"),
    ("--learning_rate=-1e-5", "learning_rate to be a number of at least 0"),
    ("--learning_rate=inf", "learning_rate to be a number of at least 0, got inf"),
    ("--weight_decay=nan", "weight_decay"),
    ("--max_grad_norm=nan", "max_grad_norm"),
    ("--warmup_steps=nan", "warmup_steps"),
    ("--num_train_epochs=nan", "num_train_epochs"),
    ("--adam_beta1=1.5", "adam_beta1 to be a number from 0 to 1"),
    ("--max_steps=0", "max_steps of at least 1, or -1"),
    ("--per_device_train_batch_size=0", "per_device_train_batch_size to be a number of at least 1"),
    ("--per_device_eval_batch_size=-1", "per_device_eval_batch_size"),
    ("--gradient_accumulation_steps=0", "gradient_accumulation_steps"),
    ("--generation_num_beams=0", "generation_num_beams"),
    ("--logging_steps=nan", "logging_steps"),
    ("--save_steps=0", "save_steps"),
    ("--seed=-1", "seed"),
    ("--loss_warmup_steps=nan", "loss_warmup_steps"),
    ('--loss_weights={"lm": NaN}', "loss_weights"),
    ('--loss_weights={"lm"', ""),
    ("--loss_weights=[1]", "loss_weights"),
    ("--loss_options=3", "loss_options"),
    ("--label_rule=windows", "unknown label rule 'windows'"),
    ("--label_rule=saliency>2", "threshold below 1"),
    ("--decoder=run", "expected decoder to be one of"),
    ("--prompt=papper", "papper"),
    ("--prefix_corruption=nan", "prefix_corruption between 0 and 1"),
    ("--num_frames=0", "num_frames"),
    ("--frame_size=0", "frame_size"),
    ("--frame_format=png", "frame_format"),
    ("--grid_kind=start", "got 'start'"),
    ("--grid_phase=nan", "phase"),
    ("--on_error=ignore", "on_error"),
    ("--eval_split=vall", "eval_split to be val or test"),
    ("--num_proc=0", "num_proc"),
    ("--data_dir=nowhere", "nowhere"),
    ("--video_dir=nowhere", "nowhere"),
    ("--model_name_or_path=nowhere", "nowhere"),
    ("--attn_implementation=flashy", "flashy"),
    ("--lora_r=-1", "lora_r of at least 0"),
    ("--lora_dropout=1", "lora_dropout"),
    ("--lora_alpha=0", "lora_alpha"),
    ("--lora_init=pizza", "lora_init to be true, gaussian"),
    ("--lora_r=2 --lora_modules_to_save=resampeler", "no module 'resampeler'"),
    ("--optim=adamx", "adamx"),
    ("--lr_scheduler_type=cosin", "cosin"),
    ("--save_strategy=often", "often"),
    ("--metric_for_best_model=mAp", "metric_for_best_model to be one of"),
    ("--load_best_model_at_end=true", ""),
    ("--resume_from_checkpoint=nowhere", "nowhere is no checkpoint to go on from: there is no such folder"),
    ("--learning_rat=1", "unknown argument(s): --learning_rat=1"),
    ("--use_cpu=maybe", "argument --use_cpu"),
    ("--do_predict=true", "--do_predict is not used here"),
    ("--do_train=false --do_eval=false", "leave nothing to do"),
    ("--do_train=false --resume_from_checkpoint=true", "no whole checkpoint to score"),
    ("--predict_with_generate=false", "scores need decoded masks"),
    ("--prediction_loss_only=true", "scores need decoded masks"),
    ("--eval_do_concat_batches=false", "eval_do_concat_batches"),
    ("--fsdp=full_shard", "FSDP does not run with --use_cpu"),
    ("--fsdp", "FSDP does not run with --use_cpu"),
    ("--report_to=nobody", "nobody is not supported"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[words for words, _ in WRONG])
def test_a_wrong_argument_is_one_line_before_videos_are_read(
    refused: Callable[..., str], words: str, message: str
) -> None:
    assert message in refused(*words.split(" --", 1)[:1], *(f"--{more}" for more in words.split(" --")[1:]))


RECIPES = [
    ("", "to hold names and values, such as `lora_r: 16`, got nothing"),
    ("# nothing but a comment\n", "got nothing"),
    ("- lora_r\n- 16\n", "got a list"),
    ("lora_r", "got a str"),
    ("lora_r: [", "is not a YAML file that can be read"),
    ("lora_r: !!python/object:os.system x", "is not a YAML file that can be read"),
    ("lora_r: four\n", "invalid int value: 'four'"),
    ("weight_decay: .nan\n", "weight_decay to be a number of at least 0, got nan"),
    ("learning_rate: {a: 1}\n", "argument --learning_rate"),
    ("learning_rate: [1, 2]\n", "sets learning_rate to a list; expected one value"),
    ("max_steps:\n", "sets max_steps to nothing"),
    ("1: 2\n", "sets unknown argument(s): 1"),
    ("recipe: paper\n", "sets unknown argument(s): recipe"),
    ("lora_r: 2\nlora_modules_to_save: resampeler\n", "no module 'resampeler'"),
]


@pytest.mark.parametrize(("text", "message"), RECIPES)
def test_a_wrong_recipe_is_one_line(refused: Callable[..., str], tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    assert message in refused(f"--recipe={tmp_path / 'recipe.yaml'}")


def test_a_recipe_that_is_no_text_is_one_line(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(b"lora_r: \xff\xfe")
    assert "is not a YAML file that can be read" in refused(f"--recipe={tmp_path / 'recipe.yaml'}")
    (tmp_path / "folder.yaml").mkdir()
    assert "no recipe" in refused(f"--recipe={tmp_path / 'folder.yaml'}")


def test_a_recipe_stands_below_the_command_line(qvh: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "lora_modules_to_save: resampler\nlora_r: 4\nbf16: false\nlearning_rate: 2e-5\n"
    )
    words = [f"--recipe={tmp_path / 'mine.yaml'}", "--data_dir=data", "--output_dir=out", "--use_cpu=true"]
    model, _, _, training = qvh.parse(words)
    assert (model.lora_modules_to_save, model.lora_r, training.bf16) == (["resampler"], 4, False)
    assert training.learning_rate == 2e-5
    assert (training.do_train, training.do_eval) == (True, True)
    model, *_ = qvh.parse([*words, "--lora_r=8", "--lora_modules_to_save", "a", "b"])
    assert (model.lora_r, model.lora_modules_to_save) == (8, ["a", "b"])


def test_an_output_folder_that_cannot_take_the_model_is_one_line(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "out" / "model").mkdir(parents=True)
    (tmp_path / "out" / "model" / "thesis.tex").write_text("mine")
    assert "holds something that is no model of this package" in refused()
    (tmp_path / "file").write_text("")
    assert "file" in refused(f"--output_dir={tmp_path / 'file'}")
    assert "file" in refused(f"--output_dir={tmp_path / 'file' / 'below'}")


def test_val_without_annotations_is_found_before_the_videos_of_train_are_read(
    refused: Callable[..., str], qvh_data: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(qvh_data, tmp_path / "data")
    lines = (folder / "highlight_val_release.jsonl").read_text().splitlines()
    vid = json.loads(lines[0])["vid"]
    (folder / "videos" / f"{vid}.mp4").unlink()
    assert f"no video {vid}" in refused(f"--data_dir={folder}", f"--cache_dir={tmp_path / 'cache'}")
    (folder / "highlight_val_release.jsonl").unlink()
    assert "highlight_val_release.jsonl" in refused(f"--data_dir={folder}", f"--cache_dir={tmp_path / 'cache'}")


def test_queries_that_cannot_be_shuffled_are_found_before_the_training(
    qvh_run: Run, qvh: ModuleType, qvh_data: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(qvh_data, tmp_path / "data")
    path = folder / "highlight_val_release.jsonl"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(SystemExit, match="run_qvh.py: error: .*"):
        qvh_run(tmp_path / "out", f"--data_dir={folder}", f"--cache_dir={tmp_path / 'cache'}", "--controls=true")
    assert not (tmp_path / "out" / "checkpoint-1").exists()


def test_nothing_to_learn_from_is_one_line(
    qvh: ModuleType, qvh_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = qvh.load_rows

    def without_pictures(dataset: Any, folder: Any, split: str, **options: Any) -> Any:
        return load(dataset, folder, split, **options).map(lambda row: {"frames_missing": split == "train"})

    monkeypatch.setattr(qvh, "load_rows", without_pictures)
    with pytest.raises(SystemExit, match="there is nothing to learn from: no training video of"):
        qvh_run(tmp_path / "out", "--on_error=blank")


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP"])
def test_a_launch_with_fsdp_on_cpu_is_refused(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    # as accelerate launch --use_fsdp sets it
    monkeypatch.setattr("hf_frameseg.training.checks.os", SimpleNamespace(environ={variable: "true"}))
    assert "FSDP does not run with --use_cpu" in refused()


def test_a_tracker_that_is_not_installed_is_one_line(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_frameseg.training.checks.get_available_reporting_integrations", lambda: ["tensorboard"])
    assert refused("--report_to=wandb").startswith("--report_to wandb needs a package that is not installed")


def test_other_processes_end_in_silence(qvh_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_frameseg.training.terminal.os", SimpleNamespace(environ={"RANK": "1"}))
    with pytest.raises(SystemExit) as ended:
        qvh_run(tmp_path / "out", "--num_figures=-5")
    assert ended.value.code == 1
