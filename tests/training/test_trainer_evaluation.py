"""Evaluation in the trainer: every query once whatever holds the rows, several sets, parts of one, no labels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset
from transformers import EvalPrediction, TrainerCallback

from datasets import Dataset
from hf_frameseg.batches.collator import FrameSegmentationCollator
from hf_frameseg.digits import BinaryLabels
from hf_frameseg.readout import READOUTS, DecodedFrames, generate_frame_logits
from hf_frameseg.shards.files import find_shards, save_shards
from hf_frameseg.shards.stream import FrameStream
from hf_frameseg.training.evaluation import MomentRetrievalMetrics
from hf_frameseg.training.trainer import SegmentationSeq2SeqTrainer

Rows = list[dict[str, Any]]


@pytest.fixture
def rows(eight_rows: Rows) -> Rows:
    return eight_rows


class Passing(IterableDataset):
    """A stream without a length."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from self.rows


# 1. Streams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_rows", "workers"), [(34, 3), (7, 2), (23, 0)])
def test_every_query_of_a_stream_is_evaluated_once(
    num_rows: int, workers: int, make_trainer: Any, make_row: Any, tmp_path: Path
) -> None:
    rows = [make_row(qid, query="a red circle "[: 4 + qid % 9]) for qid in range(num_rows)]
    save_shards(Dataset.from_list(rows), tmp_path, "val", group_bytes=100_000)
    stream = FrameStream(find_shards(tmp_path, "val"))
    trainer = make_trainer(dataloader_num_workers=workers, compute_metrics=MomentRetrievalMetrics(rows))
    output = trainer.predict(stream)
    expected = trainer.predict(rows)
    assert sorted(output.predictions[2].tolist()) == [*range(num_rows)]
    order = np.argsort(output.predictions[2])
    assert np.abs(output.predictions[1][order] - expected.predictions[1]).max() < 1e-5
    for name in ("test_mAP", "test_HIT@1"):
        assert output.metrics[name] == pytest.approx(expected.metrics[name], rel=1e-5)
    streamed, listed = trainer.evaluate(stream), trainer.evaluate(rows)
    for name in ("eval_loss", "eval_loss_bce", "eval_mAP", "eval_HIT@1"):
        assert streamed[name] == pytest.approx(listed[name], rel=1e-5)


