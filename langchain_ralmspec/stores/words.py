"""Words of a text in any script, as BM25 compares them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import chain, pairwise

# Between these no space is written: Thai, Lao, Burmese and what else is written in its
# letters, Khmer, kana, bopomofo, Han, Yi, Javanese, Balinese, Buginese, Batak, the
# scripts of the Tai, cuneiform, hieroglyphs, Tangut, Khitan and Nushu.
_WITHOUT_SPACES = (
    "\u0e01-\u0e4e\u0e81-\u0ece\u1000-\u103f\u1050-\u108f\u109a-\u109d\u1780-\u17d3"
    "\u1950-\u19df\u1a00-\u1a1b\u1a20-\u1aad\u1b00-\u1b4b\u1bc0-\u1bf3\u3005-\u3007"
    "\u3041-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\ua000-\ua48c\ua980-\ua9c0\ua9e0-\ua9ef\ua9fa-\ua9fe\uaa60-\uaa7f\uaa80-\uaadf"
    "\uf900-\ufaff\U00011700-\U00011746\U00012000-\U0001467f"
    "\U00017000-\U00018d7f\U0001aff0-\U0001b2ff\U00020000-\U0003ffff"
)
# Words of Hangul have spaces between them, but the parts of one have none.
_UNSPACED = f"{_WITHOUT_SPACES}\uac00-\ud7a3"
# Where lines end within words, and where what reads pictures puts a space.
_BROKEN = re.compile(
    rf"(?<=[{_UNSPACED}])[^\S\n]*\n[^\S\n]*(?=[{_UNSPACED}])"
    rf"|(?<=[{_WITHOUT_SPACES}])[^\S\n]+(?=[{_WITHOUT_SPACES}])"
)
_RUNS = re.compile(f"[{_UNSPACED}]+|[^{_UNSPACED}]+")
# Emoji, each of them a word, as in Lucene's StandardTokenizer.
_PICTURES = (
    "\u2194-\u2199\u21a9\u21aa\u2300-\u23ff\u25a0-\u27bf\u2934\u2935\u2b00-\u2bff"
    "\U0001f000-\U0001f3fa\U0001f400-\U0001faff"
)
# What stands behind a word, or before one, and is none of its letters: signs of trade,
# numbers in circles, and those of footnotes, but not the exponent of a unit.
_BESIDE = re.compile(r"[℠™\u2460-\u24ff]|(?<=[^\W\d_]{3})[⁰¹²³⁴-⁹]+")
_DIGITS = re.compile(r"[^\W\D0-9]")  # of other scripts
_SOME_UNSPACED = re.compile(f"[{_UNSPACED}]")
# The s of "it's", the t of "don't", the l of "l'eau", the i of "Paris'i": no words.
# Other letters tell words apart, in Uzbek ("ko'z"), Ukrainian, Hebrew, and elsewhere.
_ELIDED = re.compile(
    r"(?<=\w)'[sd]\b|(?<=n)'t\b|(?<=\bi)'m\b|\b[bcdjlmnstv]'(?=\w\w)"
    r"|(?<=[a-z\u00df-\u024f]{3})'[aeinouyıöü]\b"
)
# What is written in more ways than one: in Arabic, Persian and Urdu, as Lucene's
# ArabicNormalizer and PersianNormalizer have it; in Romanian, whose commas were
# cedillas for long; in Russian, whose dots most leave out; in Yiddish, Bengali and
# Malayalam, where two letters may be one character; and all apostrophes.
_ALIKE = str.maketrans(
    dict(
        zip(
            "أإآٱىیےکۀہۂەھșțё’‘ʼʻʹ′׳",
            "ااااييي\u0643" + 5 * "\u0647" + "şţе" + 7 * "'",
            strict=True,
        )
    )
    | dict(zip("װױײৎ", ("וו", "וי", "יי", "ত্"), strict=True))
    | dict(zip("ൺൻർൽൾൿ", ("ണ്", "ന്", "ര്", "ല്", "ള്", "ക്"), strict=True))
)
_ALIKE_BUT_IN_STEMS = str.maketrans("ıة", "i\u0647")
# A nasal of Devanagari before another letter is a dot as well, with a moon or without.
_NASAL = re.compile("[ङञणनम]्(?=[क-ह])|ँ")
_AROUND = 0x20D0, 0x2100  # frames and the like, as of keys
_GREEK = re.compile("[\u0370-\u03ff\u1f00-\u1fff]+")
# Behind a word, or beside a script without spaces; or several, anywhere.
_LONE_CAPITALS = re.compile(
    rf"(?:(?<=\w[ \u00a0\u202f\u2010\u2011-])|(?<=[{_UNSPACED}]))[^\W\d_]"
    rf"(?![^\W{_UNSPACED}])|(?<!\w)[^\W\d_](?=[{_UNSPACED}])"
    rf"|(?<![^\W{_UNSPACED}])[^\W\d_a-z{_UNSPACED}]{{2,3}}(?![^\W{_UNSPACED}])"
)
_CAPITALS = re.compile(r"[^\W\d_a-z]{2}\w*")
_BESIDE_NAMES = 40  # letters in which the word beside one is looked for


def words_of(text: str, *, singly: bool = False) -> list[str]:
    """Words in small letters; where none are written apart, every two characters.

    A word is made of letters, digits, underscores and the marks on them; one letter is
    one, and so are C++, C# and emoji. Two neighbours each stand for Chinese, Japanese,
    Korean and Thai text, as in Lucene's CJKAnalyzer, and a character alone for itself.

    Args:
        text: any text.
        singly: give the characters of such pairs as well, as Lucene's CJKBigramFilter
            does with ``outputUnigrams``. Documents are indexed so, and a query's words
            are then among those of every document that has its text: one character
            alone finds the longer words that it is in. Queries have the pairs only,
            which say more.
    """
    if singly and not text.isascii():  # what a query has apart is sought apart
        text = _BROKEN.sub("", text)
    small = _folded(text)
    small = _ELIDED.sub(" ", small)
    if not _SOME_UNSPACED.search(small):
        found: list[str] = _words().findall(small)
        return found
    # Scripts apart first: a letter of one is no part of a word of another.
    words = (word for run in _RUNS.findall(small) for word in _words().findall(run))
    return [part for word in words for part in _cut(word, singly=singly)]


def spelt_alike(text: str) -> str:
    """A text, or the stem of a word, in one spelling.

    Turkish has two letters i, of which others know one, and many write the one at the
    end of Arabic words as another. Stemmers of these languages tell endings by them,
    and come first; others would take one for a vowel, and one for none.
    """
    return text.translate(_ALIKE_BUT_IN_STEMS)


def with_turkish_i(text: str) -> str:
    """A Turkish text whose capital I, without a dot, has become the small one."""
    return unicodedata.normalize("NFC", text).replace("I", "ı")


def lone_capitals_kept(text: str, short: frozenset[str]) -> str:
    """The text, in which capitals that are names do not pass for stop words.

    The A of "vitamin A" is no article, and IT none of "it". An underscore makes another
    word of it. Among words in capitals, as in titles, two or three are no name.

    Args:
        text: any text.
        short: stop words of up to three letters, in small ones.
    """
    if not short:
        return text

    def kept(match: re.Match[str]) -> str:
        word = match[0]
        is_name = word.isupper() and word.lower() in short
        if is_name and len(word) > 1:
            start, end = match.span()
            before = text[max(0, start - _BESIDE_NAMES) : start].split()[-1:]
            behind = text[end : end + _BESIDE_NAMES].split()[:1]
            is_name = not any(map(_CAPITALS.match, before + behind))
        return word + "_" * is_name

    return _LONE_CAPITALS.sub(kept, text)


def _folded(text: str) -> str:
    """The text in small letters, without what is not always written in a word.

    Letters and their marks are one where there is one, and all of one width. The
    vowels of Arabic and Hebrew, and the dots of Hindi, are marks that most leave out,
    as they do with marks that make no letter of their own, of stress and tones.
    Some letters are written in more ways than one. Greek has no accents in capitals,
    and most scripts have digits of their own.
    """
    if text.isascii():
        return text.lower()
    apart = _BESIDE.sub(r" \g<0> ", text)
    composed = unicodedata.normalize("NFKC", apart)
    small = unicodedata.normalize("NFKC", composed.casefold())
    small = _GREEK.sub(lambda word: _bare(word[0]), small.translate(_ALIKE))
    small = _DIGITS.sub(lambda digit: str(unicodedata.decimal(digit[0])), small)
    return _NASAL.sub("ं", _unwritten().sub("", small))


def _bare(word: str) -> str:
    """A word without accents."""
    letters = unicodedata.normalize("NFD", word)
    return "".join(each for each in letters if not unicodedata.combining(each))


def _cut(run: str, *, singly: bool) -> Iterator[str]:
    if len(run) == 1 or not _SOME_UNSPACED.match(run):
        yield run
        return
    yield from map("".join, pairwise(run))
    if singly:
        yield from run


@cache
def _unwritten() -> re.Pattern[str]:
    """Marks that are left out, and what shows no more than how a text looks.

    That is all of Unicode's format characters, such as soft hyphens and joiners, but
    the space of no width, which parts words; the long stroke in Arabic words; and what
    chooses among the shapes of the character before.
    """
    # Above letters that there are not with such a mark; of Arabic, Hebrew and Syriac;
    # around letters.
    ranges = (0x300, 0x370), (0x488, 0x48A), (0x591, 0x780), (0x890, 0x900), _AROUND
    every = map(chr, chain.from_iterable(range(*ends) for ends in ranges))
    marks = (c for c in every if unicodedata.category(c) in {"Mn", "Me"})
    formats = (c for c in map(chr, range(0x10000)) if unicodedata.category(c) == "Cf")
    shapes = "\u034f\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef"
    unwritten = {*marks, *formats, "\u0640", "\u093c"} - {"\u200b"}
    return re.compile(f"[{''.join(sorted(unwritten))}{shapes}]")


@cache
def _words() -> re.Pattern[str]:
    """Words, pictures too; letters alone have no marks, as the vowels of Hindi are.

    Marks stand below U+1E950, and to look at all characters takes ten times as long.
    """
    every = map(chr, range(0x300, 0x1E950))
    marks = "".join(char for char in every if unicodedata.category(char)[0] == "M")
    return re.compile(
        rf"(?<!\w)[a-z](?:\+\+|#)(?![^\W\d])|\w[\w{marks}]*"
        rf"|[\U0001f1e6-\U0001f1ff]{{2}}|[{_PICTURES}]"  # flags are two
    )
