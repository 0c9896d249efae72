"""BELLE: ``Human: {question}\\n\\nAssistant: {answer}`` + EOS; the second generation breaks the line after each colon.

Source: ``train/src`` of LianjiaTech/BELLE. BOS once where the tokenizer adds one (Llama), none with BLOOM.
"""

from __future__ import annotations

from hantune.data.templates.blocks import Blocks

BELLE = Blocks(name="belle", before="Human: ", after="\n\nAssistant: ", stop="Human:")
BELLE_V2 = Blocks(name="belle-v2", before="Human: \n", after="\n\nAssistant: \n", stop="Human:")
