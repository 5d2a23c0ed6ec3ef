"""Streams: every row once, in a reproducible order, and exactly the rest after a break."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from datasets import Dataset
from hf_frameseg.batches.collator import FrameSegmentationCollator
from hf_frameseg.batches.encoding import model_inputs
from hf_frameseg.digits import BinaryLabels
from hf_frameseg.shards.files import find_shards, save_shards
from hf_frameseg.shards.order import epoch_windows, node_windows, worker_rows
from hf_frameseg.shards.stream import FrameStream
from hf_frameseg.training.arguments import SegmentationSeq2SeqTrainingArguments
from hf_frameseg.training.trainer import SegmentationSeq2SeqTrainer

NUM_ROWS = 23
LABELS = BinaryLabels(zero_id=48, one_id=49, end_ids=(259,))


@pytest.fixture
def stream(folder: Path) -> Callable[..., FrameStream]:
    """Builder of streams over the folder; a window holds eight rows of four row groups."""

    def build(seed: int | None = 3, buffer_rows: int = 8) -> FrameStream:
        return FrameStream(find_shards(folder, "train"), seed=seed, buffer_rows=buffer_rows)

    return build


def qids(rows: Any) -> list[int]:
    return [row["qid"] for row in rows]


# ---- Order -----------------------------------------------------------------------------------------------------------


def test_every_epoch_has_its_own_order_and_has_it_again(stream: Callable[..., FrameStream]) -> None:
    first, again = stream(), stream()
    orders = []
    for epoch in range(3):
        first.set_epoch(epoch)
        orders.append(qids(first))
        assert sorted(orders[-1]) == list(range(NUM_ROWS))
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert all(order != list(range(NUM_ROWS)) for order in orders)
    again.set_epoch(1)
    assert qids(again) == orders[1]
    again.set_epoch(0)
    assert qids(again) == qids(again) == orders[0]
    assert qids(stream(seed=4)) != orders[0]


def test_rows_with_text_qids_are_mixed_too(dataset: Dataset, tmp_path: Path) -> None:
    texts = [f"s{qid}" for qid in dataset["qid"]]
    renamed = dataset.remove_columns("qid").add_column("qid", texts)
    save_shards(renamed, tmp_path, shard_bytes=dataset.data.nbytes // 3 + 1)
    order = qids(FrameStream(find_shards(tmp_path, "train"), seed=3, buffer_rows=8))
    assert sorted(order) == sorted(texts)
    assert order != texts
    assert order == qids(FrameStream(find_shards(tmp_path, "train"), seed=3, buffer_rows=8))


def test_neighbours_are_spread(stream: Callable[..., FrameStream]) -> None:
    mixed = stream()
    adjacent = 0
    for epoch in range(20):
        mixed.set_epoch(epoch)
        order = np.array(qids(mixed))
        adjacent += int((np.diff(order) == 1).sum())
    assert adjacent < 20 * 4  # of 22 in the shards, 1 in a perfect shuffle, 10 when only the groups of two are shuffled


def test_without_a_seed_the_order_stays(stream: Callable[..., FrameStream]) -> None:
    plain = stream(seed=None)
    for epoch in (0, 3):
        plain.set_epoch(epoch)
        assert qids(plain) == list(range(NUM_ROWS))


def test_shards_of_other_columns_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    (first,) = save_shards(dataset, tmp_path / "a")
    (second,) = save_shards(dataset.remove_columns("saliency_scores"), tmp_path / "b")
    with pytest.raises(ValueError, match="expected shards with equal columns"):
        FrameStream([str(first), str(second)])


def test_shards_of_a_relative_folder_are_found_from_another_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    stream = FrameStream(find_shards(folder.name, "train"))
    expected = list(stream)
    monkeypatch.chdir(tmp_path)
    assert list(stream) == list(pickle.loads(pickle.dumps(stream))) == list(stream.rows) == expected


def test_bad_arguments_are_refused(stream: Callable[..., FrameStream]) -> None:
    for name, lowest in {"seed": 0, "buffer_rows": 1, "batch_rows": 1}.items():
        for wrong in (lowest - 1, "many", 2.5, True):
            with pytest.raises(ValueError, match=f"{name} of at least {lowest}, a whole number, got {wrong!r}"):
                FrameStream(stream().files, **{name: wrong})
    assert stream(seed=np.int64(3)).state_dict() == stream(seed=3).state_dict()
    for files in ("data/val-00000-of-00001.parquet", Path("data"), []):
        with pytest.raises(ValueError, match=r"expected a list of shards, got .* find_shards\(folder, split\)"):
            FrameStream(files)
    with pytest.raises(ValueError, match="rank from 0 to 1, got 2"):
        stream().split_by_node(2, 2)


# ---- Resuming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [3, None])
@pytest.mark.parametrize("node", [None, (1, 2)])
def test_the_rest_is_exact_at_every_row(
    seed: int | None, node: tuple[int, int] | None, stream: Callable[..., FrameStream]
) -> None:
    def opened() -> FrameStream:
        return stream(seed=seed) if node is None else stream(seed=seed).split_by_node(*node)

    original = opened()
    original.set_epoch(2)
    everything = qids(original)
    assert len(everything) == len(original)
    for cut in range(1, len(everything) + 1):
        rows = iter(original)
        done = [next(rows)["qid"] for _ in range(cut)]
        state = json.loads(json.dumps(original.state_dict()))
        resumed = opened()
        resumed.load_state_dict(state)
        assert resumed.epoch == 2
        assert done + qids(resumed) == everything
        assert qids(resumed) == everything  # the next pass is a whole one


@pytest.mark.parametrize("frame_format", ["raw", "jpeg"])
def test_queries_of_one_video_are_rows_like_others(
    frame_format: str, make_dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    vids = "abcdefghabcdabcaefgab"
    dataset = make_dataset(frame_format, len(vids), vids)
    save_shards(dataset, tmp_path, shard_bytes=dataset.data.nbytes // 6)
    files = find_shards(tmp_path, "train")
    everything = list(FrameStream(files, seed=1, buffer_rows=9))
    assert sorted(qids(everything)) == list(range(len(vids))) != qids(everything)
    assert everything == dataset.select(qids(everything)).to_list()
    for cut in range(1, len(vids)):
        original, resumed = (FrameStream(files, seed=1, buffer_rows=9) for _ in range(2))
        rows = iter(original)
        done = [next(rows) for _ in range(cut)]
        resumed.load_state_dict(original.state_dict())
        assert done + list(resumed) == everything
    halves = [FrameStream(files, seed=1).split_by_node(rank, 2) for rank in range(2)]
    assert sorted(qid for half in halves for qid in qids(half)) == list(range(len(vids)))
    loader = DataLoader(FrameStream(files, seed=1, batch_rows=4), batch_size=4, num_workers=2, collate_fn=list)
    batches = [qids(batch) for batch in loader]
    assert sorted(len(batch) for batch in batches) == [1, 4, 4, 4, 4, 4]
    assert sorted(qid for batch in batches for qid in batch) == list(range(len(vids)))


def test_a_new_process_goes_on(folder: Path, stream: Callable[..., FrameStream], tmp_path: Path) -> None:
    original = stream()
    original.set_epoch(1)
    everything = qids(original)
    rows = iter(original)
    done = [next(rows)["qid"] for _ in range(10)]
    (tmp_path / "state.json").write_text(json.dumps(original.state_dict()))
    script = (
        "import json, sys\n"
        "from hf_frameseg.shards.files import find_shards\n"
        "from hf_frameseg.shards.stream import FrameStream\n"
        "stream = FrameStream(find_shards(sys.argv[1], 'train'), seed=3, buffer_rows=8)\n"
        "stream.load_state_dict(json.load(open(sys.argv[2])))\n"
        "print(json.dumps([row['qid'] for row in stream]))\n"
    )
    command = [sys.executable, "-c", script, str(folder), str(tmp_path / "state.json")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done + json.loads(result.stdout) == everything
    assert "WARNING" not in result.stderr.upper()


def test_the_state_of_another_stream_is_refused(stream: Callable[..., FrameStream]) -> None:
    state = stream().state_dict()
    for wrong in ({"rows": -1}, {"rows": NUM_ROWS + 1}, {"rows": "x"}, {"epoch": -1}, {"epoch": None}):
        with pytest.raises(ValueError, match="expected a state with an epoch and rows from 0 to"):
            stream().load_state_dict(state | wrong)
    for other in (stream(seed=4), stream(buffer_rows=9), stream().split_by_node(0, 2)):
        with pytest.raises(ValueError, match="state of a stream of the same shards"):
            other.load_state_dict(state)


# ---- Processes, workers, batches -------------------------------------------------------------------------------------


def test_nodes_share_the_rows(stream: Callable[..., FrameStream]) -> None:
    whole = stream()
    whole.set_epoch(1)
    parts = [whole.split_by_node(rank, 2) for rank in range(2)]
    assert [len(part) for part in parts] == [12, 11]
    assert [qids(part) for part in parts] == [qids(whole)[rank::2] for rank in range(2)]
    parts[0].set_epoch(0)
    assert whole.epoch == 1


def test_workers_share_the_rows_and_follow_the_epoch(stream: Callable[..., FrameStream]) -> None:
    rows = stream()
    loader = DataLoader(rows, batch_size=4, num_workers=2, collate_fn=qids, persistent_workers=True)
    orders = []
    for epoch in range(2):
        rows.set_epoch(epoch)
        orders.append([qid for batch in loader for qid in batch])
    assert [sorted(order) for order in orders] == [list(range(NUM_ROWS))] * 2
    assert orders[0] != orders[1]


@pytest.mark.parametrize("seed", [3, None])
@pytest.mark.parametrize("num_rows", [1, 7, 23, 34])
def test_no_row_is_lost_or_repeated_in_any_layout(
    seed: int | None, num_rows: int, make_dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    save_shards(make_dataset(num_rows=num_rows), tmp_path)
    stream = FrameStream(find_shards(tmp_path, "train"), seed=seed, buffer_rows=8)
    groups, whole = stream._group_rows, list(range(num_rows))
    assert len(groups) == min(num_rows, 12 if num_rows == 23 else 16 if num_rows < 32 else 12)
    for epoch in range(3):
        windows = epoch_windows(groups, 8, seed, epoch)
        order = np.concatenate(windows).tolist()
        assert sorted(order) == whole
        for world_size in (1, 2, 3):
            nodes = [node_windows(windows, rank, world_size) for rank in range(world_size)]
            for rank, node in enumerate(nodes):
                mine = np.concatenate(node).tolist()
                assert mine == order[rank::world_size]
                assert len(mine) == len(stream.split_by_node(rank, world_size))
                for num_workers in (1, 2, 3, 8):
                    for batch_rows in (None, 1, 4, 8):
                        for keep_order in (False, True)[: 1 if batch_rows is None else 2]:
                            layout = (num_workers, batch_rows, keep_order)
                            check_layout(node, mine, *layout)


def check_layout(node: list, mine: list[int], num_workers: int, batch_rows: int | None, keep_order: bool) -> None:
    """Take batches from the workers in turn, as a loader does."""
    shares = [worker_rows(node, w, num_workers, batch_rows, keep_order).tolist() for w in range(num_workers)]
    assert sorted(row for share in shares for row in share) == sorted(mine)
    if batch_rows is None:
        return
    batches = []
    while any(shares):
        for share in filter(None, shares):
            batches.append(share[:batch_rows])
            del share[:batch_rows]
    sizes = [len(batch) for batch in batches]
    assert sizes == [len(mine[at : at + batch_rows]) for at in range(0, len(mine), batch_rows)]
    if keep_order:
        assert [row for batch in batches for row in batch] == mine


@pytest.mark.parametrize("seed", [3, None])
def test_a_loader_with_workers_gives_whole_batches_as_many_as_it_says(
    seed: int | None, make_dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    save_shards(make_dataset(num_rows=34), tmp_path)
    stream = FrameStream(find_shards(tmp_path, "train"), seed=seed, buffer_rows=8, batch_rows=4)
    loader = DataLoader(stream, batch_size=4, num_workers=3, collate_fn=qids)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [4] * 8 + [2]
    assert len(loader) == 9
    assert sorted(qid for batch in batches for qid in batch) == list(range(34))
    if seed is None:
        assert [qid for batch in batches for qid in batch] == list(range(34))
    parts = [stream.split_by_node(rank, 2) for rank in range(2)]
    loaded = [list(DataLoader(part, batch_size=4, num_workers=2, collate_fn=qids)) for part in parts]
    assert [[len(batch) for batch in batches] for batches in loaded] == [[4] * 4 + [1]] * 2
    assert sorted(qid for batches in loaded for batch in batches for qid in batch) == list(range(34))


def test_a_moved_stream_is_not_shared_by_workers(stream: Callable[..., FrameStream]) -> None:
    original = stream()
    next(iter(original))
    moved = stream()
    moved.load_state_dict(original.state_dict())
    with pytest.raises(ValueError, match="cannot be shared by workers"):
        list(DataLoader(moved, num_workers=1, collate_fn=qids))


def test_nodes_of_nodes_share_the_rows(stream: Callable[..., FrameStream]) -> None:
    whole, outer = qids(stream()), stream().split_by_node(1, 2)
    assert [qids(outer.split_by_node(rank, 3)) for rank in range(3)] == [whole[1::2][rank::3] for rank in range(3)]


def test_processes_of_the_trainer_share_every_batch(stream: Callable[..., FrameStream]) -> None:
    from accelerate.data_loader import IterableDatasetShard

    shards = [IterableDatasetShard(stream(), 4, num_processes=2, process_index=rank) for rank in range(2)]
    for shard in shards:
        shard.set_epoch(1)
    parts = [qids(shard) for shard in shards]
    whole = stream()
    whole.set_epoch(1)
    batches = [qids(whole)[start : start + 8] for start in range(0, NUM_ROWS, 8)]
    assert len(parts[0]) == len(parts[1]) == 12  # the last batch is filled up, and the Trainer drops nothing
    for number, batch in enumerate(batches[:2]):
        assert [part[4 * number : 4 * number + 4] for part in parts] == [batch[:4], batch[4:]]


@pytest.fixture
def collator(tiny_processor: Any) -> FrameSegmentationCollator:
    return FrameSegmentationCollator(processor=tiny_processor, labels=LABELS, prompt="compact", prefix_corruption=0.5)


def test_batches_are_those_of_the_data_set(
    stream: Callable[..., FrameStream], dataset: Dataset, collator: FrameSegmentationCollator
) -> None:
    for batch in DataLoader(stream(), batch_size=5, collate_fn=collator):
        expected = copy.deepcopy(collator)
        expected._seen.clear()
        expected = expected([dataset[qid] for qid in batch["targets"]["qid"].tolist()])
        assert batch.keys() == expected.keys()
        found, wanted = ({**model_inputs(every), **every["targets"]} for every in (batch, expected))
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in found)


@pytest.fixture
def train(
    stream: Callable[..., FrameStream], tiny_model: Any, collator: FrameSegmentationCollator, tmp_path: Path
) -> Callable[..., tuple[dict[str, torch.Tensor], Any]]:
    """Two epochs of three steps each."""

    def run(rows: Any = None, resume: str | None = None, **options: Any) -> tuple[dict[str, torch.Tensor], Any]:
        defaults = {
            "output_dir": str(tmp_path / "out"),
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "per_device_train_batch_size": 8,
            "num_train_epochs": 2,
            "learning_rate": 1e-2,
            "train_sampling_strategy": "sequential",
            "save_strategy": "steps",
            "save_steps": 1,
            "logging_steps": 1,
        }
        trainer = SegmentationSeq2SeqTrainer(
            copy.deepcopy(tiny_model),
            SegmentationSeq2SeqTrainingArguments(**(defaults | options)),
            copy.deepcopy(collator),
            train_dataset=stream() if rows is None else rows,
        )
        trainer.train(resume_from_checkpoint=resume)
        return {name: value.detach() for name, value in trainer.model.named_parameters()}, trainer.state

    return run


def test_the_trainer_counts_the_epochs_of_a_stream(
    train: Callable[..., Any], stream: Callable[..., FrameStream], dataset: Dataset
) -> None:
    weights, state = train()
    assert (state.max_steps, state.global_step, state.epoch) == (6, 6, 2.0)
    in_order = stream()
    one_epoch = train([dataset[qid] for qid in qids(in_order)], num_train_epochs=1, lr_scheduler_type="constant")[0]
    streamed = train(num_train_epochs=1, lr_scheduler_type="constant")[0]
    assert all(torch.equal(streamed[name], one_epoch[name]) for name in weights)


@pytest.mark.parametrize("step", [2, 3, 5])
def test_the_trainer_resumes_a_stream(step: int, train: Callable[..., Any], tmp_path: Path) -> None:
    expected, _ = train()
    resumed, state = train(resume=str(tmp_path / "out" / f"checkpoint-{step}"))
    assert state.global_step == 6
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
