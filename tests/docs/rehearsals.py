"""How each page is rehearsed: what lies in its folder, what is made shorter, which commands are stood in for.

A page that is not here may hold no block that can run; a block of text that is not here must show a command
(`$ frameseg ...`), whose output is compared.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import re
import shlex
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pages import ROOT, Block, read_blocks
from stage import Stage

from hf_frameseg.annotations.qvhighlights import read_annotations
from hf_frameseg.metrics import validate_submission
from hf_frameseg.moments import FrameGrid
from hf_frameseg.predictions import FramePrediction
from hf_frameseg.prepared.report import Failure, failure_line
from hf_frameseg.proposals.frames_file import read_frames_file, write_frames_file


def _nothing(stage: Stage) -> None:
    """Need nothing."""


@dataclass(frozen=True)
class Rehearsal:
    """How the blocks of one page are run.

    Args:
        prepare: puts into the stage what the page takes as given.
        shorter: what is replaced in the blocks before they run; each must occur. Numbers become small, nothing is left
            out.
        given: Python that runs before the blocks, where a page says "your model".
        stand_ins: commands that `prepare` stands in for because they need a network or hardware; the section of a block
            that uses one must say "not run".
        shown: what blocks of text and JSON show, by their first line: a check, or None for a drawing.
        check: looks at what is left after the last block.
    """

    prepare: Callable[[Stage], None] = _nothing
    shorter: dict[str, str] = field(default_factory=dict)
    given: str = ""
    stand_ins: tuple[str, ...] = ()
    shown: dict[str, Callable[[Stage, Block], None] | None] = field(default_factory=dict)
    check: Callable[[Stage], None] = _nothing


STAND_INS = Path(__file__).parent
METRIC = ROOT / "tests" / "data" / "metric"
PREDS, TRUTH = METRIC / "t01_synthetic_gt.preds.jsonl.gz", METRIC / "gt_synthetic.jsonl.gz"


def _rows(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def _write_frames(path: Path, annotations: Path, num_frames: int = 25) -> None:
    """Write a frames file in which every query is answered with the middle of its video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    predictions = []
    for row in read_annotations(annotations):
        grid = FrameGrid.middle(row["duration"], num_frames)
        probs = [0.9 if 8 <= frame < 16 else 0.2 for frame in range(num_frames)]
        answer = {"mask": [p > 0.5 for p in probs], "probs": probs, "moments": (), "saliency": []}
        predictions.append(FramePrediction(grid, **answer, query=row["query"], qid=row["qid"], vid=row["vid"]))
    write_frames_file(path, predictions)


def _exist(stage: Stage, *names: str) -> None:
    missing = [name for name in names if not (stage.folder / name).exists()]
    assert missing == [], f"the page left no {missing}"


# README ---------------------------------------------------------------------------------------------------------------


def _readme(stage: Stage) -> None:
    stage.copy_data()
    _make_from_sources(stage)
    video = next((stage.folder / "QVH" / "videos").iterdir())
    (stage.folder / "video.mp4").symlink_to(video)
    _write_rows(stage.folder / "preds.jsonl", _submission(stage.folder / "QVH" / "highlight_test_with_gt.jsonl"))
    for name in ("baseline.jsonl", "mine.jsonl"):
        _write_rows(stage.folder / name, _submission(stage.folder / "QVH" / "highlight_val_release.jsonl"))


