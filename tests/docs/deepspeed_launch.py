"""`accelerate launch` up to the engine: DeepSpeed is not started.

accelerate's own parser takes the options and makes the environment of the processes; in it the options of the script
are parsed as the script does. What came out is printed as one JSON object.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path

from accelerate.commands import launch
from accelerate.utils import DeepSpeedPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env
from transformers import training_args


def describe(given: argparse.Namespace) -> None:
    """Print what accelerate would start, in the place of starting it."""
    _, environment = prepare_deepspeed_cmd_env(given)
    os.environ.update(environment)
    training_args.is_torch_bf16_gpu_available = lambda: True  # of the GPUs that are not here
    DeepSpeedPlugin.set_deepspeed_weakref = lambda self: None  # nor is DeepSpeed, which it asks for
    spec = importlib.util.spec_from_file_location("run_qvh", given.training_script)
    script = sys.modules["run_qvh"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    training = script.parse(given.training_script_args)[-1]
    found = {
        "processes": given.num_processes,
        "batch": training.per_device_train_batch_size,
        "accumulation": training.gradient_accumulation_steps,
        "engine_accumulation": int(os.environ["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"]),
        "zero_stage": int(os.environ["ACCELERATE_DEEPSPEED_ZERO_STAGE"]),
        "offload": os.environ["ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE"],
        "precision": os.environ["ACCELERATE_MIXED_PRECISION"],
        "script": Path(given.training_script).name,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    launch.deepspeed_launcher = describe
    launch.launch_command(launch.launch_command_parser().parse_args(sys.argv[2:]))  # the first word is `launch`
