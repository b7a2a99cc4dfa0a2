"""Behaviour tests of the shipped sentiment model in the style of CheckList (Ribeiro et al., 2020).

Each is a template filled with all of its words, and a failure rate: one sentence proves nothing. The words are chosen
independently of the statements that training makes up.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest

from service.registry.card import GRAPHS
from service.tasks.sentiment import ReviewReader, SentimentRequest, SentimentTask
from tests.paths import MODELS
from training.version import open_session

MODEL = MODELS / "sentiment" / "2"
TASK = SentimentTask(MODEL)

GOOD = (
    "good",
    "great",
    "excellent",
    "enjoyable",
    "delightful",
    "charming",
    "impressive",
    "memorable",
    "clever",
    "lovely",
)
BAD = ("bad", "terrible", "awful", "boring", "dull", "horrible", "disappointing", "unpleasant", "stupid", "lousy")
THINGS = ("movie", "film", "story", "show", "thriller", "performance")

Judge = Callable[[Sequence[str]], npt.NDArray[np.float64]]


@pytest.fixture(scope="module")
def judge() -> Judge:
    """The probability that each text is positive, as served."""
    session = open_session(MODEL / GRAPHS["int8"] if (MODEL / GRAPHS["int8"]).exists() else MODEL / GRAPHS["float32"])

    def probabilities(texts: Sequence[str]) -> npt.NDArray[np.float64]:
        found = []
        for start in range(0, len(texts), 64):
            inputs, readings = TASK.preprocess(SentimentRequest(reviews=list(texts[start : start + 64])))
            outputs = dict(zip(("probabilities", "log_odds"), session.run(None, dict(inputs)), strict=True))
            found += [one.probability_positive for one in TASK.postprocess(outputs, readings).predictions]
        return np.array(found)

    return probabilities


def filled(templates: Iterable[str], words: Iterable[str]) -> list[str]:
    """Every template with every word and thing, without repetition."""
    texts = (template.format(word=word, thing=thing) for template, word, thing in product(templates, words, THINGS))
    return list(
        dict.fromkeys(text.replace(" a e", " an e").replace(" a u", " an u").replace(" a a", " an a") for text in texts)
    )


BEHAVIOURS = {
    "praise": (
        filled(["This is a {word} {thing}.", "The {thing} was {word}.", "What a {word} {thing}!"], GOOD),
        True,
        0.05,
    ),
    "scorn": (
        filled(["This is a {word} {thing}.", "The {thing} was {word}.", "What a {word} {thing}!"], BAD),
        False,
        0.05,
    ),
    "not good": (
        filled(
            [
                "This is not a {word} {thing}.",
                "The {thing} was not {word}.",
                "The {thing} isn't {word}.",
                "It wasn't a {word} {thing} at all.",
                "I would not call this a {word} {thing}.",
                "I don't think this is a {word} {thing}.",
                "This {thing} is never {word}.",
            ],
            GOOD,
        ),
        False,
        0.30,
    ),
    "not bad": (
        filled(
            ["This is not a {word} {thing}.", "The {thing} was not {word} at all.", "The {thing} isn't {word}."], BAD
        ),
        True,
        0.60,
    ),
    "verbs": (
        filled(
            ["I did not like this {thing}.", "I didn't enjoy the {thing}.", "I would not recommend this {thing}."], [""]
        ),
        False,
        0.30,
    ),
    "but": (
        filled(["The {thing} looks nice, but it is {word}.", "I wanted to like the {thing}, but it was {word}."], BAD),
        False,
        0.15,
    ),
    "now and then": (filled(["I used to love this {thing}, but now I think it is {word}."], BAD), False, 0.60),
    "others and me": (filled(["Some people praise this {thing}, but I found it {word}."], BAD), False, 0.15),
    "emoji": ([f"{thing} \N{THUMBS DOWN SIGN}" for thing in THINGS] + ["\N{THUMBS DOWN SIGN}"], False, 0.15),
}
"""Texts, whether they are positive, and the share of them that may be judged wrongly."""


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_failures_are_rare(judge: Judge, behaviour: str) -> None:
    texts, positive, most = BEHAVIOURS[behaviour]
    wrong = (judge(texts) > 0.5) != positive
    assert wrong.mean() <= most, (
        f"{wrong.mean():.2f}: {[text for text, one in zip(texts, wrong, strict=True) if one][:9]}"
    )


def test_stress_moves_the_judgement_the_right_way(judge: Judge) -> None:
    for words, sign in ((GOOD, 1), (BAD, -1)):
        plain, stressed = (judge(filled([f"The {{thing}} was {adverb}{{word}}."], words)) for adverb in ("", "really "))
        assert (sign * (stressed - plain) < -0.1).mean() <= 0.15


def test_slips_of_the_keyboard_rarely_change_the_label(judge: Judge) -> None:
    texts = filled(
        ["This is a {word} {thing}.", "The {thing} was {word}."], [word for word in GOOD + BAD if len(word) > 4]
    )
    slips = []
    for place, text in enumerate(texts):
        words = text.split()
        longest = max(range(len(words)), key=lambda index: len(words[index]))
        word = words[longest]
        at = 1 + place % (len(word) - 3)
        words[longest] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        slips.append(" ".join(words))
    assert ((judge(texts) > 0.5) != (judge(slips) > 0.5)).mean() <= 0.1


IDENTITIES = {
    "women": ["woman", "girl", "wife", "mother", "actress"],
    "men": ["man", "boy", "husband", "father", "actor"],
    "faiths": ["Christian", "Muslim", "Jewish man", "Buddhist", "Hindu"],
    "origins": ["Black man", "white man", "Asian woman", "Mexican", "Nigerian", "Russian"],
    "love": ["gay man", "lesbian", "straight man", "bisexual woman", "transgender person"],
}
NAMES = {
    "English": ["Emily", "Anne", "Jack", "Brad", "Greg", "Matthew"],
    "African American": ["Lakisha", "Tamika", "Jamal", "Darnell", "Tyrone", "Keisha"],
    "Indian": ["Priya", "Anjali", "Rahul", "Vikram", "Sanjay", "Meera"],
    "Spanish": ["Maria", "Carlos", "Jose", "Juan", "Lucia", "Miguel"],
}
FRAMES = (
    "{who} made this film and it is {word}.",
    "The main character is {who}; I found the story {word}.",
    "I saw this with {who}. The plot was {word}.",
)


@pytest.mark.parametrize("groups", [IDENTITIES, NAMES], ids=["identities", "names"])
def test_groups_of_people_are_judged_alike(judge: Judge, groups: dict[str, list[str]]) -> None:
    means = {}
    for group, people in groups.items():
        whos = people if groups is NAMES else [f"a {one}" for one in people]
        texts = [frame.format(who=who, word=word) for frame in FRAMES for who in whos for word in GOOD + BAD]
        means[group] = judge(texts).mean()
    assert max(means.values()) - min(means.values()) <= 0.03, means


DISTURBANCES: dict[str, Callable[[str], str]] = {
    "zero width": lambda text: "\u200b".join(text),
    "soft hyphens": lambda text: text.replace("o", "o\u00ad"),
    "tags": lambda text: f"<p class='review'>{text}</p>",
    "entities": lambda text: text.replace(" ", "&nbsp;"),
    "an address": lambda text: f"{text} https://www.example.com/worst-films?id=1",
    "full width": lambda text: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
    "combining marks": lambda text: "".join(c + "\u0336" for c in text),
    "capitals": str.upper,
}


@pytest.mark.parametrize("disturbance", DISTURBANCES)
def test_what_a_reader_does_not_see_changes_nothing(disturbance: str) -> None:
    reader = ReviewReader.of(MODEL)
    for text in filled(["The {thing} was not {word}, but I didn't mind."], GOOD + BAD):
        assert reader.read(DISTURBANCES[disturbance](text)).ids == reader.read(text).ids


@pytest.mark.parametrize("text", ["", "...", "qwxzv zzkqj", "12345", "\u4f60\u597d", "\U0001f9ff"])
def test_a_text_without_a_known_word_gets_no_verdict(judge: Judge, text: str) -> None:
    assert judge([text or " "])[0] == 0.5
