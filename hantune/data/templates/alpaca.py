"""Alpaca and its two variants, which differ in what follows ``### Response:``.

Source: tatsu-lab/stanford_alpaca, tloen/alpaca-lora (``templates/alpaca.json``, ``alpaca_legacy.json``). Data with an
``input`` column joins it to the instruction by a newline; a question that already holds ``\\n\\n### Input:\\n`` gets
the original opening for paired inputs.
"""

from __future__ import annotations

from dataclasses import replace

from hantune.data.templates.blocks import Blocks

_TASK = "Below is an instruction that describes a task{}. Write a response that appropriately completes the request."

ALPACA = Blocks(
    name="alpaca",
    opening=_TASK.format(""),
    opening_paired=_TASK.format(", paired with an input that provides further context"),
    before="### Instruction:\n",
    after="\n\n### Response:\n",
    between="\n\n",
    stop="### Instruction:",
)
ALPACA_LEGACY = replace(ALPACA, name="alpaca-legacy", after="\n\n### Response:")
ALPACA_SPACE = replace(ALPACA, name="alpaca-space", after="\n\n### Response: ")
