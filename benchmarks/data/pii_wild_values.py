"""How private values of each kind are really typed in Chinese chats, made from nothing but chance."""

from __future__ import annotations

import random
import string
from collections.abc import Callable

FULL_WIDTH = {ord(c): ord(c) + 0xFEE0 for c in string.digits + "-@:"}
PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
PLATE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
CREDIT_LETTERS = "0123456789ABCDEFGHJKLMNPQRTUWXY"
REGIONS = ("110101", "310104", "440305", "330106", "510107", "420111", "320505", "610113", "210202", "350203")
Value = Callable[[random.Random], str]


def digits(rng: random.Random, n: int) -> str:
    return "".join(rng.choices(string.digits, k=n))


def number(rng: random.Random, n: int) -> str:
    return rng.choice("123456789") + digits(rng, n - 1)


def some(rng: random.Random, alphabet: str, n: int) -> str:
    return "".join(rng.choices(alphabet, k=n))


def widened(rng: random.Random, text: str, share: float = 0.12) -> str:
    """The text, now and then typed with the input method in full width."""
    return text.translate(FULL_WIDTH) if rng.random() < share else text


def mobile(rng: random.Random) -> str:
    n = rng.choice(("13", "15", "17", "18", "19")) + digits(rng, 9)
    a, b, c = n[:3], n[3:7], n[7:]
    shapes = (
        n,
        n,
        n,
        n,
        f"{a} {b} {c}",
        f"{a}-{b}-{c}",
        f"+86{n}",
        f"+86 {n}",
        f"+86 {a} {b} {c}",
        f"+86-{n}",
        f"0086{n}",
        f"(+86){n}",
        f"86-{n}",
        f"{a}.{b}.{c}",
        f"{n[:4]} {n[4:7]} {n[7:]}",
        f"{a} {n[3:]}",
        f"{n[:7]} {c}",
        f"{a}—{b}—{c}",
        f"86{n}",
    )
    return widened(rng, rng.choice(shapes))


def landline(rng: random.Random) -> str:
    code, size = rng.choice(
        (
            ("010", 8),
            ("021", 8),
            ("0755", 8),
            ("0571", 8),
            ("0512", 8),
            ("0731", 8),
            ("0411", 8),
            ("0717", 7),
            ("0356", 7),
            ("028", 8),
        )
    )
    n = rng.choice("2345678") + digits(rng, size - 1)
    tail = rng.choice(("", "", "", "", f"转{digits(rng, 3)}", f"-{digits(rng, 4)}", f"转分机{digits(rng, 4)}"))
    shape = rng.choice(
        (
            f"{code}-{n}",
            f"{code}-{n}",
            f"{code}{n}",
            f"({code}){n}",
            f"（{code}）{n}",
            f"{code} {n}",
            f"{code}-{n[:4]} {n[4:]}",
            f"{code}—{n}",
            f"+86-{code[1:]}-{n}",
            f"+86 {code[1:]} {n}",
        )
    )
    return widened(rng, shape) + tail


def id_card(rng: random.Random) -> str:
    body = (
        rng.choice(REGIONS)
        + f"{rng.randint(1950, 2015)}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}"
        + digits(rng, 3)
    )
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    n = body + "10X98765432"[sum(int(c) * w for c, w in zip(body, weights, strict=True)) % 11]
    n = n.replace("X", rng.choice("Xx"))
    shapes = (
        n,
        n,
        n,
        n,
        f"{n[:6]} {n[6:14]} {n[14:]}",
        f"{n[:6]}-{n[6:14]}-{n[14:]}",
        f"{n[:6]} {n[6:10]} {n[10:14]} {n[14:]}",
    )
    return widened(rng, rng.choice(shapes))


def bank_card(rng: random.Random) -> str:
    start, size = rng.choice(
        (
            ("621700", 19),
            ("622202", 19),
            ("622848", 19),
            ("621661", 19),
            ("623052", 19),
            ("622588", 16),
            ("625965", 16),
            ("436742", 16),
            ("512425", 16),
            ("555555", 16),
        )
    )
    body = start + digits(rng, size - 7)
    total = 0
    for place, c in enumerate(reversed(body)):
        twice = int(c) * 2 if place % 2 == 0 else int(c)
        total += twice - 9 if twice > 9 else twice
    n = body + str(-total % 10)
    gap = rng.choice(("", "", "", " ", " ", "-"))
    grouped = gap.join(n[i : i + 4] for i in range(0, size, 4))
    return widened(rng, rng.choice((grouped, grouped, f"{n[:6]} {n[6:]}" if size == 19 else grouped)))


def email(rng: random.Random) -> str:
    name = rng.choice(
        (
            some(rng, string.ascii_lowercase, 6),
            number(rng, rng.randint(6, 10)),
            f"{some(rng, string.ascii_lowercase, 4)}.{some(rng, string.ascii_lowercase, 3)}",
            f"{some(rng, string.ascii_lowercase, 5)}_{digits(rng, 3)}",
            f"Li-{digits(rng, 4)}",
            f"{some(rng, string.ascii_lowercase, 5)}+{some(rng, string.ascii_lowercase, 3)}",
        )
    )
    host = rng.choice(
        (
            "qq.com",
            "163.com",
            "126.com",
            "gmail.com",
            "outlook.com",
            "foxmail.com",
            "sina.com.cn",
            "mails.tsinghua.edu.cn",
            "QQ.COM",
            "vip.163.com",
            "sina.cn",
            "icloud.com",
            "yeah.net",
        )
    )
    at = rng.choice(("@",) * 9 + ("＠",))
    return f"{name}{at}{host}"


def qq(rng: random.Random) -> str:
    return widened(rng, number(rng, rng.choice((5, 6, 7, 8, 9, 9, 9, 10, 10, 10))))


