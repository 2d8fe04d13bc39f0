"""German: a small grammar of sentences, each with its English translation.

A slot holds pairs; both sides of a sentence name the same slots (``{noun1}`` and ``{noun2}`` are two
draws from ``noun``), which also says which German word an English word was heard in.
"""

UNITS = [
    "null",
    "eins",
    "zwei",
    "drei",
    "vier",
    "fünf",
    "sechs",
    "sieben",
    "acht",
    "neun",
    "zehn",
    "elf",
    "zwölf",
    "dreizehn",
    "vierzehn",
    "fünfzehn",
    "sechzehn",
    "siebzehn",
    "achtzehn",
    "neunzehn",
    "zwanzig",
]

_PAIRS = {
    "colour": "rot:red grün:green blau:blue gelb:yellow schwarz:black weiß:white braun:brown",
    "adjective": "groß:big klein:small alt:old neu:new gut:good schlecht:bad warm:warm kalt:cold "
    "schnell:fast langsam:slow schön:beautiful teuer:expensive leer:empty sauber:clean",
    "feeling": "müde:tired hungrig:hungry glücklich:happy traurig:sad krank:sick reich:rich",
    "der": "hund:dog vogel:bird tisch:table stuhl:chair apfel:apple käse:cheese wagen:car "
    "garten:garden baum:tree fisch:fish schlüssel:key kuchen:cake",
    "die": "katze:cat tür:door lampe:lamp straße:street blume:flower flasche:bottle kuh:cow "
    "schule:school uhr:clock küche:kitchen suppe:soup stadt:city",
    "das": "haus:house buch:book brot:bread auto:car kind:child fenster:window zimmer:room "
    "pferd:horse bild:picture licht:light wasser:water bett:bed",
    "he": "vater:father bruder:brother freund:friend lehrer:teacher mann:man",
    "she": "mutter:mother schwester:sister freundin:friend frau:woman tochter:daughter",
    "name": "anna:anna peter:peter maria:maria paul:paul",
    "drink": "kaffee:coffee tee:tea milch:milk wasser:water bier:beer saft:juice",
    "day": "montag:monday dienstag:tuesday mittwoch:wednesday donnerstag:thursday freitag:friday "
    "samstag:saturday sonntag:sunday",
    "when": "heute:today morgen:tomorrow jetzt:now bald:soon",
    "place": "berlin:berlin london:london paris:paris deutschland:germany england:england",
    "number": "zwei:two drei:three vier:four fünf:five sechs:six sieben:seven acht:eight neun:nine "
    "zehn:ten elf:eleven zwölf:twelve zwanzig:twenty",
    "things": "bücher:books hunde:dogs katzen:cats blumen:flowers autos:cars äpfel:apples",
    "eats": "sieht:sees kauft:buys sucht:looks-for findet:finds",
    "goes": "kommt:comes schläft:sleeps arbeitet:works singt:sings läuft:runs spielt:plays",
    "season": "sommer:summer winter:winter",
}

# "looks-for" is two English words heard in one German one.
SLOTS: dict[str, list[tuple[str, str]]] = {
    name: [(de, en.replace("-", " ")) for de, en in (pair.split(":") for pair in pairs.split())]
    for name, pairs in _PAIRS.items()
}

SENTENCES = [
    ("der {der} ist {adjective}", "the {der} is {adjective}"),
    ("die {die} ist {colour}", "the {die} is {colour}"),
    ("das {das} ist {adjective}", "the {das} is {adjective}"),
    ("der {der} ist {colour}", "the {der} is {colour}"),
    ("die {die} ist sehr {adjective}", "the {die} is very {adjective}"),
    ("das {das} ist nicht {colour}", "the {das} is not {colour}"),
    ("mein {he} ist {feeling}", "my {he} is {feeling}"),
    ("meine {she} ist {feeling}", "my {she} is {feeling}"),
    ("mein {he} {eats} das {das}", "my {he} {eats} the {das}"),
    ("meine {she} {eats} die {die}", "my {she} {eats} the {die}"),
    ("der {he} {goes} {when}", "the {he} {goes} {when}"),
    ("die {she} {goes} am {day}", "the {she} {goes} on {day}"),
    ("{name} {eats} das {das}", "{name} {eats} the {das}"),
    ("{name} {goes} in {place}", "{name} {goes} in {place}"),
    ("ich trinke {drink}", "i drink {drink}"),
    ("wir trinken {drink} und {drink2}", "we drink {drink} and {drink2}"),
    ("ich habe {number} {things}", "i have {number} {things}"),
    ("wir haben {number} {things}", "we have {number} {things}"),
    ("ich sehe das {das} und die {die}", "i see the {das} and the {die}"),
    ("wo ist die {die}", "where is the {die}"),
    ("wo ist der {der}", "where is the {der}"),
    ("was ist das", "what is that"),
    ("ist das {das} {colour} oder {colour2}", "is the {das} {colour} or {colour2}"),
    ("ich bin {feeling}", "i am {feeling}"),
    ("wir sind {feeling}", "we are {feeling}"),
    ("ich heiße {name}", "my name is {name}"),
    ("mein name ist {name}", "my name is {name}"),
    ("ich wohne in {place}", "i live in {place}"),
    ("heute ist {day}", "today is {day}"),
    ("es ist {number} uhr", "it is {number}"),
    ("guten morgen {name}", "good morning {name}"),
    ("guten abend {name}", "good evening {name}"),
    ("gute nacht {name}", "good night {name}"),
    ("guten tag", "good day"),
    ("hallo {name} wie geht es dir", "hello {name} how are you"),
    ("auf wiedersehen {name}", "goodbye {name}"),
    ("vielen dank {name}", "thank you very much {name}"),
    ("danke", "thank you"),
    ("ja bitte", "yes please"),
    ("nein danke", "no thank you"),
    ("im {season} ist es {adjective}", "it is {adjective} in {season}"),
    ("das ist meine {she}", "this is my {she}"),
    ("das ist mein {he}", "this is my {he}"),
    ("mach das {das} auf", "open the {das}"),
    ("mach die {die} zu", "close the {die}"),
    ("bitte mach das licht an", "please turn on the light"),
    ("bitte mach das licht aus", "please turn off the light"),
    ("ich liebe {name}", "i love {name}"),
    ("der {der} ist unter dem {der2}", "the {der} is under the {der2}"),
    ("die {die} ist hinter dem {das}", "the {die} is behind the {das}"),
    ("ich kaufe das {das} am {day}", "i buy the {das} on {day}"),
    ("der {der} und die {die} sind {adjective}", "the {der} and the {die} are {adjective}"),
]
