"""Two medical formats: ``huatuo-med`` (### 问题, ### 回答) and ``huatuo-qa`` (Question, a blank before Answer).

Source: SCIR-HI/Huatuo-Llama-Med-Chinese (``templates/med_template.json``) and the llama-recipes kit's ``qa_huatuo.py``.
"""

from __future__ import annotations

from hantune.data.templates.blocks import Blocks

HUATUO_MED = Blocks(
    name="huatuo-med",
    opening="下面是一个问题，运用医学知识来正确回答提问.",
    gap="\n",
    before="### 问题:\n",
    after="\n### 回答:\n",
    between="\n",
    stop="### 问题:",
)
HUATUO_QA = Blocks(name="huatuo-qa", before="Question:\n", after="\n---\n Answer:\n", between="\n")