def wechat(rng: random.Random) -> str:
    low = string.ascii_lowercase
    return rng.choice(
        (
            f"wxid_{some(rng, low + string.digits, 14)}",
            f"{some(rng, low, 5)}{digits(rng, 4)}",
            f"{some(rng, low, 4)}_{some(rng, low, 3)}{digits(rng, 2)}",
            f"{some(rng, low, 5)}-{digits(rng, 3)}",
            f"{some(rng, string.ascii_uppercase, 2)}{digits(rng, 6)}",
            f"{some(rng, low, 8)}",
            f"{rng.choice(low)}{digits(rng, 9)}",
            f"{some(rng, low, 3).title()}{some(rng, low, 4).title()}",
        )
    )


def plate(rng: random.Random) -> str:
    head = rng.choice(PROVINCES) + rng.choice(PLATE_LETTERS)
    body = rng.choice(
        (
            digits(rng, 5),
            f"{rng.choice(PLATE_LETTERS)}{digits(rng, 4)}",
            f"{digits(rng, 3)}{some(rng, PLATE_LETTERS, 2)}",
            f"{digits(rng, 1)}{some(rng, PLATE_LETTERS, 2)}{digits(rng, 2)}",
            f"D{digits(rng, 5)}",
            f"F{digits(rng, 5)}",
            f"{digits(rng, 5)}D",
        )
    )
    whole = head + rng.choice(("", "", "", "", "·", " ", "-", "•")) + body
    return whole if rng.random() < 0.9 else whole[0] + whole[1:].lower()


def passport(rng: random.Random) -> str:
    return rng.choice(
        (
            f"E{digits(rng, 8)}",
            f"G{digits(rng, 8)}",
            f"E{rng.choice('ABCDEFGHJKLM')}{digits(rng, 7)}",
            f"e{digits(rng, 8)}",
        )
    )


def credit_code(rng: random.Random) -> str:
    body = (
        rng.choice(("91", "92", "93", "52", "12"))
        + rng.choice(REGIONS)
        + rng.choice(("MA" + some(rng, CREDIT_LETTERS, 7), some(rng, CREDIT_LETTERS, 9)))
    )
    weights = [pow(3, i, 31) for i in range(17)]
    total = sum(CREDIT_LETTERS.index(c) * w for c, w in zip(body, weights, strict=True))
    return body + CREDIT_LETTERS[-total % 31]


def ip(rng: random.Random) -> str:
    four = ".".join(str(rng.randint(1, 254)) for _ in range(4))
    six = ":".join(["2408", "8207"] + [some(rng, "0123456789abcdef", 4) for _ in range(6)])
    return rng.choice((four, four, four, four, six))


def secret_url(rng: random.Random) -> str:
    secret = some(rng, string.ascii_letters + string.digits, rng.randint(16, 40))
    name = rng.choice(("token", "access_token", "key", "sign", "auth", "ticket", "session", "api_key", "sig", "secret"))
    host = rng.choice(("pan.example.cn/s/1a2b", "api.example.com/v1/me", "oss.example.net/f.zip", "example.com/join"))
    before = rng.choice(("", "uid=3&", "from=chat&", "type=1&t=16&"))
    after = rng.choice(("", "&lang=zh", "&from=wx"))
    scheme = rng.choice(("https://", "http://"))
    return rng.choice(
        (
            f"{scheme}{host}?{before}{name}={secret}{after}",
            f"{scheme}{host}#{name}={secret}",
            f"{scheme}{host}?{before}{name}={secret}{after}",
            f"{scheme}admin:{secret}@{host}",
        )
    )


def code(rng: random.Random) -> str:
    return widened(rng, digits(rng, rng.choice((4, 6, 6, 6, 6))))


def key(rng: random.Random) -> str:
    mixed = string.ascii_letters + string.digits
    return rng.choice(
        (
            f"sk-{some(rng, mixed, 48)}",
            f"sk-proj-{some(rng, mixed, 40)}",
            f"AKIA{some(rng, string.ascii_uppercase + string.digits, 16)}",
            f"ghp_{some(rng, mixed, 36)}",
            f"hf_{some(rng, string.ascii_letters, 34)}",
            f"AIza{some(rng, mixed, 35)}",
            f"xoxb-{digits(rng, 11)}-{some(rng, mixed, 24)}",
            f"LTAI{some(rng, mixed, 20)}",
            f"github_pat_{some(rng, mixed, 60)}",
            f"eyJhbGciOiJIUzI1NiJ9.{some(rng, mixed, 30)}.{some(rng, mixed, 43)}",
        )
    )


def address(rng: random.Random) -> str:
    city = rng.choice(
        (
            "广东省深圳市南山区",
            "北京市朝阳区",
            "杭州市西湖区",
            "成都市武侯区",
            "上海市浦东新区",
            "江苏省苏州市工业园区",
            "武汉市洪山区",
        )
    )
    road = (
        rng.choice(
            ("科技园南路", "望京街", "文三路", "天府大道北段", "张江路", "星湖街", "珞喻路", "中山北路", "解放大街")
        )
        + f"{rng.randint(1, 1999)}号"
    )
    inner = rng.choice(
        (
            "",
            f"{rng.randint(1, 30)}号楼{rng.randint(1, 6)}单元{rng.randint(101, 2804)}室",
            f"创维大厦B座{rng.randint(101, 2804)}",
            f"阳光花园{rng.randint(1, 30)}栋{rng.randint(101, 2804)}",
            f"华星广场A座{rng.randint(1, 30)}楼",
        )
    )
    return rng.choice((city + road + inner, city[-3:] + road + inner, city + road + inner))
