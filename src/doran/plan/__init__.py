"""What a run will cost, said before it starts: parameters, tokens, FLOPs, memory and seconds. Estimates; no torch.

hardware.py   what the machine can do, and how much of it small models reach
memory.py     bytes by part
time.py       FLOPs and seconds of training, scoring, prefill and decoding
stages.py     one stage's plan: pretrain, SFT, GRPO
table.py      plans as text
"""

from doran.plan.hardware import Efficiency, Hardware
from doran.plan.memory import Memory
from doran.plan.stages import Grpo, Pretrain, Sft, StagePlan, plan_grpo, plan_pretrain, plan_sft
from doran.plan.table import render

__all__ = [
    "Efficiency",
    "Grpo",
    "Hardware",
    "Memory",
    "Pretrain",
    "Sft",
    "StagePlan",
    "plan_grpo",
    "plan_pretrain",
    "plan_sft",
    "render",
]
