"""A model with more Chinese pieces in its vocabulary: chosen, written, checked and measured.

Text gets shorter in tokens, so training and answering get faster; what the new rows mean must still be learned.
Source of the method: Chinese-LLaMA (arXiv:2304.08177), with the faults that its users met mended (traps C).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hantune.errors import ConfigError
from hantune.log import console
from hantune.models.check import stored_dtype
from hantune.models.fingerprint import fingerprint
from hantune.models.folder import PAPERS, copy_beside, require_model
from hantune.models.hub import local_folder
from hantune.models.load import load_model
from hantune.models.locate import locate
from hantune.models.record import FILE, FORMAT, base_entry, read_record, template_entry, versions
from hantune.models.shards import tensor_places
from hantune.models.vocab.files import Vocabulary, open_model
from hantune.models.vocab.pieces import choose, with_ways
from hantune.models.vocab.proof import bits_per_character, pick_bits_texts, require_kept, tokens_per_character
from hantune.models.vocab.rows import Start, write_expanded
from hantune.models.vocab.text import Source, read_source, weighted_runs
from hantune.paths import new_folder, write_json

NUM_PIECES = 8000
SMALL_BYTES = 600_000_000
"""Weights up to this size are measured without being asked."""
SMALL_GAIN = 1.15
"""Fewer times less tokens than this are not worth untrained rows."""
CHECKED_TEXTS = 5000
"""Texts of each source that the new tokenizer is checked on, beside what was held out."""
EXAMPLES = 12


def expand_vocab(
    model: str | Path,
    out: Path,
    *,
    corpus: Sequence[str] = (),
    sp_model: Path | None = None,
    pieces: Path | None = None,
    num_pieces: int | None = None,
    start: Start = "mean",
    seed: int = 0,
    measure: bool | None = None,
) -> dict[str, Any]:
    """Write ``model`` with a larger vocabulary to ``out``; returns what was added, checked and gained.

    Pieces come from ``sp_model`` or ``pieces`` if given, else from ``corpus``; ``corpus`` is measured on in any case.
    ``measure``: bits per character before and after; None = only for a small model.

    Raises: ConfigError ``vocab.no-pieces``; DataError ``vocab.no-text``, ``source.*``; ModelError ``vocab.*``,
        ``model.*``; RunError ``run.exists``; MachineError ``machine.disk-full``.
    """
    folder = local_folder(model)
    require_model(folder)
    with new_folder(out) as temporary:
        old = Vocabulary(folder)
        sources = [read_source(given) for given in corpus]
        chosen, left_out = _choose(old, sources, sp_model, pieces, num_pieces)
        if not chosen:
            raise _no_pieces(corpus or [str(sp_model or pieces)])
        report: dict[str, Any] = {
            "model": str(model),
            "pieces": len(chosen),
            "first_id": old.num_ids,
            "left_out": dict(left_out),
            "start": start,
            "examples": _examples(chosen, old),
            "sources": [{"name": source.name, "characters": source.characters} for source in sources],
        }
        old.write(temporary, chosen)
        new = Vocabulary(temporary)
        held = [text for source in sources for text in source.held]
        seen = [text for source in sources for text in source.texts[:CHECKED_TEXTS]]
        report["kept"] = vars(require_kept(old, new, [*held, *seen], chosen))
        origins = [old.old_ids(piece) for piece in chosen]
        report |= write_expanded(folder, temporary, origins, old.num_ids, start=start, seed=seed)
        report["measured"] = [{"name": source.name, **_gain(old, new, source.held)} for source in sources]
        if held and (measure or (measure is None and report["bytes"] <= SMALL_BYTES)):
            report["bits_per_character"] = _bits(folder, temporary, held)
        _write_rest(folder, temporary, report)
    _warn(report)
    return report | {"folder": str(out), "fingerprint": fingerprint(out)}


def _choose(
    old: Vocabulary, sources: Sequence[Source], sp_model: Path | None, pieces: Path | None, limit: int | None
) -> tuple[list[str], Counter[str]]:
    """The pieces to add, best first, and why others of a list are not."""
    if sp_model or pieces:
        return with_ways(_listed(sp_model, pieces), old, limit)
    words = old.words(weighted_runs(sources)) if sources else ()
    return [piece.text for piece in choose(words, limit or NUM_PIECES, old=old)], Counter()


def _listed(sp_model: Path | None, pieces: Path | None) -> list[str]:
    """The pieces of a SentencePiece model, or of a text file with one a line, in their order.

    Raises: ModelError ``model.bad-tokenizer``; ConfigError ``vocab.no-pieces``.
    """
    path = sp_model or pieces
    assert path is not None
    if not path.is_file():
        raise ConfigError(
            "vocab.no-pieces", "没有这个词表文件", place=str(path), hint="写 .model 文件, 或者一行一个词的文本文件"
        )
    if sp_model:
        processor = open_model(path)
        texts = [processor.id_to_piece(number).strip("▁") for number in range(processor.get_piece_size())]
        return list(filter(None, texts))
    from hantune.data.encoding import open_text, sniff

    with open_text(path, sniff(path)) as file:
        return list(filter(None, map(str.strip, file)))


def _no_pieces(places: Sequence[str]) -> ConfigError:
    return ConfigError(
        "vocab.no-pieces",
        "没有可加的词: 要的是词表里还没有的中文词 (字母, 数字和空格不加), 每个至少能省 2 个词元",
        place="、".join(places),
        hint="给更多中文语料, 或者这个词表本来就够用, 不需要扩充",
    )


def _examples(chosen: Sequence[str], old: Vocabulary) -> list[str]:
    """Some of the best pieces of more than one character."""
    texts = (old.read(piece) for piece in chosen)
    return [text for text in texts if len(text) > 1][:EXAMPLES]


def _gain(old: Vocabulary, new: Vocabulary, texts: Sequence[str]) -> dict[str, float]:
    """Tokens a character before and after, and how many times fewer."""
    one, other = tokens_per_character(old, texts), tokens_per_character(new, texts)
    return {"tokens_per_character_before": round(one, 4), "tokens_per_character": round(other, 4),
            "fewer": round(one / other, 3) if other else 1.0, "characters": sum(map(len, texts))}  # fmt: skip


def _bits(before: Path, after: Path, texts: Sequence[str]) -> dict[str, float]:
    """Bits a character of the old and of the new model, before anything is trained."""
    sample = pick_bits_texts(texts)
    found = {}
    for name, folder in (("before", before), ("after", after)):
        dtype = getattr(torch, stored_dtype({name: spec for name, (_, spec) in tensor_places(folder).items()}))
        found[name] = round(bits_per_character(load_model(folder, dtype=dtype), folder, sample), 4)
    return found | {"characters": sum(map(len, sample))}


def _write_rest(source: Path, out: Path, report: dict[str, Any]) -> None:
    """Generation settings, licence, record and card."""
    copy_beside(source, out, ("generation_config.json", *PAPERS))
    record = read_record(source) or {"template": template_entry(locate(source).template)}
    entry = {key: value for key, value in report.items() if key != "model"}
    record |= {
        "format": FORMAT, "versions": versions(), "vocab": entry, "base": base_entry(str(source), out) | {"hint": None},
    }  # fmt: skip
    write_json(out / FILE, record)
    (out / "README.md").write_text(card(report, record["base"]), encoding="utf-8")


def card(report: dict[str, Any], base: dict[str, Any]) -> str:
    """The model's README: what it is, the figures, and that its new rows are not taught yet."""
    lines = [
        f"# {base['name']} + {report['pieces']} 个中文词",
        "",
        f"由 `hantune model expand-vocab` 从 {base['id'] or base['name']} 扩充词表得来. "
        f"新词的编号是 {report['first_id']} 到 {report['first_id'] + report['pieces'] - 1}, "
        f"词表共 {report['rows']} 行.",
        "",
        "**新词还没有学过**: 先用 `hantune train` 训练 (自动连新词一起学), 再使用.",
        "",
    ]
    if report["measured"]:
        lines += ["| 语料 | 以前每字词元 | 现在 | 少到几分之一 |", "|---|---|---|---|"]
        lines += [
            f"| {row['name']} | {row['tokens_per_character_before']:.3f} | "
            f"{row['tokens_per_character']:.3f} | 1/{row['fewer']:.2f} |"
            for row in report["measured"]
        ]
    return "\n".join(lines) + "\n"


def _warn(report: dict[str, Any]) -> None:
    """What a careful friend would say about the result."""
    small = [row for row in report["measured"] if row["fewer"] < SMALL_GAIN]
    for row in small:
        console.warn(f"{row['name']}: 词元只少到 1/{row['fewer']:.2f}, 收益太小: 不如不扩充, 直接训练原来的模型")
    if report["kept"]["unreachable"]:
        console.warn(f"{report['kept']['unreachable']} 个新词永远编不出来 (旧词先占了它们的字), 白占了行")
    if not report["measured"]:
        console.warn("没有给 --corpus, 所以没有量过这些词在你的数据上省多少")
