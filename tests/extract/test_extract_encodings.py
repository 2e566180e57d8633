"""Texts in any encoding: read right, or refused; never garbled without a word."""
# ruff: noqa: RUF001 - letters of many languages

from pathlib import Path

import pytest

from cache import DataError, UsageError
from extract import read_manifest
from extract.decode import DecodeError, decode_text
from extract.reading import reading

GERMAN = (
    "Das Wetter in München ist schön, die Straßen sind naß und wir trinken süßen Käse-Kaffee über dem Fluß. Früher "
    "wäre das größte Glück ein Frühstück im Grünen gewesen. Können Sie mir erklären, warum der Zug so spät fährt? "
    "Für Müller wäre natürlich auch ein Stück Brötchen mit Käse schön, aber es müßte größer sein."
)
CHINESE = "今天天气很好,我们去公园散步,喝了咖啡。明天可能会下雨,所以我们在家里看书和电影。你觉得怎么样?"
TEXTS = {
    "cp1252": [
        GERMAN,
        "Le café était fermé à Noël, où les élèves français ont reçu leurs prêts; ça m'a déçu, très déçu. Même s'il "
        "pleut, nous irons à la fête demain soir, là-bas derrière l'église, près du théâtre.",
        "El niño comió piña mañana en España, ¿qué pasó después? El año que viene habrá más ánimo y emoción en la "
        "canción del corazón. También llegó el camión con los plátanos.",
        "It\u2019s a great caf\u00e9 \u2013 I love it! \u201cBest coffee in town,\u201d she said. They\u2019re open on "
        "Sundays too. Don\u2019t miss the cr\u00e8me br\u00fbl\u00e9e; it\u2019s worth it.",
        "Hyvää päivää, mitä kuuluu? Tänään on kaunis sää, ja me lähdemme mökille järven rannalle. Äiti keittää kahvia.",
        "Não há ninguém em casa amanhã de manhã. A situação não é fácil, mas a solução está próxima.",
    ],
    "cp1250": [
        "Wczoraj byłem w pięknym mieście, gdzie zażółciłem gęślą jaźń. Późnym wieczorem poszliśmy na długi spacer.",
        "Příliš žluťoučký kůň úpěl ďábelské ódy. Dnes je krásné počasí a půjdeme na procházku do města.",
    ],
    "iso8859-2": [
        "Wczoraj byłem w pięknym mieście, gdzie zażółciłem gęślą jaźń. Późnym wieczorem poszliśmy na spacer."
    ],
    "cp1254": ["Bugün hava çok güzel, arkadaşlarımla sahilde yürüdük ve çay içtik. Yarın yağmur yağacakmış."],
    "cp1251": ["Сегодня прекрасная погода, мы гуляли по парку и пили кофе. Завтра обещают дождь.", "in Москва today"],
    "koi8-r": ["Сегодня прекрасная погода, мы гуляли по парку и пили кофе. Завтра обещают дождь.", "in Москва today"],
    "cp1253": ["Σήμερα ο καιρός είναι υπέροχος και πήγαμε βόλτα στη θάλασσα. Αύριο θα βρέξει."],
    "cp1255": ["היום מזג האוויר נפלא והלכנו לטייל בפארק ושתינו קפה. מחר יירד גשם."],
    "gb18030": [CHINESE, "Great trip to 北京 with my 朋友, the food was 很好吃"],
    "big5": ["今天天氣很好,我們去公園散步,喝了咖啡。明天可能會下雨,所以我們在家裡看書和電影。"],
    "shift_jis": ["今日は天気がとても良いので、公園を散歩してコーヒーを飲みました。明日は雨が降るそうです。"],
    "euc-jp": ["今日は天気がとても良いので、公園を散歩してコーヒーを飲みました。明日は雨が降るそうです。"],
    "euc-kr": ["오늘은 날씨가 아주 좋아서 공원을 산책하고 커피를 마셨습니다. 내일은 비가 온다고 합니다."],
}


def test_iso_2022_is_read_where_it_is_named_and_never_taken_for_utf8(tmp_path: Path):
    path = tmp_path / "posts.csv"
    for encoding, text in (("iso2022_jp", "今日は"), ("iso2022_kr", "오늘은")):
        path.write_bytes(f"id,text\n1,{text}\n".encode(encoding))
        assert read_manifest(path, encoding=encoding).samples[0].inputs == {"text": text}
        with pytest.raises(DataError, match="in ISO-2022, of which there are several; name it by --encoding"):
            read_manifest(path)
        with pytest.raises(DataError, match="in ISO-2022"):
            read_manifest(path, encoding="shift_jis")
    path.write_bytes(b"id,text\n1,\x1b[1mbold\x1b[0m\n")
    assert read_manifest(path).samples[0].inputs == {"text": "\x1b[1mbold\x1b[0m"}