def _submission(annotations: Path) -> list[dict]:
    """Return a submission that marks the whole of each video."""
    rows = read_annotations(annotations)
    return [
        {
            "qid": row["qid"],
            "query": row["query"],
            "vid": row["vid"],
            "pred_relevant_windows": [[0.0, float(row["duration"]), 1.0]],
            "pred_saliency_scores": [1.0] * int(row["duration"] // 2),
        }
        for row in rows
    ]


def _make_from_sources(stage: Stage) -> None:
    """Put the Makefile and an environment that is already set up into the folder; its commands are those of the stage.

    Data and training of the demo are made small: `frameseg synth` gets fewer videos. pytest and ruff are not started.
    """
    stage.link("Makefile", "pyproject.toml", "examples", "benchmarks", "tests")
    tools = stage.folder / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name in ("accelerate", "frameseg"):
        (tools / name).symlink_to(stage.world.folder / "bin" / name)
    fewer = "--num-train 4 --num-val 6 --num-test 0"
    frameseg = stage.stand_in("demo-frameseg", f'[ "$1" != synth ] || set -- "$@" {fewer}\nexec frameseg "$@"')
    (tools / "frameseg").unlink()
    (tools / "frameseg").symlink_to(frameseg)
    for name in ("python", "ruff"):
        (tools / name).symlink_to(stage.stand_in(f"venv-{name}", ""))
    (tools.parent / ".stamp").touch()


def _check_readme(stage: Stage) -> None:
    _exist(stage, "runs/demo/metrics.json", "runs/demo/model", "runs/demo/predict.png", "runs/mine")
    assert stage.calls("venv-python") == [["-m", "pytest"]]


# The other pages ------------------------------------------------------------------------------------------------------


def _how_to(stage: Stage) -> None:
    stage.copy_data("data")
    (stage.folder / "video.mp4").symlink_to(next((stage.folder / "data" / "videos").iterdir()))


def _check_how_to(stage: Stage) -> None:
    _exist(stage, "prediction.png", "curves.png", "runs/mine/model", "runs/lora/adapter", "mine.jsonl")


def _audit(stage: Stage) -> None:
    stage.copy_data()
    (stage.folder / "highlight_val_release.jsonl").symlink_to("QVH/highlight_val_release.jsonl")


def _check_audit(stage: Stage) -> None:
    _exist(stage, "audit.png", "audit.json")


def _decoders(stage: Stage) -> None:
    stage.link("benchmarks")
    annotations = stage.copy_data() / "highlight_val_release.jsonl"
    for name in ("runs/qvh/hl_val_frames.jsonl", "hl_val_frames.jsonl"):
        _write_frames(stage.folder / name, annotations)
    (stage.folder / "truth.jsonl").symlink_to(annotations)


def _check_decoders(stage: Stage) -> None:
    _exist(stage, "scores.json", "hl_val_submission.jsonl")


def _is_a_frames_file(stage: Stage, block: Block) -> None:
    (stage.folder / "shown.jsonl").write_text(block.code, "utf-8")
    assert [prediction.qid for prediction in read_frames_file(stage.folder / "shown.jsonl")] == [1]


def _scoring(stage: Stage) -> None:
    preds = _rows(PREDS)
    _write_rows(stage.folder / "annotations.jsonl", _rows(TRUTH))
    _write_rows(stage.folder / "preds.jsonl", preds)
    for row in preds:
        row["pred_relevant_windows"] = sorted(row["pred_relevant_windows"], key=lambda window: -window[2])[:10]
    _write_rows(stage.folder / "sorted.jsonl", preds)
    preds[6]["pred_relevant_windows"][0] = [9.0, 4.0, 0.99]
    preds[7]["pred_relevant_windows"][0] = [2, 6, 0.98]
    preds[11] = preds[10]
    _write_rows(stage.folder / "broken.jsonl", preds)
    (stage.folder / "QVH").mkdir()
    _write_rows(stage.folder / "QVH" / "highlight_test_with_gt.jsonl", _rows(TRUTH))
    video = {"video": "a", "query": "grooming a dog", "duration": 20}
    _write_rows(stage.folder / "tvsum.jsonl", [{**video, "saliency": [[1 + n % 5] * 20 for n in range(20)]}])
    _write_rows(stage.folder / "youtube.jsonl", [{**video, "saliency": [-1, 0, 1, 1, -1]}])
    for name, num_clips in {"tvsum": 20, "youtube": 5}.items():
        answer = {"qid": 0, "vid": "a", "query": video["query"], "pred_relevant_windows": [[0.0, 20.0, 1.0]]}
        answer["pred_saliency_scores"] = [n / num_clips for n in range(num_clips)]
        _write_rows(stage.folder / f"{name}_preds.jsonl", [answer])


def _is_a_submission_line(stage: Stage, block: Block) -> None:
    row = json.loads(block.code.replace(", ...]", "]"))
    truth = {"qid": 2579, "query": "...", "vid": "...", "duration": 150, "relevant_windows": [[82, 150]]}
    truth |= {"relevant_clip_ids": [41], "saliency_scores": [[4, 4, 4]]}
    assert {violation.code for violation in validate_submission([row], [truth])} == {"saliency-length"}


# QVHighlights for real -----------------------------------------------------------------------------------------------

REAL = "docs/real-data.md"
CLONE, ARCHIVE = "https://github.com/jayleicn/moment_detr.git", "qvhilights_videos.tar.gz"
FETCH = f"-c https://nlp.cs.unc.edu/data/jielei/qvh/{ARCHIVE}"


def _real(stage: Stage) -> None:
    """Stand in for what the page fetches; all that follows works on it."""
    stage.link("examples")
    data, archive = shlex.quote(str(stage.world.data)), shlex.quote(str(stage.folder / "served.tar.gz"))
    stage.stand_in("git", f'[ "$*" = "clone --depth 1 {CLONE}" ]\nmkdir -p moment_detr\ncp -r {data} moment_detr/data')
    stage.stand_in("wget", f'[ "$*" = "{FETCH}" ]\ncp {archive} {ARCHIVE}')
    with tarfile.open(stage.folder / "served.tar.gz", "w:gz") as packed:
        packed.add(stage.world.data / "videos", "qvhighlights_videos/inner")
    (stage.folder / "some_video.mp4").symlink_to(next((stage.world.data / "videos").iterdir()))


def _options_of_step_5() -> str:
    block = next(block for block in read_blocks(REAL) if "--recipe default --model_name_or_path" in block.code)
    return re.sub(r"\s*\\\n\s*", " ", block.code).partition("run_qvh.py ")[2].strip()


def _is_the_folder(stage: Stage, block: Block) -> None:
    root, *lines = block.code.splitlines()
    names = [line.split()[0] for line in lines]
    _exist(stage, *(root + name for name in names if name.endswith(".jsonl")))
    (video,) = (Path(name) for name in names if not name.endswith(".jsonl"))
    there = [path.relative_to(stage.folder / root) for path in (stage.folder / root).rglob(f"*{video.suffix}")]
    assert there
    assert {path.parent for path in there} == {video.parent}


def _is_a_failure(stage: Stage, block: Block) -> None:
    reported = failure_line("val", "v", "v.mp4", Failure("no", (("pyav", "no"), ("decord", "no"))), num_queries=1)
    shown = json.loads(block.code)
    assert shown.keys() == reported.keys()
    assert [attempt.keys() for attempt in shown["attempts"]] == [attempt.keys() for attempt in reported["attempts"]]


def _check_real(stage: Stage) -> None:
    (trained,) = (printed for line, printed in stage.printed.items() if line.endswith("examples/run_qvh.py \\"))
    assert "Decoding videos" not in trained  # `frameseg prepare` has done it
    names = "metrics.json hl_val_submission.jsonl hl_val_frames.jsonl frames figures model/README.md"
    _exist(stage, *(f"runs/qvh/{name}" for name in [*names.split(), "model/frameseg_config.json", "checkpoint-2"]))
    _exist(stage, "runs/qvh-test/hl_test_submission.jsonl", "picture.png")


# The paper's model, scale ---------------------------------------------------------------------------------------------


def _paper(stage: Stage) -> None:
    stage.link("examples")
    stage.stand_in("accelerate", f'exec python {shlex.quote(str(STAND_INS / "deepspeed_launch.py"))} "$@"')


def _check_paper(stage: Stage) -> None:
    _exist(stage, "xgenmm/config.json")
    (printed,) = stage.printed.values()
    launches = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert [launch["processes"] for launch in launches] == [1, 2, 8]
    for launch in launches:
        assert launch["processes"] * launch["batch"] * launch["accumulation"] == 128
        assert launch["engine_accumulation"] == launch["accumulation"]
        assert (launch["zero_stage"], launch["offload"], launch["precision"]) == (2, "cpu", "bf16")


SCALE_GIVEN = """
from hf_frameseg import TINY_BASE, BinaryLabels, FrameSegmentationCollator, load_base, load_processor
model, processor = load_base(TINY_BASE), load_processor(TINY_BASE)
labels = BinaryLabels.from_tokenizer(processor.tokenizer)
collator = FrameSegmentationCollator(processor=processor, labels=labels, prompt="compact")
"""


def _scale(stage: Stage) -> None:
    stage.link("examples")
    stage.copy_data()
    stage.copy_data("shared")
    jobs = shlex.quote(str(stage.folder / "jobs"))
    stage.stand_in("sbatch", f'cat "${{@: -1}}" >> {jobs}\necho Submitted batch job $RANDOM')


def _check_scale(stage: Stage) -> None:
    _exist(stage, "frames/data", "state.json", "runs/streamed")
    assert "#SBATCH --array=0-2%2\n" in (stage.folder / "jobs").read_text("utf-8")


# What is not for users of the package ---------------------------------------------------------------------------------


def _levels(stage: Stage, block: Block) -> None:
    """Compare the picture with the levels that the test of the architecture enforces."""
    spec = importlib.util.spec_from_file_location("test_architecture", ROOT / "tests" / "test_architecture.py")
    rules = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rules)
    shown = {}
    for line in block.code.splitlines():
        level, rooms = line.split(maxsplit=1)
        names = rooms.removesuffix("(anyone may)").split("|")
        shown |= {name.strip(): int(level) for name in names}
    assert shown == rules.LEVELS


