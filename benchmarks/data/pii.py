"""A labelled synthetic set of private values in Chinese chat messages, and how well they are found.

    python benchmarks/data/pii.py [messages] [seed]

Values are valid by their check digits and belong to nobody; they stand glued to Han characters, in several writings
(blanks, dashes, +86, full width, invisible characters), one or two a message. Near-misses look like them and are
none: order numbers, prices, dates, versions, scores, wrong check digits. Every label is exact to the character.
"""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hantune.data.clean.privacy import STRUCTURED, find
from hantune.data.clean.private_values import CODE_LETTERS, ID_CHECKS, ID_WEIGHTS, luhn

MESSAGES, SEED = 4000, 42
NOTHING = "无"
DIGITS, LETTERS = "0123456789", "abcdefghjkmnpqrstuvwxyz"
KEY_LETTERS = DIGITS + LETTERS + LETTERS.upper()


class Labelled(NamedTuple):
    """A message and its private values: (start, end, kind)."""

    text: str
    spans: tuple[tuple[int, int, str], ...]


def some(rng: random.Random, letters: str, count: int) -> str:
    return "".join(rng.choice(letters) for _ in range(count))


def mobile(rng: random.Random) -> str:
    number = "1" + rng.choice("3456789") + some(rng, DIGITS, 9)
    a, b, c = number[:3], number[3:7], number[7:]
    return rng.choice(
        [number, number, number, f"{a} {b} {c}", f"{a}-{b}-{c}", f"+86{number}", f"+86 {a} {b} {c}", f"0086{number}",
         f"{number[:4]} {number[4:7]} {c}", wide(number), f"{a}\u200b{b}{c}", f"86-{number}", spelled(number)]
    )  # fmt: skip


def wide(text: str) -> str:
    return "".join(chr(ord(letter) + 0xFEE0) for letter in text)


def spelled(digits: str) -> str:
    return digits.translate(str.maketrans(DIGITS, "零一二三四五六七八九"))


def landline(rng: random.Random) -> str:
    area = rng.choice(["010", "021", "020", "0571", "0755", "028", "0411", "0591"])
    number = rng.choice("2345678") + some(rng, DIGITS, 7 if len(area) == 3 else rng.choice([6, 7]))
    return rng.choice(
        [
            f"{area}-{number}",
            f"({area}){number}",
            f"{area} {number}",
            area + number,
            f"{area}-{number}-{rng.randint(1, 999)}",
        ]
    )


def id_card(rng: random.Random) -> str:
    body = rng.choice(["110105", "310104", "440305", "510107", "330106", "420111", "650102"])
    body += f"{rng.randint(1940, 2015)}{rng.randint(1, 12):02}{rng.randint(1, 28):02}{rng.randint(0, 999):03}"
    number = body + ID_CHECKS[sum(int(d) * w for d, w in zip(body, ID_WEIGHTS, strict=True)) % 11]
    return rng.choice([number, number, f"{number[:6]} {number[6:14]} {number[14:]}", wide(number), number.lower()])


def with_luhn(body: str) -> str:
    return next(body + digit for digit in DIGITS if luhn(body + digit) == 0)


def card(rng: random.Random) -> str:
    number = with_luhn(
        rng.choice(["622202", "621700", "622848", "4392", "5187", "356833"]) + some(rng, DIGITS, rng.choice([9, 12]))
    )
    number = number if 16 <= len(number) <= 19 else with_luhn("622202" + some(rng, DIGITS, 12))
    return rng.choice([number, number, " ".join(number[at : at + 4] for at in range(0, len(number), 4))])


def credit_code(rng: random.Random) -> str:
    body = (
        rng.choice(["91", "92", "12", "52"]) + rng.choice(["110108", "440300", "330100"]) + some(rng, CODE_LETTERS, 9)
    )
    total = sum(CODE_LETTERS.index(letter) * pow(3, place, 31) for place, letter in enumerate(body))
    return body + CODE_LETTERS[-total % 31]


def mail(rng: random.Random) -> str:
    name = rng.choice(
        [some(rng, LETTERS, 6), some(rng, DIGITS[1:], 9), f"{some(rng, LETTERS, 4)}.{some(rng, LETTERS, 3)}"]
    )
    return f"{name}@{rng.choice(['qq.com', '163.com', 'example.com.cn', 'mail.example.org', 'gmail.com'])}"


def qq(rng: random.Random) -> str:
    return rng.choice("123456789") + some(rng, DIGITS, rng.randint(5, 9))


def wechat(rng: random.Random) -> str:
    name = some(rng, LETTERS, rng.randint(3, 8))
    return rng.choice(
        [
            f"wxid_{some(rng, LETTERS + DIGITS, 14)}",
            f"{name}_{rng.randint(10, 99)}",
            f"{name}{rng.randint(1980, 2010)}",
            f"{name}-{name[:3]}",
        ]
    )