def pieces() -> list[tuple[str, str]]:
    """Encoding and text: parts of a sentence of every length, and tables of such parts."""
    found = []
    for encoding, texts in TEXTS.items():
        for text in texts:
            for length in (8, 15, 30, 60, 120, 250, 500):
                for start in (0, 7, 23):
                    part = (text * 8)[start : start + length]
                    found.append((encoding, part))
                    rows = [f'{number},"{part[at : at + 40]}",good' for number, at in enumerate(range(0, length, 40))]
                    found.append((encoding, "\n".join(["id,text,label", *rows]) + "\n"))
    return found


def test_no_text_is_garbled_without_a_word():
    right, refused, read = set(), 0, 0
    for encoding, text in pieces():
        try:
            found = decode_text(text.encode(encoding))
        except DecodeError as error:
            refused += "--encoding" in str(error) or "no encoding that is known" in str(error)
            continue
        assert found == text, encoding
        read += 1
        right.add(encoding if not text.isascii() else "")
    assert {"cp1252", "gb18030", "cp1250", "cp1251"} <= right
    assert refused > 100
    assert refused + read == len(pieces()), "every refusal says what to do"


def test_latin_1_and_gb18030_are_found_where_there_is_enough_of_them():
    assert decode_text(GERMAN.encode("latin-1")) == GERMAN
    assert decode_text((CHINESE * 3).encode("gb18030")) == CHINESE * 3


def test_a_short_text_is_refused_with_its_readings():
    with pytest.raises(DecodeError) as caught:
        decode_text("id,text\n1,ein schöner Tag\n".encode("latin-1"))
    for part in ("'schöner' in cp1252", "in cp1251", "save it as UTF-8", "--encoding"):
        assert part in str(caught.value)


def test_what_the_user_names_is_taken_after_utf8():
    with reading(encoding="cp1252") as how:
        assert decode_text("schöner".encode("latin-1"), legacy="gb18030") == "schöner"
        assert decode_text("schöner".encode()) == "schöner"
        assert how.notes()["remarks"] == ["texts or tables were read 1 in cp1252, 1 in utf-8"]
    with reading(encoding="ascii"), pytest.raises(DecodeError, match="neither UTF-8 nor ascii, which --encoding names"):
        decode_text("schöner".encode("latin-1"))


@pytest.mark.parametrize("name", ["no-such", "zlib", "hex", "rot13"])
def test_what_is_no_encoding_of_texts_is_refused(name: str):
    with pytest.raises(UsageError, match=f"no encoding '{name}'"), reading(encoding=name):
        pass


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["id,text\n1,a day\n", "id,text\n1,今天天气很好,很好很好\n", "hällo 🙂 x"])
def test_utf_16_without_its_mark_is_told_by_its_nuls(encoding: str, text: str):
    assert decode_text(text.encode(encoding)) == text


@pytest.mark.parametrize("text", ["a\0b", "ab\0c", "a\0", "\0a", "text with\0a NUL or two\0 in it", "\0\0\0\0"])
def test_nuls_in_utf8_stay_what_they_are(text: str):
    assert decode_text(text.encode()) == text


def test_a_table_of_two_encodings_is_refused(tmp_path: Path):
    rows = [f'{number},"{GERMAN}"' for number in range(9)]
    raw = b"id,text\n" + "\n".join(rows[:5]).encode("cp1252") + b"\n" + "\n".join(rows[5:]).encode()
    (tmp_path / "posts.csv").write_bytes(raw)
    for encoding in (None, "cp1252"):
        with pytest.raises(DataError, match=r"posts\.csv cannot be read: in several encodings: line 7 is UTF-8"):
            read_manifest(tmp_path, encoding=encoding)


def test_the_manifest_tells_which_encoding_was_taken(tmp_path: Path):
    (tmp_path / "posts.csv").write_bytes(f'id,text\n1,"{GERMAN}"\n'.encode("cp1252"))
    manifest = read_manifest(tmp_path)
    assert manifest.samples[0].inputs["text"] == GERMAN
    assert manifest.notes["remarks"] == ["texts or tables were read 1 in cp1250"]  # which has these letters, too
    (tmp_path / "posts.csv").write_bytes("id,text\n1,schön\n".encode("cp1252"))
    with pytest.raises(DataError, match="name its encoding by --encoding"):
        read_manifest(tmp_path)
    named = read_manifest(tmp_path, encoding="latin-1")
    assert named.samples[0].inputs["text"] == "schön"
    assert named.notes["encoding"] == "latin-1"


def test_utf8_is_nothing_to_speak_of(tmp_path: Path):
    (tmp_path / "posts.csv").write_text("id,text\n1,schön\n", encoding="utf-8")
    assert "remarks" not in read_manifest(tmp_path).notes