def _contributing(stage: Stage) -> None:
    _make_from_sources(stage)
    for name in ("frameseg", "accelerate"):
        (stage.folder / ".venv" / "bin" / name).unlink()
        (stage.folder / ".venv" / "bin" / name).symlink_to(stage.stand_in(f"venv-{name}", ""))
    data = stage.folder / "runs" / "demo" / "data"
    data.mkdir(parents=True)
    _write_rows(data / "highlight_val_release.jsonl", [{"query": "a red circle", "vid": "v"}])


def _check_contributing(stage: Stage) -> None:
    tests = [call[2:] for call in stage.calls("venv-python")]
    all_of_them, docs, quick, slow, one_file, coverage = tests
    assert all_of_them == []
    assert all(set(docs) >= {"docs", "README.md", "tests/docs"} for docs in [docs])
    assert (quick, slow, coverage) == (["-m", "not slow"], ["-m", "slow"], ["--cov"])
    assert (ROOT / one_file[0]).is_file()
    ruff = [["check", "."], ["format", "--check", "."], ["check", "--fix", "."], ["format", "."]]
    assert stage.calls("venv-ruff") == ruff
    assert [call[0] for call in stage.calls("venv-frameseg")] == ["synth", "predict"]


def _check_benchmarks(stage: Stage) -> None:
    scripts = sorted(path.name for path in (ROOT / "benchmarks").glob("*.py"))
    assert [Path(call[0]).name for call in stage.calls("venv-python")] == scripts