def plate(rng: random.Random) -> str:
    head, tail = rng.choice("京沪粤川浙苏鲁湘鄂闽") + rng.choice("ABCDEF"), some(rng, "ABCDEFGHJKLMNPQRSTUVWXYZ", 1)
    return rng.choice(
        [
            f"{head}{some(rng, DIGITS, 5)}",
            f"{head}·{tail}{some(rng, DIGITS, 4)}",
            f"{head}{some(rng, DIGITS, 4)}{tail}",
            f"{head}D{some(rng, DIGITS, 5)}",
        ]
    )


def passport(rng: random.Random) -> str:
    return rng.choice(
        [f"E{some(rng, DIGITS, 8)}", f"G{some(rng, DIGITS, 8)}", f"E{rng.choice('ABCDH')}{some(rng, DIGITS, 7)}"]
    )


def ip(rng: random.Random) -> str:
    return rng.choice(
        [".".join(str(rng.randint(11, 223)) for _ in range(4)), f"10.{rng.randint(0, 255)}.{rng.randint(0, 255)}.7",
         f"2001:db8:{some(rng, '123456789abcdef', 3)}::{some(rng, '123456789abcdef', 2)}"]
    )  # fmt: skip


def link(rng: random.Random) -> str:
    name, secret = rng.choice(["token", "access_token", "sign", "sid", "api_key"]), some(rng, KEY_LETTERS, 16)
    return (
        f"https://{some(rng, LETTERS, 6)}.example.com/{some(rng, LETTERS, 4)}?id={rng.randint(1, 99)}&{name}={secret}"
    )


def key(rng: random.Random) -> str:
    head, size = rng.choice([("sk-", 32), ("ghp_", 36), ("hf_", 34), ("AKIA", 16), ("eyJ", 20)])
    if head == "AKIA":
        return head + some(rng, DIGITS + "ABCDEFGH", size)
    rest = f".{some(rng, KEY_LETTERS, 30)}.{some(rng, KEY_LETTERS, 27)}" if head == "eyJ" else ""
    return head + some(rng, KEY_LETTERS, size) + rest


def code(rng: random.Random) -> str:
    return some(rng, DIGITS, rng.choice([4, 6, 6]))


VALUES: dict[str, tuple[Callable[[random.Random], str], tuple[str, ...]]] = {
    "手机": (
        mobile,
        (
            "我手机{}微信同号",
            "打{}找我",
            "{}这是我的新号码",
            "有事call我{}吧",
            "tel:{},随时",
            "收件人张三{}",
            "电话是{}。谢谢",
        ),
    ),
    "座机": (landline, ("前台{}转人事", "请致电{}咨询", "单位电话{}没人接", "{}是客服的号码吗", "传真{}")),
    "身份证": (id_card, ("身份证{}麻烦登记", "号码{}帮我订票", "{}是我的证件", "实名用{}就行", "我妈的{}别填错")),
    "银行卡": (card, ("卡号{}请查收", "转到{}农行的", "{}这张卡还能用吗", "打款{}收到回我", "工资卡{}")),
    "信用代码": (credit_code, ("开票税号{}别写错", "统一社会信用代码{}", "{}是我们公司的", "抬头发你了,{}谢谢")),
    "邮箱": (mail, ("发我邮箱{}谢谢", "{}收到了吗", "简历投{}就行", "请联系{},或者等通知")),
    "QQ": (qq, ("加我QQ{}聊", "QQ号是{}", "扣扣{}备注一下", "我的qq:{}哦", "Q{}找我玩", "{}是我的QQ")),
    "微信": (wechat, ("微信号{}加我", "加微信:{}详聊", "vx:{}备注来意", "我微信是{}呀", "微信id {},谢谢")),
    "车牌": (plate, ("车牌{}挪一下车", "刚才那辆{}超速了", "{}停在门口", "我开{}来接你")),
    "护照": (passport, ("护照{}快到期了", "护照号码是{}帮我填", "证件{}签证用", "{}是新护照")),
    "IP": (ip, ("服务器{}连不上", "ping {}看看", "{}被封了吧", "内网地址{}端口不通")),
    "网址": (link, ("打开{} 登录", "链接{}别外传", "点这个{} 就行")),
    "验证码": (
        code,
        (
            "验证码{}五分钟内有效",
            "【某某网】您的验证码是{},请勿告诉他人",
            "{}是您的登录验证码",
            "动态码:{}快输",
            "短信码{}",
        ),
    ),
    "密钥": (key, ("key是{}别泄露", "用{}调接口", "{}这个还能用", "Authorization: Bearer {} 试试")),
}
"""kind -> (how a value is made, the messages it stands in)."""


