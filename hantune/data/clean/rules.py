"""The cleaning rules by name, in the order in which they work: first those that change a text, then those that drop a
conversation.

A rule that changes is ``fix(text) -> text``; one that drops is ``judge(conversation) -> why or None``. A new one is a
function here, a line in its table, its words in ``docs/reference/cleaning.md`` and an example in the tests.
"""

from __future__ import annotations

import functools
import html as entities
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from hantune.data.clean.screen import Hint, characters, fewer, longer, repeated, without
from hantune.data.language import HAN
from hantune.data.types import Conversation
from hantune.errors import MachineError

INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ue000-\uf8ff\ufeff]"
)
LINE_ENDS = re.compile("[\u2028\u2029\u0085]")
WIDE = {code: code - 0xFEE0 for first, last in ("０９", "ＡＺ", "ａｚ") for code in range(ord(first), ord(last) + 1)}
WIDE_LETTER = re.compile("[０-９Ａ-Ｚａ-ｚ]")
TAG = re.compile(r"(?i)</?(?:p|div|span|b|i|u|strong|em|font|a|img|center|h[1-6])(?: [^<>]{0,300}=[^<>]{0,300})?/?>")
BREAK = re.compile(r"<br ?/?>", re.IGNORECASE)
ENTITY = re.compile(r"&(?:nbsp|amp|lt|gt|quot|apos|ldquo|rdquo|hellip|mdash|middot|#\d{1,6}|#x[0-9a-fA-F]{1,6});")
EMOJI = re.compile(
    "[\U0001f000-\U0001faff\U0001fc00-\U0001ffff\u2600-\u26ff\u2700-\u27bf\u2b50\u2b55\ufe0f\u200d\u20e3\U000e0020-\U000e007f]+"
    r"|\[(?:[\u4e00-\u9fff]{1,4}|doge|OK|NO|good|vs|话筒|表情)\]"
)
MENTION = re.compile(r"(?:回复 ?)?(?://)?(?<![0-9A-Za-z._%+-])@[\w\u4e00-\u9fff-]{1,30}(?:[::]|(?=[\s,。!?,;!?;]|$)) ?")
FORWARD = re.compile(r"^转发微博[。.]?$|\(分享自 ?@?[^()]{1,30}\)|(分享自 ?@?[^()]{1,30})")
URL = re.compile(r"(?i)(?:https?://|www\.)[0-9a-z\-._~:/?#\[\]@!$&'()*+,;=%]+|(?<![0-9a-z])t\.cn/[0-9a-z]+")
RUN = re.compile(r"([\u3000-\u303f\u4e00-\u9fff\uff01-\uff0f\uff1a-\uff20!?~…\U0001f300-\U0001faff])\1{3,}")
PHRASE = re.compile(r"([\u4e00-\u9fff,。!?]{2,8}?)\1{3,}")
BLANK = re.compile(r"\s")
HAN_GAP = re.compile(
    r"(?<=[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef])[ \t\u00a0\u3000]+(?=[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef])"
)
BLANKS = re.compile(r"(?<=\S)[ \t\u00a0\u3000]{2,}(?=\S)")
LINE_BLANKS = re.compile(r"[ \t\u00a0\u3000]+(?=\n|$)")
EMPTY_LINES = re.compile(r"\n{3,}")
LETTER, ALNUM = re.compile(r"[^\W\d_]"), re.compile(r"[^\W_]")
CONTROL_WORDS = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>", "[INST]", "[/INST]", "<<SYS>>",
    "### Instruction:", "### Response:", "<|user|>", "<|assistant|>", "{{input}}", "{instruction}", "\nHuman:",
    "\nAssistant:", "</s>",
)  # fmt: skip
CONTACT = re.compile(
    r"(?:加|\+|➕)[我vV薇微]?.{0,6}(?:微信|薇信|QQ|qq|vx|VX|群|<微信\d+>|<QQ\d+>)|(?:私聊|私信|咨询|扫码|点击链接|点击下方)"
)
OFFERS = (
    "兼职", "日结", "刷单", "代理", "招商", "加盟", "优惠券", "领券", "低价", "秒杀", "折扣", "代购", "贷款", "包邮",
    "返现", "返利", "彩票", "中奖", "赚钱", "日赚", "月入", "免费领", "引流", "推广",
)  # fmt: skip
OFFER = re.compile("|".join(OFFERS))
NGRAM, LOOPING, LONG_ENOUGH = 4, 0.6, 60
MOST_CHARACTERS = 50_000
CHINESE_SHARE = 0.3


def control(text: str) -> str:
    """No control, invisible or private-use characters; every line end is ``\\n``."""
    return INVISIBLE.sub("", LINE_ENDS.sub("\n", text))


def width(text: str) -> str:
    """Full-width letters and digits as ASCII; Chinese punctuation stays as it is."""
    return text.translate(WIDE) if WIDE_LETTER.search(text) else text


@functools.cache
def _converter() -> Any:
    try:
        from opencc import OpenCC
    except ImportError:
        raise MachineError(
            "clean.no-opencc",
            "繁体转简体要用 opencc, 这里没有装",
            place="--clean simplified",
            hint='.venv/bin/python -m pip install -e ".[zh]" -c constraints.txt',
        ) from None
    return OpenCC("t2s")


def simplified(text: str) -> str:
    """Traditional characters as simplified ones.

    Raises: MachineError ``clean.no-opencc``.
    """
    return str(_converter().convert(text)) if HAN.search(text) else text