REHEARSALS: dict[str, Rehearsal] = {
    "README.md": Rehearsal(
        _readme,
        shorter={
            "make demo ": "make demo DEMO_ARGS='--max_steps 2 --warmup_steps 0 --num_figures 1' QUERY='a blue square' ",
            '"QVH", split, frame_size=384': '"QVH", split, num_frames=5, frame_size=32',
            'eval_strategy="epoch"': 'eval_strategy="epoch", num_train_epochs=1',
            "--split test": "--split test --data-dir QVH",
            "--split val": "--split val --data-dir QVH",
        },
        check=_check_readme,
    ),
    "CONTRIBUTING.md": Rehearsal(_contributing, check=_check_contributing),
    "benchmarks/README.md": Rehearsal(
        _make_from_sources, shorter={"scorer.py": "scorer.py --queries 20 --rounds 1"}, check=_check_benchmarks
    ),
    "docs/architecture.md": Rehearsal(shown={"10 cli": _levels}),
    "docs/concepts.md": Rehearsal(shown={" video file, T seconds": None}),
    "docs/audit.md": Rehearsal(_audit, shorter={"--split test  ": "--split test --data-dir QVH  "}, check=_check_audit),
    "docs/decoders.md": Rehearsal(
        _decoders,
        shorter={
            "decoders.py --annotations": "decoders.py --seeds 0 1 --kinds S --annotations",
            "--split val --decoder": "--split val --data-dir QVH --decoder",
        },
        shown={'{"qid": 1': _is_a_frames_file, "local soft IoU of": None},
        check=_check_decoders,
    ),
    "docs/how-to.md": Rehearsal(
        _how_to, shorter={"max_steps=300": "max_steps=2", "logging_steps=10": "logging_steps=1"}, check=_check_how_to
    ),
    "docs/paper-model.md": Rehearsal(_paper, stand_ins=("accelerate",), check=_check_paper),
    REAL: Rehearsal(
        _real,
        shorter={
            "... the same options as in step 5 ...": _options_of_step_5(),
            "--num-proc 8": "--num-proc 2",
            "--num-proc 16": "--num-proc 2",
            "--frame-size 384": "--frame-size 32",
            "--frame_size 384": "--frame_size 32",
            "--bf16 true": "--bf16 true --use_cpu true",
            "--num_train_epochs 11": "--num_train_epochs 2",
            "--save_steps 100": "--save_steps 1",
            "--report_to wandb": "--report_to none",
            "checkpoint-1243": "checkpoint-2",
        },
        stand_ins=("git", "wget"),
        shown={"QVH/\n": _is_the_folder, '{"split"': _is_a_failure},
        check=_check_real,
    ),
    "docs/scale.md": Rehearsal(
        _scale,
        given=SCALE_GIVEN,
        shorter={
            "frame_size=384": "frame_size=32",
            "num_train_epochs=11": "num_train_epochs=1",
            "/shared/": "shared/",
            "shared/QVH": "shared",
            "--frame_size 384": "--frame_size 32",
            "--tasks 200": "--tasks 3",
            "--workers 16 ": "--workers 1 ",
            "--workers 50": "--workers 2",
            "# one machine, 16 tasks at a time": "; rm -r shared/cache",  # the next is another way to the same end
        },
        stand_ins=("sbatch",),
        check=_check_scale,
    ),
    "docs/scoring.md": Rehearsal(
        _scoring,
        shorter={
            "--split test": "--split test --data-dir QVH",
            "preds.jsonl --ground-truth tvsum": "tvsum_preds.jsonl --ground-truth tvsum",
            "preds.jsonl --ground-truth youtube": "youtube_preds.jsonl --ground-truth youtube",
        },
        shown={'{"qid": 2579': _is_a_submission_line},
    ),
}
