"""Word lists of the spoken sentences, sorted by what the words can do in one; and a checkpoint's own vocabulary."""

from __future__ import annotations

import re
from pathlib import Path

_ENGLISH = """
digit: zero one two three four five six seven eight nine
day: monday tuesday wednesday thursday friday saturday sunday
month: january february march april may june july august september october november december
color: red green blue yellow purple orange black white brown pink grey gray
family: mother father sister brother son daughter uncle aunt grandmother grandfather baby family friend
animal: dog cat bird fish horse cow pig sheep goat chicken duck goose mouse rabbit lion tiger bear wolf fox elephant
    monkey snake frog bee spider
food: bread butter cheese milk water coffee tea juice apple banana lemon egg eggs meat fish rice soup salad cake
    chocolate sugar salt potato tomato onion sandwich breakfast lunch dinner
object: house door window table chair bed lamp book pen paper letter bag box key phone computer clock watch car bus
    train bicycle boat ship plane ball cup glass plate bottle knife fork spoon shoe shirt hat coat dress picture
    camera television radio machine tree flower garden
device: light lights lamp radio television music computer phone camera fan heater alarm machine
place: house school garden kitchen city village street park station airport hospital church market shop office hotel
    river sea beach mountain forest farm room bedroom bathroom restaurant library museum
adjective: big small old new young good bad hot cold warm long short fast slow happy sad tired hungry easy hard heavy
    clean dirty open closed cheap expensive beautiful strong weak quiet loud dark bright rich poor free ready empty
    full
verb: see want need like love have find buy take bring open close clean make use sell know remember watch wash carry
    paint hold break show choose forget
move: come go run walk sleep sit stand wait eat drink sing dance swim fly jump work play read write laugh
who: i you we they
time: today tomorrow yesterday now tonight morning evening afternoon
weather: sunny cloudy windy rainy cold hot warm
unit: seconds minutes hours
teen: ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen
tens: twenty thirty forty fifty sixty seventy eighty ninety
"""
# A German word and its English; nouns with their articles, as subject and as object: der_hund/den/dog.
_GERMAN = """
noun: der_hund/den/dog die_katze/die/cat das_pferd/das/horse die_kuh/die/cow das_schwein/das/pig der_vogel/den/bird
    der_fisch/den/fish die_maus/die/mouse das_haus/das/house die_schule/die/school der_garten/den/garden
    die_stadt/die/city das_auto/das/car der_zug/den/train der_bus/den/bus das_buch/das/book der_tisch/den/table
    der_stuhl/den/chair das_bett/das/bed die_lampe/die/lamp die_uhr/die/clock der_baum/den/tree die_blume/die/flower
    das_wasser/das/water das_brot/das/bread die_milch/die/milk der_apfel/den/apple der_ball/den/ball
    die_mutter/die/mother der_vater/den/father der_bruder/den/brother die_schwester/die/sister das_kind/das/child
    der_mann/den/man die_frau/die/woman der_freund/den/friend der_junge/den/boy die_tür/die/door
    das_fenster/das/window
adjective: rot/red grün/green blau/blue gelb/yellow schwarz/black weiß/white braun/brown groß/big klein/small alt/old
    neu/new jung/young gut/good schnell/fast langsam/slow kalt/cold warm/warm müde/tired schön/beautiful
day: montag/monday dienstag/tuesday mittwoch/wednesday donnerstag/thursday freitag/friday samstag/saturday
    sonntag/sunday
number: null/zero eins/one zwei/two drei/three vier/four fünf/five sechs/six sieben/seven acht/eight neun/nine
    zehn/ten elf/eleven zwölf/twelve dreizehn/thirteen vierzehn/fourteen fünfzehn/fifteen sechzehn/sixteen
    siebzehn/seventeen achtzehn/eighteen neunzehn/nineteen zwanzig/twenty
verb: sehe/see brauche/need habe/have kaufe/buy finde/find liebe/love nehme/take
"""

Vocabulary = dict[str, frozenset[str]]


def read_vocabulary(file: Path) -> Vocabulary:
    """The words of each language, from lines like `en<TAB>word`. Without the file: the English digits."""
    if not file.exists():
        return {"en": frozenset(ENGLISH["digit"]), "de": frozenset()}
    lines = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines() if "\t" in line]
    return {language: frozenset(word for code, word in lines if code == language) for language in ("en", "de")}


def _lists(text: str) -> dict[str, list[str]]:
    return {name: listed.split() for name, listed in re.findall(r"^(\w+):((?:[^:]|\n)+)$", text, re.M)}


def _numbers() -> list[str]:
    """Those of one word up to a hundred, those of two words, and a few large ones."""
    tens, digits = _LISTS["tens"], _LISTS["digit"]
    both = [f"{first} {second}" for first in tens for second in digits[1:]]
    return [*digits, *_LISTS["teen"], *tens, *both, "one hundred", "two hundred", "three thousand"]


def _german() -> dict[str, list[str]]:
    """German=English for each slot of a template."""
    lists = {name: [pair.replace("/", "=") for pair in pairs] for name, pairs in _lists(_GERMAN).items()}
    nouns = [re.split("[_=]", noun) for noun in lists["noun"]]
    lists["noun"] = [f"{article} {noun}=the {english}" for article, noun, _, english in nouns]
    lists["object"] = [f"{article} {noun}=the {english}" for _, noun, article, english in nouns]
    return lists


_LISTS = _lists(_ENGLISH)
ENGLISH = {**_LISTS, "number": _numbers()}
GERMAN = _german()
