"""Private values in Chinese text: where they stand, of which kind they are.

Numbers stand glued to Han characters (``卡号4111111111111111请查收``), so ``\\b`` finds no boundary there: every
pattern looks around for ASCII letters and digits instead, and what has a check digit is checked. What a number is
called beside it decides where its digits cannot (order numbers, QQ ids). Positions are those of the given text,
though full-width digits, invisible characters and odd dashes are read as what they stand for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from hantune.data.clean.private_values import (
    has_birthday,
    is_address,
    is_bank_card,
    is_credit_code,
    is_id_card,
    is_mail,
)

NAME = "人"
"""The kind of the people of a chat log."""


class Found(NamedTuple):
    """A private value: ``text[start:end]``, its kind, and itself in one writing, whatever way it was written."""

    start: int
    end: int
    kind: str
    value: str


class Match(NamedTuple):
    """What a rule judges: the value as matched, in the folded text."""

    text: str
    start: int
    end: int

    @property
    def value(self) -> str:
        return self.text[self.start : self.end]

    @property
    def digits(self) -> str:
        return re.sub("[ .()-]", "", self.value)

    @property
    def is_counted(self) -> bool:
        """Whether the words beside it make it an order number, a price, a count."""
        before, after = self.text[max(0, self.start - 12) : self.start], self.text[self.end : self.end + 3]
        return bool(OTHER_NUMBER.search(before) or AMOUNT.match(after))


class Rule(NamedTuple):
    """One way in which a kind is written; the value is the group ``v``, or all of it."""

    kind: str
    pattern: re.Pattern[str]
    accepts: Callable[[Match], bool]
    holds: str = ""
    """What every match holds: texts without it need not be searched."""


OTHER_NUMBER = re.compile(
    r"(?:单号|订单|运单|流水|编号|货号|序列|型号|版本|批号|工单|发票|案号|学号|工号|条码|商品|积分|余额|金额|价格|总价|步数|"
    r"阅读|播放|下载量|第|约|共|[¥￥$#]|(?<![A-Za-z])(?i:isbn|id|uid|no|v))[号码编是为:. ]{0,4}$"
)
AMOUNT = re.compile(r" ?(?:元|块|万|亿|美元|人民币|次|人|步|米|公里|个|条|位|粉|字|毫秒|秒|吨|分(?!机)|年|%|倍|名|件)")
LEFT, RIGHT = r"(?<![0-9A-Za-z_])(?<![0-9][.\-])", r"(?![0-9A-Za-z_])(?![.\-][0-9])"
PHONE_LEFT = rf"(?:(?<=tel)|(?<=Tel)|(?<=TEL)|(?<=phone)|(?<=vx)|(?<=VX)|(?<=wx)|(?<=WX)|(?<=qq)|(?<=QQ)|{LEFT})"
PHONE_RIGHT = rf"(?:(?=(?i:wx|vx|qq|tel)(?![0-9A-Za-z]))|{RIGHT})"
HAN_DIGIT = "[零〇一二三四五六七八九幺]"
LINK = r"(?:[号码群是为:= ]|就是|联系|加我?|搜|我的?|[换改]成?了?){0,6}"
"""What may stand between the name of a number and the number."""
PROGRAMS = re.compile(
    "(?i)android|windows|iphone|ios|mac|pay|api|sdk|python|java|wechat|weixin|harmony|linux|chrome|google|openai|chatgpt"
)
WORDS = re.compile(
    "(?i)(?:online|offline|login|logout|reading|version|update|upgrade|moment|status|sticker|program|group|channel|official|"
    "account|business|client|desktop|backup|download|install|browser|message|facebook|whatsapp|telegram|twitter|"
    "instagram|number|server|please|thanks|birthday|emoji|plugin|bottom|button|crash|error|friend|family)(?:s|ing|ed)?"
)
"""What people say of WeChat and is no id."""
PLATES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
NO_URL = r"\s\u3000-\u9fff\uff00-\uffef"
PLATE_LETTER = "[A-HJ-NP-Za-hj-np-z]"
AREA = "(?:10|2[0-57-9]|[3-9][0-9]{2})"
SUBSCRIBER = "[2-8](?:[0-9]{6,7}|[0-9]{2,3}[ -][0-9]{4}|[0-9]{3}[ -][0-9]{3})"
EXTENSION = "(?:(?:-| ?转(?:分机)?| ?分机)[: ]?[0-9]{1,6})?"
STREET = "(?:大街|(?:大道|路)(?:[东南西北中]段)?|胡同|[街道巷弄])"


def _any(match: Match) -> bool:
    return True


def _uncounted(match: Match) -> bool:
    return not match.is_counted


def _is_named_id(match: Match) -> bool:
    """A number called an id card: its check digit may be mistyped, its date not."""
    digits = match.digits
    return has_birthday(digits) if len(digits) == 18 else has_birthday(f"{digits[:6]}19{digits[6:]}000")


def _is_card(match: Match) -> bool:
    """A card number that is no order number and no mistyped id card."""
    is_id = len(match.digits) == 18 and has_birthday(match.digits)
    return is_bank_card(match.digits) and not match.is_counted and not is_id


def _is_wechat(match: Match) -> bool:
    """A WeChat id by its name: no word that stands beside it in talk of the program (``微信Windows版``); glued to
    letters (``vxabc123``) only what is no word at all."""
    is_glued = match.text[match.start - 1].isascii() and match.text[match.start - 1].isalpha()
    if re.search("[0-9_-]", match.value):
        return not PROGRAMS.match(match.value)
    return not is_glued and not PROGRAMS.match(match.value) and not WORDS.fullmatch(match.value)


def _is_secret(match: Match) -> bool:
    """A value assigned to a name like ``api_key`` that no word looks like."""
    return bool(re.search("[0-9]", match.value) and re.search("[A-Za-z]", match.value))


def _is_password(match: Match) -> bool:
    """A password; after a mere blank only what is no word."""
    is_told = match.text[match.start - 1] != " " or match.text[match.start - 2] in ":=是为"
    is_word = match.value.isalpha() or match.value.lower() == "your_password"
    return not is_word and (is_told or _is_secret(match))


def _is_sent(match: Match) -> bool:
    """A code that was sent to somebody, no code of an error or place."""
    before = match.text[max(0, match.start - 24) : match.start].lower().rpartition("code")[0]
    return not re.search(r"(?:[a-z_]|(?:error|status|zip|area|exit|postal|country) ?)$", before)


def _is_ip(match: Match) -> bool:
    before = match.text[max(0, match.start - 8) : match.start]
    is_numbering = all(len(part) == 1 for part in match.value.split(".")) and ":" not in match.value
    return (
        not is_numbering
        and is_address(match.value)
        and not re.search(r"(?:版本|[章节第版]|(?i:ver(?:sion)?|v))[号是为:. ]{0,3}$", before)
    )


def _is_plate(match: Match) -> bool:
    return len(re.findall("[0-9]", match.value)) >= 3 and not match.is_counted


def _rule(kind: str, pattern: str, accepts: Callable[[Match], bool] = _any, *, holds: str = "") -> Rule:
    return Rule(kind, re.compile(pattern, re.ASCII), accepts, holds)


CODE = "(?:验证码|校验码|动态码|动态密码|短信码|(?i:verification code|otp))"
RULES = (
    _rule("密钥", r"-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]+(?:-----END [A-Z ]*PRIVATE KEY-----)?", holds="-----"),
    _rule(
        "密钥",
        r"(?<![0-9A-Za-z_])(?:sk-[0-9A-Za-z_-]{20,}|AKIA[0-9A-Z]{16}|gh[pousr]_[0-9A-Za-z]{30,}|github_pat_\w{22,}|"
        r"hf_[0-9A-Za-z]{30,}|glpat-[\w-]{20,}|xox[baprs]-[0-9A-Za-z-]{10,}|LTAI[0-9A-Za-z]{12,20}|"
        r"AKID[0-9A-Za-z]{32}|AIza[0-9A-Za-z_-]{35}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,})(?![0-9A-Za-z])",
    ),
    _rule(
        "网址",
        rf"(?i)https?://(?:[^/@:{NO_URL}]+:[^/@{NO_URL}]+@[^{NO_URL}]+|[^?#{NO_URL}]*[?#](?:[^{NO_URL}]*&)?[\w-]*"
        r"(?:token|key|secret|sign|signature|sig|auth|password|pwd|ticket|session|sid|jwt|credential)"
        rf"=[^&,;{NO_URL}]{{4,}}[^{NO_URL}]*)",
    ),
    _rule(
        "密钥",
        r"(?i)(?:api[_-]?key|app[_-]?secret|secret[_-]?key|access[_-]?key|access[_-]?token|(?<![a-z])token|密钥)"
        r"[\"']?\s*[:=是]\s*[\"']?(?P<v>[0-9A-Za-z_\-]{16,})",
        _is_secret,
    ),
    _rule("密钥", r"(?<!动态)(?:密码|口令)(?:[:=]|是|为| ) ?(?P<v>[!#-+\--:<-~]{4,32})", _is_password),
    _rule(
        "邮箱",
        r"(?<![0-9A-Za-z._%+-])[0-9A-Za-z][0-9A-Za-z._%+-]{0,63}@(?:[0-9A-Za-z](?:[0-9A-Za-z-]{0,61}[0-9A-Za-z])?\.)"
        r"{1,5}[A-Za-z]{2,24}(?![0-9A-Za-z-])",
        lambda match: is_mail(match.value) and not match.value.startswith("git@"),
        holds="@",
    ),
    _rule(
        "身份证",
        LEFT + r"[1-8][0-9]{5}[ -]?(?:18|19|20)[0-9]{2}[ -]?[0-9]{4}[ -]?[0-9]{3}[0-9Xx]" + RIGHT,
        lambda match: is_id_card(match.digits),
    ),
    _rule(
        "身份证",
        rf"(?:身份证|证件){LINK}(?P<v>[1-8][0-9]{{5}} ?[0-9]{{8}} ?[0-9]{{3}}[0-9Xx]|[1-8][0-9]{{14}})" + RIGHT,
        _is_named_id,
    ),
    _rule(
        "信用代码",
        LEFT + r"[159Y][1239][0-9]{6}[0-9A-HJ-NPQRTUWXY]{10}" + RIGHT,
        lambda match: is_credit_code(match.value),
    ),
    _rule(
        "银行卡",
        LEFT
        + r"(?:[3-6][0-9]{3}(?:(?P<s>[ -])[0-9]{4}(?P=s)[0-9]{4}(?P=s)[0-9]{1,7}(?:(?P=s)[0-9]{1,3})?|[0-9]{11,15})"
        r"|3[47][0-9]{2}[ -][0-9]{6}[ -][0-9]{5}|62[0-9]{4}[ -][0-9]{10,13})" + RIGHT,
        _is_card,
    ),
    _rule(
        "银行卡",
        rf"(?:卡号|账号|账户|[\u4e00-\u9fff]行卡?|信用卡|储蓄卡){LINK}"
        r"(?P<v>[0-9]{4}(?:[ -]?[0-9]{4}){2,3}[0-9 -]{0,4}[0-9])" + RIGHT,
    ),
    _rule(
        "手机",
        "(?=[(+018])"
        + PHONE_LEFT
        + r"(?:\(?(?:\+|00)?86\)?[ -]?)?(?:1[3-9][0-9](?:(?P<s>[ .-])[0-9]{4}(?P=s)[0-9]{4}|[ -]?[0-9]{8}|"
        r"[0-9]{4}[ -][0-9]{4})|"
        r"1[3-9][0-9]{2}(?P<t>[ -])[0-9]{3}(?P=t)[0-9]{4}|1 [3-9](?: [0-9]){9})" + PHONE_RIGHT,
        _uncounted,
    ),
    _rule("手机", rf"(?<!{HAN_DIGIT}{HAN_DIGIT})[一幺][三四五六七八九]{HAN_DIGIT}{{9}}(?!{HAN_DIGIT})"),
    _rule(
        "座机",
        rf"{LEFT}(?:\(0{AREA}\) ?|0{AREA}[ -]?|(?:\+|00)86[ -]?\(?0?{AREA}\)?[ -]?){SUBSCRIBER}{EXTENSION}{RIGHT}",
        _uncounted,
    ),
    _rule("座机", LEFT + r"[48]00[ -][0-9]{3,4}[ -][0-9]{3,4}" + RIGHT, _uncounted),
    _rule(
        "座机",
        r"(?:手机|电话|座机|固话|传真|联系方式|致电|拨打)(?:[号码是为: ]){0,4}"
        rf"(?P<v>[0-9]{{7,12}}{EXTENSION}){RIGHT}",
        _uncounted,
    ),
    _rule("IP", LEFT + r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9A-Za-z_])(?!\.[0-9])", _is_ip),
    _rule(
        "IP", r"(?<![0-9A-Za-z:.])[0-9A-Fa-f]{1,4}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{1,4}(?![0-9A-Za-z:.])", _is_ip
    ),
    _rule(
        "车牌",
        rf"[{PLATES}]{PLATE_LETTER}[·• -]?(?:[DFdf](?:{PLATE_LETTER}|[0-9])[0-9]{{4}}|[0-9]{{5}}[DFdf])(?![0-9A-Za-z])",
        _is_plate,
    ),
    _rule(
        "车牌",
        rf"[{PLATES}]{PLATE_LETTER}[·• -]?[A-HJ-NP-Za-hj-np-z0-9]{{4}}"
        r"(?:[A-HJ-NP-Za-hj-np-z0-9](?![0-9A-Za-z])|[挂学警港澳])",
        _is_plate,
    ),
    _rule(
        "护照",
        r"(?:护照|[Pp]assport|PASSPORT)(?:编号|[Nn][Oo]|number|[号码是为:.= ]){0,5}"
        r"(?P<v>[EGHKMeghkm][A-Za-z]?[0-9]{7,8})(?![0-9A-Za-z])",
    ),
    _rule("护照", LEFT + r"(?:E[0-9]{8}|E[A-HJ-NP-Z][0-9]{7}|G[0-9]{8})" + RIGHT, _uncounted),
    _rule("护照", rf"护照{LINK}(?P<v>[DSP]E?[0-9]{{7,8}})" + RIGHT),
    _rule("微信", r"(?<![0-9A-Za-z_])wxid_[0-9A-Za-z]{6,30}(?![0-9A-Za-z_])"),
    _rule(
        "微信",
        r"(?i)(?:(?:[微薇威v]信|卫星号|绿泡泡|(?<![0-9a-z])(?:weixin|wechat|vx|wx))(?: ?(?:号码|号|id)|[呗吧呀哈])?"
        r"(?: ?(?:[:=]|就是|是|为|加我?|搜|联系) ?| )?|(?<![0-9a-z?&])(?:v ?[:是]|[v微薇] ?[❤♥]\ufe0f?:?) ?|"
        r"[+➕] ?v(?:[: ] ?)?|加我?(?:v|vx|wx|微)(?:[: ] ?)?)(?P<v>[a-z][a-z0-9_-]{5,19})(?![0-9a-z_-])(?!\.[0-9a-z])",
        _is_wechat,
    ),
    _rule(
        "QQ",
        rf"(?:(?i:qq)|扣扣|企鹅号?|加群|群号|(?<![A-Za-z])[Qq]){LINK}(?P<v>[1-9][0-9]{{4,11}})" + RIGHT,
        _uncounted,
    ),
    _rule(
        "QQ",
        LEFT + r"(?P<v>[1-9][0-9]{4,11}) ?\(?(?:这?是)?(?:我的?)?(?:(?i:qq)|扣扣)(?!邮箱|音乐|空间|群|飞车|浏览)",
        _uncounted,
    ),
    _rule(
        "验证码",
        CODE
        + r"(?:[是为: 【\[]|您的|你的|就是|is|发你了?|给你){0,6}(?P<v>[0-9]{4,8})"
        + RIGHT
        + "(?! ?[年分秒天小元位])",
    ),
    _rule("验证码", LEFT + r"(?P<v>[0-9]{4,8}) ?\(?(?:[是为]|您的|你的|本次|登录|注册|短信){0,4}" + CODE),
    _rule("验证码", r"(?:code|Code|CODE)(?: is|[: ]){1,3}(?P<v>[0-9]{4,8})" + RIGHT, _is_sent),
    _rule(
        "地址",
        r"(?:[\u4e00-\u9fff]{2,8}?(?:省|自治区))?(?:[\u4e00-\u9fff]{1,8}?[市州盟])?(?:[\u4e00-\u9fff]{1,8}?[区县旗镇乡])?"
        rf"[\u4e00-\u9fff]{{1,8}}{STREET}(?:[0-9]{{1,3}}{STREET})?[0-9]{{1,5}}(?:-[0-9]{{1,4}})?号(?!线|楼梯)[院楼]?"
        r"(?:[\u4e00-\u9fff]{2,8}(?:小区|花园|大厦|公寓|广场|中心|家园|苑))?(?:[0-9A-Za-z]{1,4}(?:号楼|[幢栋座楼层])){0,2}"
        r"(?:[0-9]{1,3}单元)?(?:[0-9]{2,5}(?:[室号房]|(?![0-9元块年月米公])))?",
        holds="号",
    ),
)
"""The rules, the surer ones first: what one took, no later one takes."""
KINDS = tuple(dict.fromkeys(rule.kind for rule in RULES)) + (NAME,)
STRUCTURED = tuple(kind for kind in KINDS if kind not in ("地址", NAME))
"""Kinds of a fixed form; addresses and names are matters of language."""
LEAD_IN = re.compile(
    "^.*?(?:住在|家住|住址是?|地址是?|寄到|送到|发到|位于|搬到|导航到?|快递放|放[在到]|约在|就在|来自|公司在|开在|[我你他她家店人就还]在|[去来到往是住在])(?=[\u4e00-\u9fff]{2})"
)
"""What stands before an address and is none of it."""
PLACEHOLDER = re.compile(f"<(?:{'|'.join(KINDS)})[0-9]+>")
INVISIBLE = re.compile("[\u200b-\u200f\u2060-\u2064\ufeff\u00ad]")
WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if chr(code) not in "，；！？"}
FOLDED = {**WIDE, **dict.fromkeys((0xA0, 0x2002, 0x2003, 0x2009, 0x3000), 0x20),
          **dict.fromkeys((0x2010, 0x2011, 0x2012, 0x2013, 0x2014, 0x2212), 0x2D)}  # fmt: skip
"""One character for one: full-width forms, odd blanks and dashes."""
TRIGGER = re.compile(
    rf"[0-9０-９]{{3}}|(?:[0-9０-９][ 　]){{3}}|[@＠{INVISIBLE.pattern[1:-1]}Ａ-Ｚａ-ｚ]|{HAN_DIGIT}{{6}}|"
    r"[0-9０-９][.．号转:：]|[微薇威vV]信|卫星号|绿泡泡|加我?[vV微]|[vV微薇] ?[:：是❤♥]|[+＋➕] ?[vV]|"
    r"密码|口令|密钥|PRIVATE|"
    r"(?i:wx|vx|weixin|wechat|http|token|key|secret|sk-)|::|[0-9A-Za-z_.-]{18}|[A-Z0-9]{5}|[0-9０-９]+(?:-[0-9０-９]+)?号|"
    rf"[{PLATES}][a-z]"
)
"""Without one of these a text holds nothing private; most chat lines hold none and cost one search."""
WRITTEN, SPELLED = re.compile("[0-9A-Za-z０-９Ａ-Ｚａ-ｚ]"), re.compile(f"{HAN_DIGIT}{{6}}")
"""What any private value holds, quicker to look for than ``TRIGGER``."""
DIGIT_OF = str.maketrans("零〇一二三四五六七八九幺", "001234567891")


def find(text: str, names: re.Pattern[str] | None = None) -> list[Found]:
    """The private values of a text, in order, none overlapping; ``names`` from ``names_pattern``."""
    taken: list[Found] = []
    if (WRITTEN.search(text) or SPELLED.search(text)) and TRIGGER.search(text):
        folded, offsets = fold(text)
        held = [(match.start(), match.end()) for match in PLACEHOLDER.finditer(folded)] if "<" in folded else []
        for kind, start, end in _spans(folded, held):
            value = canonical(kind, folded[start:end])
            taken.append(
                Found(offsets[start], offsets[end - 1] + 1, kind, value) if offsets else Found(start, end, kind, value)
            )
    if names:
        spans = [(found.start, found.end) for found in taken]
        spans += [match.span() for match in PLACEHOLDER.finditer(text)] if "<" in text else []
        for match in names.finditer(text):
            if not _overlaps(spans, match.start(), match.end()):
                taken.append(Found(match.start(), match.end(), NAME, match[0]))
    return sorted(taken)


def _spans(folded: str, held: list[tuple[int, int]]) -> Iterator[tuple[str, int, int]]:
    """(kind, start, end) of what the rules accept, the surer rules first."""
    for rule in RULES:
        if rule.holds not in folded:
            continue
        group = "v" if "v" in rule.pattern.groupindex else 0
        for match in rule.pattern.finditer(folded):
            start, end = match.span(group)
            if rule.kind == "地址" and (lead := LEAD_IN.match(folded[start:end])):
                start += lead.end()
            if not _overlaps(held, start, end) and rule.accepts(Match(folded, start, end)):
                held.append((start, end))
                yield rule.kind, start, end


def _overlaps(spans: Sequence[tuple[int, int]], start: int, end: int) -> bool:
    return any(start < last and first < end for first, last in spans)


def fold(text: str) -> tuple[str, list[int] | None]:
    """The text with full-width forms as ASCII and without invisible characters; where those were, the place in
    ``text`` of each character that is left."""
    folded = text.translate(FOLDED)
    if not INVISIBLE.search(folded):
        return folded, None
    offsets = [place for place, letter in enumerate(folded) if not INVISIBLE.match(letter)]
    return "".join(folded[place] for place in offsets), offsets


def canonical(kind: str, value: str) -> str:
    """One writing for all writings of a value: ``+86 138-0013-8000`` and ``13800138000`` are one phone."""
    if kind in ("手机", "座机", "银行卡", "身份证"):
        value = re.sub("[ .()+-]", "", value.translate(DIGIT_OF)).upper()
        return value[-11:] if kind == "手机" else value
    if kind in ("邮箱", "微信"):
        return value.lower()
    return re.sub("[·• -]", "", value) if kind == "车牌" else value


def names_pattern(names: Sequence[str]) -> re.Pattern[str] | None:
    """One pattern for all names of people of at least two characters, the longer first; None without any."""
    usable = sorted({name.strip() for name in names if len(name.strip()) >= 2}, key=lambda name: (-len(name), name))
    return re.compile("|".join(map(_bounded, usable))) if usable else None


def _bounded(name: str) -> str:
    """A name as a pattern: ASCII letters and digits at its ends stand alone."""
    left = "(?<![0-9A-Za-z_])" if re.match("[0-9A-Za-z_]", name) else ""
    right = "(?![0-9A-Za-z_])" if re.search("[0-9A-Za-z_]$", name) else ""
    return left + re.escape(name) + right
