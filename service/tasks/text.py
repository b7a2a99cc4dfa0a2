"""Normalise written text: what looks alike or says nothing must not change what a model reads."""

import html
import re
import unicodedata

INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001f3fb-\U0001f3ff\U000e0000-\U000e0fff]"
)
"""Control characters apart from white space, characters without width, variation selectors, skin tones."""

COMBINING = re.compile("[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]")
"""Combining marks; NFKC has composed those that belong to a letter."""

TAG = re.compile(r"<[a-zA-Z/!?][^<>]*>")

ADDRESS = re.compile(
    r"(?:https?|ftp):/+[^\s<>\"]*"
    r"|\bwww\.[^\s<>\"]+"
    r"|[\w.+-]{1,64}@[\w-]{1,64}\.[\w.-]+"
    r"|\b[\w.-]{1,64}\.(?:com|org|net)\b(?:/[^\s<>\"]*)?",
    re.IGNORECASE,
)
"""Web and mail addresses."""

SIGNS_OF_ADDRESSES = (":/", "@", "www.", ".com", ".org", ".net")

TYPOGRAPHY = str.maketrans(
    dict.fromkeys("`\u00b4\u2018\u2019\u201b\u02bc\u2032", "'")
    | dict.fromkeys("\u00ab\u00bb\u201c\u201d\u201e\u201f\u2033", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-")
)
"""Quotation marks and dashes to those of a keyboard; before NFKC, which takes an acute accent for a space."""

EMOJI = str.maketrans(
    {
        emoji: f" {word} "
        for word, group in {
            "great": "👍👏🙌💯🔥🏆🤩✨🎉👌",
            "love": "❤♥💕💖💗💘💙💚💛💜🧡😍🥰😘",
            "happy": "😀😃😄😁😊🙂☺😎🤗",
            "funny": "😂🤣😆😹",
            "bad": "👎😞😟😕🙁☹😒😔🙄😑",
            "awful": "😠😡🤬😤🤮🤢💩😖😣😩😫🗑",
            "boring": "😴🥱💤",
            "disappointing": "💔",
            "sad": "😢😭😿",
        }.items()
        for emoji in group
    }
)
"""Emoji to the words that people wrote before there were any."""


def normalise(text: str) -> str:
    """Return the text without tags, addresses and invisible characters, with compatibility characters made plain.

    Character entities become characters, and emoji that express an opinion become words.
    """
    if not (text.isascii() and text.isprintable()):
        text = INVISIBLE.sub("", text)
    if "&" in text:
        text = INVISIBLE.sub("", html.unescape(text))
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(TYPOGRAPHY))
        text = COMBINING.sub("", text).translate(EMOJI)
    text = text.replace("`", "'")
    if "<" in text:
        text = TAG.sub(" ", text)
    lower = text.lower()
    if any(sign in lower for sign in SIGNS_OF_ADDRESSES):
        text = ADDRESS.sub(" ", text)
    return text
