"""Small files that ship with hantune, so that ``hantune demo`` needs no download.

The dialogues, the persona and the comparison questions were written for this project and are under
its MIT licence. The tokenizer is learnt from them by ``tools/make_tokenizer.py``.
"""

from pathlib import Path

ASSETS: Path = Path(__file__).resolve().parent


def dialogues_path() -> Path:
    """Everyday Chinese dialogues for a tiny base model, one ``{"messages": [...]}`` a line."""
    return ASSETS / "dialogues.jsonl"


def persona_path() -> Path:
    """Dialogues in the same format that teach the persona 小调."""
    return ASSETS / "persona.jsonl"


def persona_questions_path() -> Path:
    """Questions for the before/after comparison, one ``{"prompt": ..., "taught": ...}`` a line."""
    return ASSETS / "persona_questions.jsonl"


def tokenizer_path() -> Path:
    """The folder of the tokenizer, for ``AutoTokenizer.from_pretrained``."""
    return ASSETS / "tokenizer"