NEAR_MISSES = (
    "订单号{phone}什么时候发货", "快递单号{d12}查不到", "运单号SF{d13}", "一共{1-9999}.{10-99}元",
    "总价{phone}元太贵了", "今天是{1990-2030}-{10-12}-{10-28}",
    "{1990-2030}年{1-12}月{1-28}日{10-23}:{10-59}见", "版本{10-20}.0.{11-99}.1有毛病",
    "升级到v{1-9}.{0-20}.{0-20}.{0-99}版", "走了{3000-30000}步", "时间戳{1600000000-1800000000}对不上",
    "毫秒的是{1600000000000-1800000000000}", "会员{card}没有积分", "批次{id}有问题", "圆周率3.{d15}",
    "型号E{d8}停产了", "哈希{d9}ab{d9}cd{d9}ef{d7}一样", "播放量{phone}次", "@小王 在吗", "图标用icon@2x.png",
    "git clone git@github.com:a/b.git", "QQ音乐{10000-99999}人在听", "QQ {8-9}.{0-9}.{0-99}出新版了",
    "微信Windows版打不开", "微信WeChat 8.0.{1-60}更新了", "验证码{1-30}分钟内有效", "收不到验证码怎么办",
    "见第{1-9}.{1-9}.{1-9}.{1-9}节", "官网 https://www.example.com/a?id={1-999} 有",
    "价格区间{1000-5000}-{5001-9999}", "比分{0-99}-{0-99}", "token是分词的意思", "端口127.0.0.1:8000",
    "掩码255.255.255.0", "新A{10-99}股", "房间{1000-9999}", "ISBN 978{d10}", "邮编{100000-800000}",
    "粉丝{d7}人", "编号{phone}的选手",
)  # fmt: skip
"""Messages with what only looks private: ``{d8}`` is eight digits, ``{1-9}`` a number, a word what it
says in ``LOOKALIKES``."""


def wrong_card(rng: random.Random) -> str:
    body = rng.choice(["62", "45", "51"]) + some(rng, DIGITS, 13)
    return body + str((int(with_luhn(body)[-1]) + rng.randint(1, 9)) % 10)


def wrong_id(rng: random.Random) -> str:
    number = id_card(rng).replace(" ", "")
    return number[:17] + ("1" if number[17] in "0０" else "0")


LOOKALIKES = {
    "phone": lambda rng: "1" + rng.choice("3456789") + some(rng, DIGITS, 9),
    "card": wrong_card,
    "id": wrong_id,
}


def near_miss(rng: random.Random) -> str:
    """A message with something that only looks private."""

    def fill(match: re.Match[str]) -> str:
        first, dash, last = match[1].partition("-")
        if dash:
            return str(rng.randint(int(first), int(last)))
        return LOOKALIKES[first](rng) if first in LOOKALIKES else some(rng, DIGITS, int(first[1:]))

    return re.sub(r"\{([^}]+)\}", fill, rng.choice(NEAR_MISSES))


def labelled(count: int = MESSAGES, seed: int = SEED) -> list[Labelled]:
    """``count`` messages: two of three hold one or two private values, every third is a near-miss."""
    rng = random.Random(seed)
    kinds = list(VALUES)
    messages = []
    for number in range(count):
        if number % 3 == 2:
            messages.append(Labelled(near_miss(rng), ()))
            continue
        parts = [kinds[number % len(kinds)]] + ([rng.choice(kinds)] if rng.random() < 0.25 else [])
        text, spans = "", []
        for kind in parts:
            make, carriers = VALUES[kind]
            before, after = rng.choice(carriers).split("{}")
            text += ("," if text else "") + before
            value = make(rng)
            spans.append((len(text), len(text) + len(value), kind))
            text += value + after
        messages.append(Labelled(text, tuple(spans)))
    return messages


def confusion(messages: Sequence[Labelled]) -> Counter[tuple[str, str]]:
    """How often a value of the first kind was found as the second, to the character; ``无`` where there was none."""
    counts: Counter[tuple[str, str]] = Counter()
    for message in messages:
        true = {(start, end): kind for start, end, kind in message.spans}
        found = {(each.start, each.end): each.kind for each in find(message.text)}
        for span in true.keys() | found.keys():
            counts[true.get(span, NOTHING), found.get(span, NOTHING)] += 1
    return counts


class Score(NamedTuple):
    """Of one kind: values there are, found, and the two shares."""

    true: int
    found: int
    recall: float
    precision: float


def scores(counts: Counter[tuple[str, str]]) -> dict[str, Score]:
    """kind -> its score."""
    result = {}
    for kind in STRUCTURED:
        true = sum(count for (real, _), count in counts.items() if real == kind)
        found = sum(count for (_, said), count in counts.items() if said == kind)
        right = counts[kind, kind]
        result[kind] = Score(true, found, right / max(1, true), right / max(1, found))
    return result


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    given = labelled(*numbers)
    for kind, score in scores(confusion(given)).items():
        print(f"{kind}\t{score.true}\t{score.found}\t{score.recall:.4f}\t{score.precision:.4f}")
    for message in given:
        wanted = {(start, end, kind) for start, end, kind in message.spans}
        got = {(each.start, each.end, each.kind) for each in find(message.text)}
        if wanted != got:
            print(message.text, sorted(wanted - got), sorted(got - wanted))