def test_a_stream_without_a_length(make_trainer: Any, rows: Rows) -> None:
    trainer = make_trainer(per_device_eval_batch_size=2, compute_metrics=MomentRetrievalMetrics([]))
    found = trainer.evaluate(Passing(rows[:7]))
    expected = trainer.evaluate(rows[:7])
    assert found["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-6)
    assert found["eval_mAP"] == expected["eval_mAP"]


def test_a_loader_that_numbers_no_rows_is_refused(make_trainer: Any, rows: Rows) -> None:
    trainer = make_trainer(eval_dataset=rows, predict_with_generate=False)
    foreign = DataLoader(rows, batch_size=3, collate_fn=trainer.eval_data_collator)
    trainer.get_eval_dataloader = trainer.get_test_dataloader = lambda rows=None: foreign
    for evaluate in (trainer.evaluate, partial(trainer.predict, rows)):
        with pytest.raises(ValueError, match="evaluation needs a loader of this trainer"):
            evaluate()


# 2. Which rows --------------------------------------------------------------------------------------------------------


def test_dropping_the_last_training_batch_leaves_the_evaluation_whole(make_trainer: Any, rows: Rows) -> None:
    trainer = make_trainer(rows[:7], dataloader_drop_last=True, per_device_train_batch_size=4)
    assert trainer.predict(rows[:7]).predictions[2].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert len(trainer.get_train_dataloader()) == 1


def test_no_rows_are_no_evaluation(make_trainer: Any) -> None:
    trainer = make_trainer()
    for evaluate in (trainer.evaluate, trainer.predict):
        with pytest.raises(ValueError, match="evaluation needs rows, got none"):
            evaluate([])


def test_persistent_workers_do_not_keep_other_rows(make_trainer: Any, rows: Rows) -> None:
    trainer = make_trainer(dataloader_num_workers=1, dataloader_persistent_workers=True)
    first, second = trainer.evaluate(rows[:4]), trainer.evaluate(rows[4:8])
    assert second["eval_loss"] != pytest.approx(first["eval_loss"], rel=1e-6)


@pytest.mark.parametrize("qids", [[-3, 5, -(2**40)], ["b", "10", "ü"]], ids=["negative", "texts"])
def test_any_query_id(qids: list[Any], make_trainer: Any, rows: Rows) -> None:
    renamed = [{**row, "qid": qid} for row, qid in zip(rows, qids, strict=False)]
    metrics = MomentRetrievalMetrics(renamed)
    trainer = make_trainer(renamed, compute_metrics=metrics, eval_dataset=renamed, per_device_train_batch_size=3)
    trainer.train()
    output = trainer.predict(renamed)
    assert output.predictions[2].tolist() == qids
    assert [prediction.qid for prediction in metrics.predictions(*output.predictions)] == qids
    plain = make_trainer(compute_metrics=MomentRetrievalMetrics(rows[:3])).evaluate(rows[:3])
    again = make_trainer(compute_metrics=metrics).evaluate(renamed)
    assert again["eval_mAP"] == plain["eval_mAP"]
    assert again["eval_loss"] == pytest.approx(plain["eval_loss"], rel=1e-6)


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_rows_with_a_format(kind: str, make_trainer: Any, rows: Rows) -> None:
    exact = [{**row, "duration_seconds": 10.1, "relevant_windows": [[0.1, 10.1]]} for row in rows[:3]]
    formatted = Dataset.from_list(exact).with_format(kind)
    metrics = MomentRetrievalMetrics(formatted)
    assert metrics.ground_truth == MomentRetrievalMetrics(exact).ground_truth
    found, expected = (
        make_trainer(some, compute_metrics=metrics, eval_dataset=some).evaluate() for some in (formatted, exact)
    )
    assert found["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-6)
    assert found["eval_mAP"] == expected["eval_mAP"]


# 3. Which collator ----------------------------------------------------------------------------------------------------


def wrapped(collator: Any) -> list[Callable[[Rows], Any]]:
    return [lambda batch: collator(batch), partial(collator.__class__.__call__, collator), collator.__call__]


@pytest.mark.parametrize("way", [0, 1, 2])
def test_a_collator_in_a_function_is_not_used_for_evaluation(
    way: int, make_trainer: Any, rows: Rows, tiny_processor: Any
) -> None:
    labels = BinaryLabels.from_tokenizer(tiny_processor.tokenizer)
    collator = FrameSegmentationCollator(processor=tiny_processor, labels=labels, prompt="compact")
    options = {"data_collator": wrapped(collator)[way], "processing_class": tiny_processor}
    with pytest.raises(ValueError, match="pass eval_data_collator=") as caught:
        make_trainer(rows, **options, eval_dataset=rows)
    assert "\n" not in str(caught.value)
    trainer = make_trainer(rows, **options)
    trainer.train()
    for evaluate in (trainer.evaluate, trainer.predict):
        with pytest.raises(ValueError, match="without random frames and digits"):
            evaluate(rows)
    trainer = make_trainer(rows, **options, eval_data_collator=collator.for_evaluation(), eval_dataset=rows)
    assert trainer.evaluate()["eval_loss"] > 0


class Shouting(FrameSegmentationCollator):
    """A subclass that is made in another way."""

    def __init__(self, processor: Any, mark: str) -> None:
        super().__init__(processor=processor, labels=BinaryLabels.from_tokenizer(processor.tokenizer), prompt="compact")
        self.mark = mark

    def __call__(self, rows: Rows) -> dict[str, torch.Tensor]:
        return super().__call__([{**row, "query": row["query"].upper() + self.mark} for row in rows])


def test_a_collator_subclass_with_other_arguments(make_trainer: Any, rows: Rows, tiny_processor: Any) -> None:
    collator = Shouting(tiny_processor, "!")
    trainer = make_trainer(rows, data_collator=collator, eval_dataset=rows)
    assert (trainer.eval_data_collator.train, collator.train, trainer.eval_data_collator.mark) == (False, True, "!")
    batch = next(iter(trainer.get_eval_dataloader()))
    assert "A RED !" in tiny_processor.tokenizer.decode(batch["input_ids"][0])
    trainer.train()
    assert collator._epoch.item() == 0  # set for training
    assert trainer.eval_data_collator._epoch.item() == -1


def test_rows_without_annotations_are_predicted(make_trainer: Any, rows: Rows) -> None:
    trainer = make_trainer(compute_metrics=MomentRetrievalMetrics(rows[:5]))
    expected = trainer.predict(rows[:5])
    bare = [{key: row[key] for key in row if "relevant" not in key and "saliency" not in key} for row in rows[:5]]
    output = trainer.predict(bare)
    assert output.label_ids is None
    assert not {"test_loss", "test_mAP"} & output.metrics.keys()
    assert output.predictions[2].tolist() == [1, 2, 3, 4, 5]
    assert np.array_equal(output.predictions[1], expected.predictions[1])
    assert "test_mAP" in expected.metrics
    with pytest.raises(ValueError, match=r"expected rows with the column\(s\) \['relevant_windows'\]"):
        trainer.evaluate(bare)
    trainer.eval_data_collator = replace(trainer.eval_data_collator, with_answer=False)
    for metrics in (trainer.compute_metrics, None):
        trainer.compute_metrics = metrics
        with pytest.raises(ValueError, match="evaluation needs rows with annotations .* use predict"):
            trainer.evaluate(bare)


class Counting(FrameSegmentationCollator):
    """Notes the keys of every batch that it makes."""

    keys: ClassVar[list[set[str]]] = []

    def __call__(self, rows: Rows) -> dict[str, torch.Tensor]:
        batch = super().__call__(rows)
        self.keys.append(set(batch["targets"]))
        return batch


ANSWER = {"labels", "answer_start"}


@pytest.mark.parametrize("graded", [False, True])
def test_what_is_decoded_only_is_batched_without_answers(
    graded: bool, make_trainer: Any, rows: Rows, tiny_processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[set[str]] = []
    monkeypatch.setattr(Counting, "keys", made)
    labels = BinaryLabels.from_tokenizer(tiny_processor.tokenizer)
    collator = Counting(processor=tiny_processor, labels=labels, prompt="compact", graded_targets=graded)
    options = {"data_collator": collator, "compute_metrics": MomentRetrievalMetrics(rows[:4])}
    whole, alone = (make_trainer(**options, evaluate_loss=asked) for asked in (True, False))
    both = whole.evaluate(rows[:4])
    (keys,) = made
    assert keys > ANSWER
    made.clear()
    scores, predicted = alone.evaluate(rows[:4]), whole.predict(rows[:4])
    assert len(made) == 2
    assert not any(keys & ANSWER for keys in made)
    assert not [name for name in (*scores, *predicted.metrics) if "loss" in name]
    for name in ("mAP", "R1@0.5", "HIT@1"):
        assert both[f"eval_{name}"] == scores[f"eval_{name}"] == predicted.metrics[f"test_{name}"]
    step = whole.prediction_step(whole.model, whole.eval_data_collator(rows[:4]), prediction_loss_only=False)
    assert np.array_equal(step[1][1].numpy(), predicted.predictions[1])  # the answers cut off, or never made
    assert np.array_equal(step[2].numpy(), predicted.label_ids)


def test_the_loss_is_computed_only_where_it_is_asked_for(
    make_trainer: Any, rows: Rows, tiny_processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    compute = SegmentationSeq2SeqTrainer.compute_loss

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(1)
        return compute(self, *args, **kwargs)

    monkeypatch.setattr(SegmentationSeq2SeqTrainer, "compute_loss", watched)
    labels = BinaryLabels.from_tokenizer(tiny_processor.tokenizer)
    plain = FrameSegmentationCollator(processor=tiny_processor, labels=labels, prompt="compact", train=False)
    for collator in (plain, plain.__call__):  # the second cannot leave answers out and has them cut off
        trainer = make_trainer(compute_metrics=MomentRetrievalMetrics(rows[:4]), eval_data_collator=collator)
        trainer.predict(rows[:4])
        assert asked == []
    trainer.evaluate(rows[:4])
    assert asked == [1]


@pytest.mark.parametrize("options", [{"predict_with_generate": False}, {"prediction_loss_only": True}])
def test_going_through_rows_for_nothing_is_refused(options: dict[str, bool], make_trainer: Any, rows: Rows) -> None:
    with pytest.raises(ValueError, match="predict decodes, and .*ask evaluate for the loss"):
        make_trainer(**options).predict(rows)
    with pytest.raises(ValueError, match="evaluate_loss=False decodes only, and .*leave one of them out"):
        make_trainer(**options, evaluate_loss=False)
    with pytest.raises(ValueError, match="leaves only scores to evaluate: pass compute_metrics"):
        make_trainer(evaluate_loss=False).evaluate(rows)


def test_rows_of_which_some_have_annotations(make_trainer: Any, rows: Rows) -> None:
    bare = {key: value for key, value in rows[1].items() if key != "relevant_windows"}
    targets = make_trainer(per_device_eval_batch_size=1).predict([rows[0], bare]).label_ids
    assert np.isnan(targets[1]).all()
    assert targets[0].tolist() == [1, 0, 0, 0, 0]


# 4. Which scores ------------------------------------------------------------------------------------------------------


def test_several_evaluation_sets_have_scores_of_their_own(make_trainer: Any, rows: Rows) -> None:
    sets = {"val": rows[:4], "test": [{**row, "relevant_windows": [[0.0, 10.0]]} for row in rows[:3]]}
    trainer = make_trainer(
        rows,
        eval_dataset=sets,
        compute_metrics=MomentRetrievalMetrics(sets["val"]),
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="val_loss_bce",
    )
    assert trainer.args.greater_is_better is False
    trainer.train()
    assert trainer.state.best_metric == pytest.approx(trainer.evaluate(sets["val"])["eval_loss_bce"], rel=1e-6)
    metrics = trainer.evaluate()
    for name, some in sets.items():
        alone = make_trainer(model=trainer.model, compute_metrics=MomentRetrievalMetrics(some)).evaluate(some)
        for score in ("mAP", "R1@0.5", "loss", "loss_bce"):
            assert metrics[f"eval_{name}_{score}"] == pytest.approx(alone[f"eval_{score}"], rel=1e-6)


class TrainingScores(TrainerCallback):
    """Score some of the training rows at the end of an epoch."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.trainer: Any = None
        self.found: list[dict[str, float]] = []

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.found.append(self.trainer.evaluate(self.rows, metric_key_prefix="train"))


def test_training_scores_in_a_callback_change_nothing(make_trainer: Any, rows: Rows) -> None:
    callback = TrainingScores(rows[2:5])
    options = {"compute_metrics": MomentRetrievalMetrics(rows[5:]), "max_steps": 4, "per_device_train_batch_size": 4}
    watched = make_trainer(rows, callbacks=[callback], **options)
    callback.trainer = watched
    watched.train()
    plain = make_trainer(rows, **options)
    plain.train()
    assert len(callback.found) == 2
    assert {"train_mAP", "train_R1@0.5", "train_loss", "train_loss_bce"} <= callback.found[0].keys()
    pairs = zip(watched.model.parameters(), plain.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    lines = [[line for line in t.state.log_history if "learning_rate" in line] for t in (watched, plain)]
    assert [line["loss_bce"] for line in lines[0]] == [line["loss_bce"] for line in lines[1]]


def test_a_part_of_a_split_is_scored_as_that_part(make_trainer: Any, rows: Rows) -> None:
    metrics = MomentRetrievalMetrics(rows)
    trainer = make_trainer(compute_metrics=metrics)
    output = trainer.predict(rows[:3])
    part = metrics.for_rows(rows[:3])
    found = part.predictions(*output.predictions)
    assert [prediction.qid for prediction in found] == [1, 2, 3]
    assert output.metrics["test_mAP"] == part.score(found)["brief"]["MR-full-mAP"]
    with pytest.raises(ValueError, match=r"got 3 for 3 queries; .*for a part of it, ask metrics\.for_rows\(rows\)"):
        metrics.predictions(*output.predictions)


def test_a_function_for_scores_gets_every_query_once(make_trainer: Any, rows: Rows) -> None:
    seen: list[EvalPrediction] = []

    def count(decoded: EvalPrediction) -> dict[str, float]:
        seen.append(decoded)
        return {"queries": float(len(decoded.predictions[2]))}

    trainer = make_trainer(compute_metrics=count, include_for_metrics=["inputs", "loss"])
    assert trainer.evaluate(rows[:7])["eval_queries"] == 7.0
    (decoded,) = seen
    assert decoded.predictions[2].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert decoded.label_ids.shape == (7, 5)
    assert (len(decoded.inputs), decoded.losses.shape) == (7, (7,))
    assert trainer.compute_metrics is count


def test_what_else_a_readout_gives_reaches_the_scores(
    make_trainer: Any, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_boxes(*args: Any, **options: Any) -> DecodedFrames:
        decoded = generate_frame_logits(*args, **options)
        boxes = decoded.frame_logits[..., :1] * torch.arange(4)  # tell rows apart
        return replace(decoded, further={"boxes": boxes, "length": decoded.mask.sum(1)})

    def first_side(decoded: EvalPrediction) -> dict[str, float]:
        mask, frame_logits, qids, further = decoded.predictions
        assert qids.tolist() == [1, 2, 3, 4, 5, 6, 7]
        assert np.array_equal(further["boxes"], frame_logits[..., :1] * np.arange(4, dtype=np.float32))
        assert np.array_equal(further["length"], mask.sum(1))
        return {"sides": float(further["boxes"].shape[-1])}

    monkeypatch.setitem(READOUTS, "boxes", with_boxes)
    trainer = make_trainer(compute_metrics=first_side, readout="boxes")
    assert trainer.evaluate(rows[:7])["eval_sides"] == 4.0
    assert sorted(trainer.predict(rows[:7]).predictions[3]) == ["boxes", "length"]
    trainer.compute_metrics = MomentRetrievalMetrics(rows[:7])  # looks at moments, whatever else there is
    assert "eval_mAP" in trainer.evaluate(rows[:7])


class Penalty(SegmentationSeq2SeqTrainer):
    """Adds to the joint loss."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        return (loss + 7, outputs) if return_outputs else loss + 7


class OnlyANumber(SegmentationSeq2SeqTrainer):
    """Has a loss of its own and forgets that outputs were asked for."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        return self.loss_parts(model, inputs)["bce"].mean()


def test_the_evaluation_loss_is_that_of_an_override(make_trainer: Any, rows: Rows) -> None:
    plain, penalty, number = (
        make_trainer(kind=kind).evaluate(rows[:7]) for kind in (SegmentationSeq2SeqTrainer, Penalty, OnlyANumber)
    )
    assert penalty["eval_loss"] == pytest.approx(plain["eval_loss"] + 7, rel=1e-6)
    assert penalty["eval_loss_bce"] == pytest.approx(plain["eval_loss_bce"], rel=1e-6)
    assert number["eval_loss"] == pytest.approx(plain["eval_loss_bce"], rel=1e-6)


# 5. Engines -----------------------------------------------------------------------------------------------------------


def test_evaluation_before_training_needs_no_engine_of_deepspeed(
    make_trainer: Any, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: Any, **kwargs: Any) -> None:
        raise ValueError("ZeRO inference only makes sense with ZeRO Stage 3 - please adjust your config")

    monkeypatch.setattr("transformers.trainer.deepspeed_init", refused)
    trainer = make_trainer(compute_metrics=MomentRetrievalMetrics(rows))
    expected = trainer.evaluate(rows)
    trainer.is_deepspeed_enabled = True  # DeepSpeed itself does not run on CPU
    monkeypatch.setattr(
        type(trainer.accelerator.state), "deepspeed_plugin", SimpleNamespace(zero_stage=2), raising=False
    )
    found = trainer.evaluate(rows)
    assert found["eval_mAP"] == expected["eval_mAP"]
    assert trainer.is_deepspeed_enabled  # for the training
    monkeypatch.setattr(
        type(trainer.accelerator.state), "deepspeed_plugin", SimpleNamespace(zero_stage=3), raising=False
    )
    with pytest.raises(ValueError, match="Stage 3"):
        trainer.evaluate(rows)


def test_a_compiled_model_computes_only_the_logits_of_the_answers(
    make_trainer: Any, rows: Rows, tiny_model: Any
) -> None:
    trainer = make_trainer(model=torch.compile(copy.deepcopy(tiny_model), backend="eager"))
    asked: list[Any] = []
    trainer.model._orig_mod.register_forward_pre_hook(
        lambda module, args, kwargs: asked.append(kwargs.get("logits_to_keep")), with_kwargs=True
    )
    trainer.loss_parts(trainer.model, trainer.eval_data_collator(rows[:2]))
    assert asked == [7]
