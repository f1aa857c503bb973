"""Which words BM25 finds, in which scripts, and what a retriever over it does."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document

from langchain_ralmspec import RaLMSpecRetriever
from langchain_ralmspec.errors import (
    EmptyStoreError,
    InvalidValueError,
    StoreError,
    UnknownArgumentError,
)
from langchain_ralmspec.stores import BM25Store
from langchain_ralmspec.stores.words import words_of
from tests.unit_tests.stores.test_bm25_store import (
    PLAIN,
    documents_of,
    found_ids,
    store_of,
)

POEM = ["床前明月光", "疑是地上霜", "举头望明月", "低头思故乡"]


def over(*contents: str, **options: Any) -> BM25Store:
    return BM25Store.from_documents([Document(text) for text in contents], **options)


FOUND: list[tuple[list[str], str, list[str]]] = [
    (POEM, "故乡", ["3"]),
    (POEM, "明月", ["0", "2"]),
    (["東京タワーに行く", "京都の寺を見る"], "タワー", ["0"]),
    (["서울의 날씨", "부산의 바다"], "날씨", ["0"]),
    (["ฉันรักประเทศไทย", "แมวกินปลา"], "ประเทศ", ["0"]),
    (["हिन्दी भाषा", "अंग्रेज़ी भाषा"], "हिन्दी", ["0"]),
    (["عربي كتاب", "قلم"], "قلم", ["1"]),
    (["Größe der Bäume", "Farbe"], "Ba\u0308ume", ["0"]),
    (["ΣΊΣΥΦΟΣ", "ΆΤΛΑΣ"], "σίσυφος", ["0"]),
    (["ＡＢＣ ﾀﾜｰ", "def"], "abc", ["0"]),
    (["vitamin A", "vitamin B", "vitamin C"], "vitamin C", ["2", "0", "1"]),
    (["vitamin C", "vitamin B", "vitamin A"], "vitamin A?", ["2", "0", "1"]),
    (["A is old", "B is a letter", "C is a letter too"], "What is C?", ["2"]),
    (["written in C", "written in C++", "written in C#"], "C++", ["1"]),
    (["written in C", "written in C++", "written in C#"], "Is C# old?", ["2"]),
    (["it's the dog's", "l'eau d'or", "don't"], "eau", ["1"]),
    (["it's the dog's", "l'eau d'or", "don't"], "s t l d", []),
    (["foo_bar", "foo"], "foo_bar", ["0"]),
    (["in 2024年", "in 1999"], "2024", ["0"]),
    (POEM, "月", ["0", "2"]),
    (POEM, "乡，光", ["0", "3"]),
    (["我喜欢猫", "猫", "狗"], "猫", ["1", "0"]),
    (["서울의 날씨", "부산의 바다"], "산", ["1"]),
    (["แมวกินปลา", "หมา"], "ก", ["0"]),
    (["İstanbul güzel", "Ankara"], "istanbul", ["0"]),
    (["istanbul", "Ankara"], "İSTANBUL", ["0"]),
    (["Isparta", "Ankara"], "ısparta", ["0"]),
    (["كِتَابٌ جَدِيدٌ", "قلم"], "كتاب", ["0"]),
    (["كتاب", "قلم"], "كِتَـــابٌ", ["0"]),
    (["שָׁלוֹם", "ספר"], "שלום", ["0"]),
    (["Ｐｙｔｈｏｎ", "Ruby"], "python", ["0"]),
    (["python", "Ruby"], "ＰＹＴＨＯＮ", ["0"]),
    (["STRASSE", "Weg"], "straße", ["0"]),
    (["Straße", "Weg"], "STRASSE", ["0"]),
    (["Donau\u00addampf\u00adschiff", "Boot"], "Donaudampfschiff", ["0"]),
    (["می\u200cخواهم", "کتاب"], "میخواهم", ["0"]),
    (["क्\u200dष", "हिन्दी"], "क्ष", ["0"]),
    (["one\u200btwo", "three"], "two", ["0"]),
    (["Ὀδυσσεύς", "Κίρκη"], "ΟΔΥΣΣΕΥΣ", ["0"]),
    (["ΔΡΟΜΟΣ", "πόλη"], "δρόμος", ["0"]),
    (["أحمد", "قلم"], "احمد", ["0"]),
    (["مدرسة", "قلم"], "مدرسه", ["0"]),
    (["२०२४ साल", "1999"], "2024", ["0"]),
    (["in 2024", "1999"], "٢٠٢٤", ["0"]),
    (["ꦧꦱꦗꦮ", "ꦏꦏ"], "ꦗꦮ", ["0"]),
    (["ꆈꌠꉙ", "ꀀꀁ"], "ꌠꉙ", ["0"]),
    (["کتاب خوب", "قلم"], "كتاب", ["0"]),
    (["كتاب", "قلم"], "کتاب", ["0"]),
    (["پاکستان ہے", "قلم"], "پاكستان", ["0"]),
    (["București și Iași", "Cluj"], "Iaşi", ["0"]),
    (["Зелёная ёлка", "дом"], "елка", ["0"]),
    (["мій комп'ютер", "дім"], "комп\u02bcютер", ["0"]),
    (["Hawai\u02bbi", "Guam"], "Hawai'i", ["0"]),
    (["葛\U000e0100城市", "京都"], "葛城", ["0"]),
    (["\u1075\u1076\u1077", "abc"], "\u1076\u1077", ["0"]),  # Shan
    (["\uaa61\uaa62\uaa63", "abc"], "\uaa62\uaa63", ["0"]),  # Khamti
    (["\u1a00\u1a01\u1a02", "abc"], "\u1a01\u1a02", ["0"]),  # Buginese
    (["\U00011700\U00011701\U00011702", "abc"], "\U00011701\U00011702", ["0"]),
    (
        ["\U00017000\U00017001\U00017002", "abc"],
        "\U00017001\U00017002",
        ["0"],
    ),  # Tangut
    (["ㄅㄆㄇ", "abc"], "ㄆㄇ", ["0"]),
    (["I like 🍕🍺", "I like 🍔"], "🍺", ["0"]),
    (["❤️ you", "♠"], "❤", ["0"]),
    (["⭐⭐ good", "⏰ late"], "⭐", ["0"]),
    (["⭐⭐ good", "⏰ late"], "⏰", ["1"]),
    (["हिन्दी में", "अन्य"], "हिंदी", ["0"]),
    (["पंडित", "अन्य"], "पण्डित", ["0"]),
    (["आँख", "कान"], "आंख", ["0"]),
    (["ज़रूरत", "कान"], "जरूरत", ["0"]),
    (["അവൻ", "abc"], "അവന്\u200d", ["0"]),
    (["হৃৎপিণ্ড", "abc"], "হৃত্\u200cপিণ্ড", ["0"]),
    (["Москва́ — столица", "дом"], "Москва", ["0"]),
    (["mėnuo", "diena"], "mė̃nuo", ["0"]),
    (["ẹ́gbẹ́", "ilé"], "ẹgbẹ", ["0"]),
    (["低头思故\n  乡", "月"], "故乡", ["0"]),
    (["低 头 思 故 乡", "月"], "故乡", ["0"]),
    (["서울의 날\n씨", "바다"], "날씨", ["0"]),
    (["서울 의회", "바다"], "울의", []),
    (["Java™ 21", "Go"], "java", ["0"]),
    (["①Install it", "Go"], "install", ["0"]),
    (["inflation³ fell", "Go"], "inflation", ["0"]),
    (["5 m² of land", "Go"], "m2", ["0"]),
    (["ھەولێر", "abc"], "هەولێر", ["0"]),
    (["ײדיש", "abc"], "יידיש", ["0"]),
    (["צ׳ק", "abc"], "צ'ק", ["0"]),
    (["written in C++20", "written in C"], "C++", ["0"]),
    (["ދިވެހި", "ދަވަހު"], "ދިވެހި", ["0"]),
    (["𓀀𓀁𓀂", "𒀀𒀁"], "𓀁𓀂", ["0"]),
    (["1\ufe0f\u20e3 first", "2"], "1", ["0"]),
]


@pytest.mark.parametrize("content", [text for row in FOUND for text in row[0]])
def test_a_query_has_no_word_that_a_document_of_the_same_text_lacks(
    content: str,
) -> None:
    assert set(words_of(content)) <= set(words_of(content, singly=True))


@pytest.mark.parametrize(("contents", "query", "expected"), FOUND)
def test_words_of_every_script_are_found(
    contents: list[str], query: str, expected: list[str]
) -> None:
    assert found_ids(over(*contents), query, 9) == expected


def test_two_neighbours_are_a_word_and_one_alone_is_one() -> None:
    assert words_of("低头思故乡，书") == ["低头", "头思", "思故", "故乡", "书"]
    assert words_of("Python的list类") == ["python", "的", "list", "类"]
    assert words_of("故乡，书a", singly=True) == ["故乡", "故", "乡", "书", "a"]


def test_stop_words_of_a_language_are_spelt_as_words_are() -> None:
    store = over("kitap artık", stopwords="turkish", stemmer=None)
    assert found_ids(store, "artık", 1) == []
    assert found_ids(store, "kitap", 1) == ["0"]


@pytest.mark.parametrize("query", ["ışık", "IŞIK", "ışığın", "IŞIKLAR", "IŞIĞA"])
def test_turkish_endings_are_known_by_turkish_letters(query: str) -> None:
    store = over("ışıklar yandı", "iş arıyor", stopwords=None, stemmer="turkish")
    assert found_ids(store, query, 2) == ["0"]


def test_a_composed_capital_with_a_dot_is_one_letter_as_a_decomposed_one() -> None:
    store = over("EVLERİ", "iş", stopwords=None, stemmer="turkish")
    assert found_ids(store, unicodedata.normalize("NFD", "EVLERİ"), 2) == ["0"]


@pytest.mark.parametrize("query", ["SINIFSAL", "sinifsal", "sınıfsal", "Sınıfsal"])
@pytest.mark.parametrize("stemmer", ["porter", "english", None])
def test_elsewhere_both_letters_i_are_one(query: str, stemmer: str | None) -> None:
    store = over("sınıfsal ayrım", "iş", stemmer=stemmer)
    assert found_ids(store, query, 2) == ["0"]


@pytest.mark.parametrize("query", ["مدرسة", "مدرسه", "المدرسة"])
def test_arabic_words_are_found_in_either_spelling_of_their_end(query: str) -> None:
    store = over("المدرسة كبيرة", "قلم", stopwords=None, stemmer="arabic")
    assert found_ids(store, query, 2) == ["0"]


# A tokenizer of one's own


def by_commas(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def test_a_tokenizer_takes_the_place_of_the_analysis(tmp_path: Path) -> None:
    store = over("the heap, A tree", "The heap, a list", tokenizer=by_commas)
    assert found_ids(store, "the heap", 2) == ["0"]
    assert found_ids(store, "heap", 2) == []
    store.save(tmp_path / "s")
    loaded = BM25Store.load(tmp_path / "s", tokenizer=by_commas)
    assert found_ids(loaded, "a list", 2) == ["1"]
    with pytest.raises(StoreError, match="made with a tokenizer, got tokenizer=None"):
        BM25Store.load(tmp_path / "s")
    over("a heap").save(tmp_path / "plain")
    with pytest.raises(StoreError, match="made with no tokenizer, got tokenizer=<fun"):
        BM25Store.load(tmp_path / "plain", tokenizer=by_commas)


def test_a_tokenizer_that_fails_is_a_store_error() -> None:
    def fail(text: str) -> list[str]:
        raise LookupError(text)

    with pytest.raises(StoreError, match="failed to cut up 'a heap': LookupError"):
        over("a heap", tokenizer=fail)


# Ids and characters


def test_ids_that_are_made_meet_none_that_are_given() -> None:
    given = [Document("heap", id="1"), Document("tree"), Document("list", id="#1")]
    store = BM25Store.from_documents(given)
    assert found_ids(store, "tree", 1) == ["##1"]
    assert found_ids(store, "heap", 1) == ["1"]


def test_halves_of_characters_are_joined_or_replaced(tmp_path: Path) -> None:
    store = over("a \ud835\udc9c \ud800 heap")
    (hits,) = store.search(store.encode(["heap"]), 1)
    assert hits[0].document.page_content == "a \U0001d49c \ufffd heap"
    metadata = {"title": "\ud835\udc9c", "\ud835": ["\udc9c"]}
    odd = Document("heap", id="\ud835\udc9c", metadata=metadata)
    BM25Store.from_documents([odd]).save(tmp_path)
    (hits,) = BM25Store.load(tmp_path).search(store.encode(["heap"]), 1)
    assert hits[0].id == hits[0].document.id == "\U0001d49c"
    assert hits[0].document.metadata == {"title": "\U0001d49c", "\ufffd": ["\ufffd"]}


@pytest.mark.parametrize(
    ("ids", "wrong"),
    [
        (["\ud835", "\ud836"], "unique, got '\ufffd' more than once"),
        ([7, "7"], "must be a string, got 7 of the one that says 'heap'"),
    ],
)
def test_ids_that_no_file_can_tell_apart_are_refused(ids: Any, wrong: str) -> None:
    given = [Document("heap"), Document("tree")]
    for document, id_ in zip(given, ids, strict=True):
        document.id = id_
    with pytest.raises(InvalidValueError, match=wrong):
        BM25Store.from_documents(given)


# Behind the retriever


def test_a_retriever_is_made_from_documents() -> None:
    cat = Document(id="a", page_content="cat")
    documents = [cat, Document(id="b", page_content="dog")]
    retriever = RaLMSpecRetriever.from_documents(documents, k=1, stemmer=None, k1=1.2)
    assert [d.id for d in retriever.invoke("a dog")] == ["b"]
    assert isinstance(retriever.store, BM25Store)


@pytest.mark.parametrize("policy", ["lookup", "same"])
def test_over_bm25_the_same_documents_are_guessed(policy: str) -> None:
    documents = documents_of(["aa", "bb", "aa bb", "cc"])
    retriever = RaLMSpecRetriever.from_documents(documents, **PLAIN, k=2)
    session = retriever.session(guess_policy=policy)
    (found,) = session.verify(["aa"])
    store = store_of(["aa", "bb", "aa bb", "cc"])
    assert [d.id for d in found] == found_ids(store, "aa", 2)
    assert session.speculate("bb") == found
    assert session.verify(["bb"]) == [retriever.invoke("bb")]


def test_bad_arguments_of_the_retriever_are_refused() -> None:
    documents = [Document(page_content="cat")]
    with pytest.raises(InvalidValueError, match="'bm25', got 'bm52'"):
        RaLMSpecRetriever.from_documents(documents, kind="bm52")
    with pytest.raises(UnknownArgumentError, match="'stemer'; did you mean 'stemmer'"):
        RaLMSpecRetriever.from_documents(documents, stemer="porter")
    with pytest.raises(InvalidValueError, match="k1"):
        RaLMSpecRetriever.from_documents(documents, k1=-1)


@pytest.mark.parametrize("policy", ["lookup", "same"])
def test_a_query_of_unknown_words_is_an_empty_store_with_a_remedy(policy: str) -> None:
    retriever = RaLMSpecRetriever(vectorstore=store_of(["aa", "bb"]), k=2)
    assert retriever.invoke("zz") == []
    session = retriever.session(guess_policy=policy)
    session.verify(["aa"])
    with pytest.raises(EmptyStoreError, match="'zz': it has none"):
        session.verify(["zz"])


def test_stop_words_are_those_that_were_given() -> None:
    documents = [Document("the fox", id="a"), Document("a hen", id="b")]
    words = ["the"]
    store = BM25Store.from_documents(documents, stopwords=words)
    words.append("fox")
    (hits,) = store.search(store.encode(["fox"]), 1)
    assert [hit.id for hit in hits] == ["a"]


@pytest.mark.parametrize(
    ("texts", "query", "words"),
    [
        (["我用C语言写程序", "我用C++写程序"], "C++", {}),
        (["written in C", "written in C++"], "C++で書かれた", {}),
        (["维生素C", "维生素A是脂溶性的，对眼睛好"], "维生素A", {}),
        (["비타민C", "비타민A는 좋다"], "비타민A", {}),
        (["vitamin C", "vitamin\u00a0A is good"], "vitamin A", {}),
        (["витамин С", "витамин К"], "витамин К", {"stopwords": "russian"}),
        (["🇧🇬 Sofia", "🇬🇧 London"], "🇬🇧", {}),
        (["up", "↩️ back"], "↩️", {}),
    ],
)
def test_letters_beside_other_scripts_are_names(
    texts: list[str], query: str, words: dict[str, Any]
) -> None:
    documents = [Document(text) for text in texts]
    store = BM25Store.from_documents(documents, **words)
    (hits,) = store.search(store.encode([query]), 1)
    assert [hit.document.page_content for hit in hits] == texts[1:]


@pytest.mark.parametrize(
    ("texts", "query"),
    [
        (["What to wear", "The IT department handbook"], "Who leads IT?"),
        (["What to wear", "The IT department handbook"], "IT"),
        (["A logic gate", "An OR gate gives one"], "OR gate"),
        (["An AND gate", "A NOT gate inverts"], "What is a NOT gate?"),
    ],
)
def test_short_names_in_capitals_are_no_stop_words(
    texts: list[str], query: str
) -> None:
    store = over(*texts)
    assert found_ids(store, query, 1) == ["1"]


def test_short_words_among_capitals_are_no_names() -> None:
    store = over("WHAT TO DO IF IT BURNS", "IT", stemmer=None)
    assert found_ids(store, "what to do if it burns", 2) == ["0"]
    assert found_ids(store, "DO NOT BURN IT", 2) == ["0"]


@pytest.mark.parametrize(
    ("texts", "query"),
    [
        (["Ko'z ochiq.", "Ko'l chuqur."], "ko'l"),
        (["So\u02bbz nima?", "So\u02bbm arzon."], "so\u02bbm"),
        (["ג\u05f3ז", "ג\u05f3ל"], "ג\u05f3ל"),
        (["צ\u05f3יפ", "ג\u05f3יפ"], "ג\u05f3יפ"),
        (["в'яз", "м'яз"], "м'яз"),
    ],
)
def test_an_apostrophe_may_be_a_part_of_a_word(texts: list[str], query: str) -> None:
    assert found_ids(over(*texts), query, 1) == ["1"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The dog's", ["the", "dog"]),
        ("I don't", ["i", "don"]),
        ("I'm", ["i"]),
        ("L\u2019eau", ["eau"]),
        ("b'fhéidir", ["fhéidir"]),
        ("Paris'i", ["paris"]),
        ("İzmir'e", ["izmir"]),
        ("Linux'u", ["linux"]),
        ("ko'z", ["ko", "z"]),
    ],
)
def test_what_is_elided_is_no_word(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_a_turkish_ending_is_not_looked_up() -> None:
    store = over("Paris'i gördüm.", "İzmir güzel bir şehir.", stemmer=None)
    assert found_ids(store, "İzmir'i", 1) == ["1"]
