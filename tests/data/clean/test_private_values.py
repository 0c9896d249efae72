"""Check digits, dates and prefixes of the structured values."""

from __future__ import annotations

import pytest

from hantune.data.clean.private_values import is_address, is_bank_card, is_credit_code, is_id_card, is_mail, luhn


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("11010119900307123X", False), ("110101199003077715", True), ("110101199013077715", False),
        ("990101199003077715", False), ("11010119900307771", False),
    ],
)  # fmt: skip
def test_id_cards(text: str, is_one: bool) -> None:
    assert is_id_card(text) == is_one


def test_every_wrong_digit_of_an_id_card_is_found() -> None:
    number = "110101199003077715"
    for place in range(18):
        for digit in "0123456789":
            changed = number[:place] + digit + number[place + 1 :]
            assert is_id_card(changed) == (changed == number)


def test_cards() -> None:
    assert is_bank_card("4111111111111111")
    assert not is_bank_card("4111111111111112")
    assert not is_bank_card("4" * 16)
    assert not is_bank_card("1111111111111117")
    assert luhn("79927398713") == 0


def test_credit_codes() -> None:
    assert is_credit_code("91350100M000100Y43")
    assert not is_credit_code("91350100M000100Y44")
    assert not is_credit_code("91350100I000100Y43")


def test_addresses_and_mail() -> None:
    assert is_address("192.168.1.1")
    assert is_address("2001:db8::1")
    for text in ("127.0.0.1", "0.0.0.0", "255.255.255.0", "300.1.1.1"):
        assert not is_address(text)
    assert is_mail("a@b.cn")
    assert not is_mail("icon@2x.png")
