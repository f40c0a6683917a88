"""TRL's side of ``test_trl.py``; runs in an environment of its own and imports nothing of ours.

    python trl_side.py JOB.json OUT.json

A job names a model folder, an mlx-lm adapter folder, pairs, the token that ends a turn, and for
each step options of ``DPOConfig``; a step is taken at a rate of 0 and without clipping, on answers
that are cut behind the end of turn. Out come uncut token ids, what TRL logs of each step, and the
gradient of every LoRA factor (``OUT.json.N.safetensors``).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer

SIDES = ("chosen_ids", "rejected_ids")
FACTORS = {"lora_a": "lora_A", "lora_b": "lora_B"}


class Keep(TrainerCallback):  # type: ignore[misc]
    """The gradient as the optimizer would get it."""

    def __init__(self) -> None:
        self.grads: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, *args: Any, model: Any = None, **named: Any) -> None:
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                self.grads[name] = weight.grad.clone()


def theirs(name: str) -> str:
    """peft's name of one of mlx-lm's arrays, whose transpose it is."""
    layer, _, factor = name.rpartition(".")
    return f"base_model.model.{layer}.{FACTORS[factor]}.default.weight"


def put(model: PeftModel, arrays: dict[str, torch.Tensor]) -> None:
    """Give peft's adapter the numbers of mlx-lm's; each must find its place."""
    places = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert set(places) == {theirs(name) for name in arrays}
    with torch.no_grad():
        for name, array in arrays.items():
            places[theirs(name)].copy_(array.T)


def made(job: dict[str, Any], arrays: dict[str, torch.Tensor], options: dict[str, Any]) -> Any:
    """A trainer whose reference is the base: peft's adapter is new, and filled in afterwards."""
    told = json.loads((Path(job["adapter"]) / "adapter_config.json").read_text())
    lora = told["lora_parameters"]
    config = LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["scale"] * lora["rank"],
        lora_dropout=0.0,
        target_modules=sorted({key.rpartition(".")[2] for key in lora["keys"]}),
        task_type="CAUSAL_LM",
    )
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32),
        args=DPOConfig(
            output_dir=job["scratch"],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            learning_rate=0.0,
            max_grad_norm=0.0,
            max_steps=1,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **options,
        ),
        train_dataset=Dataset.from_list(job["pairs"]),
        processing_class=AutoTokenizer.from_pretrained(job["model"]),
        peft_config=config,
        callbacks=[Keep()],
    )
    put(trainer.model, arrays)
    return trainer


def main(job_path: str, out_path: str) -> None:
    job = json.loads(Path(job_path).read_text())
    arrays = load_file(Path(job["adapter"]) / "adapters.safetensors")
    end = job["end"]

    def cut(row: dict[str, Any]) -> dict[str, Any]:
        return {side: row[side][: row[side].index(end) + 1] for side in SIDES}

    steps = []
    for number, options in enumerate(job["steps"]):
        trainer = made(job, arrays, options)
        told = [{key: row[key] for key in ("prompt_ids", *SIDES)} for row in trainer.train_dataset]
        trainer.train_dataset = trainer.train_dataset.map(cut)
        (keep,) = (c for c in trainer.callback_handler.callbacks if isinstance(c, Keep))
        trainer.train()
        found = {name: keep.grads[theirs(name)].T.contiguous() for name in arrays}
        save_file(found, f"{out_path}.{number}.safetensors")
        steps.append({"ids": told, "logged": trainer.state.log_history[0]})
    Path(out_path).write_text(json.dumps(steps))


if __name__ == "__main__":
    main(*sys.argv[1:])