def markup(text: str) -> str:
    """No HTML tags and entities; text with a code block stays as it is."""
    if "```" in text:
        return text
    text = TAG.sub("", BREAK.sub("\n", text)) if "<" in text else text
    return ENTITY.sub(lambda match: entities.unescape(match[0]).replace("\u00a0", " "), text) if "&" in text else text


def emoji(text: str) -> str:
    """No emoji and no ``[微笑]``."""
    return EMOJI.sub("", text)


def mention(text: str) -> str:
    """No ``@name``, ``回复@name:`` and forwarding marks of microblogs."""
    text = MENTION.sub("", text) if "@" in text else text
    return FORWARD.sub("", text) if "转发" in text or "分享" in text else text


def url(text: str) -> str:
    """No web addresses."""
    return URL.sub("", text) if "://" in text or "." in text else text


def repeat(text: str) -> str:
    """A character that is said more than three times in a row is said three times; a phrase once."""
    if len(text) - len(set(text)) < 3:  # too few characters occur again
        return text
    return PHRASE.sub(r"\1", RUN.sub(r"\1\1\1", text))


def spaces(text: str) -> str:
    """No blanks between Han characters and at line ends, one elsewhere; at most one empty line; code stays."""
    if not BLANK.search(text) or "```" in text or "\n    " in text or "\t" in text:
        return text
    text = BLANKS.sub(" ", HAN_GAP.sub("", LINE_BLANKS.sub("", text)))
    return EMPTY_LINES.sub("\n\n", text).strip()


def length(conversation: Conversation) -> str | None:
    """A message without a letter or digit, or a conversation too long to be one."""
    if sum(len(message.text) for message in conversation.messages) > MOST_CHARACTERS:
        return f"太长 (超过 {MOST_CHARACTERS} 个字)"
    for message in conversation.messages:
        if message.role != "system" and not ALNUM.search(message.text):
            return f"有一句只有标点或符号: {message.text[:20]}"
    return None


def looping(conversation: Conversation) -> str | None:
    """An answer that says the same over and over."""
    for message in conversation.messages:
        text = message.text
        if message.role != "assistant" or len(text) < LONG_ENOUGH:
            continue
        counts = Counter(text[at : at + NGRAM] for at in range(len(text) - NGRAM + 1))
        again = sum(count for count in counts.values() if count > 2) / sum(counts.values())
        if again > LOOPING:
            return f"回答翻来覆去: {again:.0%} 的片段重复两次以上"
    return None


def chinese(conversation: Conversation) -> str | None:
    """A conversation in another language."""
    text = "".join(message.text for message in conversation.messages if message.role != "system")
    letters = len(LETTER.findall(text))
    share = len(HAN.findall(text)) / letters if letters else 1.0
    return f"汉字只占 {share:.0%}" if share < CHINESE_SHARE else None


def template(conversation: Conversation) -> str | None:
    """Control words of a prompt template inside the text: they would end or start a turn."""
    for message in conversation.messages:
        for word in CONTROL_WORDS:
            if word in message.text:
                return f"文字里有模板的控制符 {word.strip()}"
    return None


def ads(conversation: Conversation) -> str | None:
    """An advertisement: an offer and a way to get in touch in one message."""
    for message in conversation.messages:
        offer = OFFER.search(message.text)
        contact = CONTACT.search(message.text) if offer else None
        if offer and contact:
            return f"像广告: {offer[0]} + {contact[0]}"
    return None


class Fix(NamedTuple):
    """A rule that changes texts."""

    words: str
    fix: Callable[[str], str]
    hint: Callable[[], Hint]
    """Without this in a text the rule leaves it as it is."""


class Filter(NamedTuple):
    """A rule that drops conversations."""

    words: str
    judge: Callable[[Conversation], str | None]
    hint: Callable[[], Hint]
    """Without this in any of its texts a conversation of at most ``MOST_CHARACTERS`` stays."""


FIXES = {
    "control": Fix("去掉控制字符, 零宽字符", control, lambda: characters(INVISIBLE, LINE_ENDS)),
    "width": Fix("全角字母和数字改成半角", width, lambda: characters(WIDE_LETTER)),
    "simplified": Fix("繁体改成简体 (要装 opencc)", simplified, lambda: longer(1)),
    "markup": Fix("去掉网页标签, 还原 &nbsp; 等", markup, lambda: ("<", "&")),
    "mention": Fix("去掉 @某人, 回复@某人:, 转发微博", mention, lambda: ("@", "转发", "分享")),
    "url": Fix("去掉网址", url, lambda: ("://", "ww", "wW", "Ww", "WW", ".c", ".C")),
    "emoji": Fix("去掉表情符号和 [微笑]", emoji, lambda: (*characters(EMOJI), "[")),
    "repeat": Fix("重复的字留三个, 重复的短语留一个", repeat, lambda: repeated(8, 4)),
    "spaces": Fix("去掉汉字之间和行尾的空格, 多余的空行", spaces, lambda: characters(BLANK)),
}
FILTERS = {
    "length": Filter("只有标点, 或者长过 5 万字", length, lambda: without(ALNUM)),
    "looping": Filter("回答翻来覆去", looping, lambda: longer(LONG_ENOUGH)),
    "chinese": Filter("不是中文", chinese, lambda: fewer(HAN, CHINESE_SHARE, LETTER)),
    "template": Filter("文字里有模板的控制符", template, lambda: CONTROL_WORDS),
    "ads": Filter("像广告", ads, lambda: OFFERS),
}
NAMES = (*FIXES, *FILTERS)
DEFAULT = ("control", "width", "markup", "mention", "url", "repeat", "spaces", "length", "looping", "template", "ads")
"""What ``--clean default`` means: nothing that depends on taste or language."""
