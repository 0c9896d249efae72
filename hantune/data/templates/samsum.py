"""samsum: ``Summarize this dialog:\\n{dialogue}\\n---\\nSummary:\\n{summary}`` + EOS.

Source: ``samsum_dataset.py`` of meta-llama/llama-recipes.
"""

from __future__ import annotations

from hantune.data.templates.blocks import Blocks

SAMSUM = Blocks(name="samsum", before="Summarize this dialog:\n", after="\n---\nSummary:\n", between="\n")
