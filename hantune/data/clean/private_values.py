"""Whether a number is what it looks like: check digits, dates and prefixes of the structured private values."""

from __future__ import annotations

import datetime
import ipaddress

ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
ID_CHECKS = "10X98765432"
PROVINCES = frozenset(
    (11, 12, 13, 14, 15, 21, 22, 23, 31, 32, 33, 34, 35, 36, 37, 41, 42, 43, 44, 45, 46)
    + (50, 51, 52, 53, 54, 61, 62, 63, 64, 65, 71, 81, 82, 83)
)
CODE_LETTERS = "0123456789ABCDEFGHJKLMNPQRTUWXY"
NOT_MAIL = frozenset(
    ("png", "jpg", "jpeg", "gif", "svg", "webp", "bmp", "js", "ts", "css", "json", "py", "txt", "md", "html", "zip")
    + ("mp3", "mp4", "tmp", "localhost")
)
"""What follows the last dot of ``icon@2x.png``: a file, not a mail domain."""


def is_id_card(digits: str) -> bool:
    """An 18-digit resident id: province, date of birth, check digit. Source: GB 11643-1999 (ISO 7064 MOD 11-2)."""
    if len(digits) != 18 or not has_birthday(digits):
        return False
    total = sum(int(digit) * weight for digit, weight in zip(digits[:17], ID_WEIGHTS, strict=True))
    return ID_CHECKS[total % 11] == digits[17].upper()


def has_birthday(digits: str) -> bool:
    """Whether an id of 18 characters, its check digit aside, has a province and a possible date of birth."""
    if not digits[:17].isdigit() or int(digits[:2]) not in PROVINCES:
        return False
    try:
        born = datetime.date(int(digits[6:10]), int(digits[10:12]), int(digits[12:14]))
    except ValueError:
        return False
    return 1880 <= born.year <= 2099


def is_bank_card(digits: str) -> bool:
    """A card number by its issuer's prefix, its length and the Luhn sum (ISO/IEC 7812-1)."""
    is_known = digits[:2] in ("60", "62", "34", "35", "37") or digits[:1] in ("4", "5")
    if not is_known or not 15 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    if len(digits) == 15 and digits[:2] not in ("34", "37"):
        return False
    return luhn(digits) == 0


def luhn(digits: str) -> int:
    """The Luhn sum modulo 10; 0 for a number with its right check digit."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10


def is_credit_code(text: str) -> bool:
    """A unified social credit code with its right check character. Source: GB 32100-2015 (MOD 31-3)."""
    if len(text) != 18 or any(letter not in CODE_LETTERS for letter in text):
        return False
    total = sum(CODE_LETTERS.index(letter) * pow(3, place, 31) for place, letter in enumerate(text[:17]))
    return CODE_LETTERS[-total % 31] == text[17]


def is_address(text: str) -> bool:
    """An IPv4 or IPv6 address of some machine: not this one, no mask, not "any"."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or text.startswith(("255.", "0.")))


def is_mail(text: str) -> bool:
    """Whether what follows the ``@`` can be a mail domain."""
    return text.rpartition(".")[2].lower() not in NOT_MAIL and ".." not in text
