"""Random texts for tokenizers."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.support.checkpoints import SPECIAL

WORDS = st.sampled_from(
    [
        *[
            "the",
            "then",
            " an",
            "in",
            "on",
            "The",
            "don't",
            "I'LL",
            "there's",
            "naïve",
            "код",
            "日本語",
            "한국어",
            "עברית",
        ],
        *[
            "🙂",
            "👩‍👩‍👧",
            "é",
            "e\u0301",
            "½",
            "٣",
            "12",
            "1234567",
            "3.14",
            "0x1F",
            "_",
            "--",
            "!!",
            "(x)",
            "=>",
            "…",
            "“q”",
        ],
        *[" ", "  ", "    ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "{", "}", "def f(a_b):\n    return a+b\n"],
        *SPECIAL,
    ]
)


TEXTS = st.lists(WORDS, max_size=12).map("".join)
