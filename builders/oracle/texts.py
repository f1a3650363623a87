"""The grid of texts that both sides turn into ids."""

from __future__ import annotations

TEXTS = (
    "",
    "Hello, world!",
    "Hello , world . It 's n't what we 've seen",  # what a clean-up of spaces would change
    " one space first",
    "   three spaces first, two last  ",
    "a  b   c    d",
    "\n\nlines\r\n\r\n\twith tabs\t\t\n",
    "Grüße aus Köln, ça va? naïve café, cafe\u0301",
    "\ufb01 \u00bd \u2167 \uff46\uff55\uff4c\uff4c \u212b",  # what normal forms would change
    "код 日本語 한국어 العربية עברית हिन्दी ไทย",
    "👩🏽\u200d🚀 🇩🇪 ☃️ \U0001d518\U0001d52b\U0001d526",
    "no\u00a0break \u2003 em \u200b zero \u3000 wide",
    "0 12 123 1234 12345 3.14159 1,000,000 -7e-3",
    "don't WON'T I'll we've they're it's",
    "def f(a, b=None):\n    return {'x': [a, b]}  # comment\n\n\tif a != b: pass\n",
    '{"key": "value", "list": [1, 2, 3], "nested": {"a": null}}',
    "<b>bold</b> &amp; <|not_a_token|> <| user |> [INST] </s > <s",
    "http://example.com/path?query=1&b=%20#fragment user@example.com",
    "▁ a▁b <0x0A> Ġ Ċ",  # spellings that tokenizers use inside
    "AAAAAAAAAAAAAAAAAAAAAAAA ------------------ ................ ==========",
    "THE QUICK Brown fOx jumps, supercalifragilisticexpialidocious",
)


def around(token: str) -> str:
    """Return a text with a token alone, within words, next to white space and twice in a row."""
    return f"{token}a{token} b {token}\nc\n{token} {token}{token}  d"
