"""How people word the questions about pictures.

A template holds alternatives in braces, {this|that}, chosen at random, and slots such as <shape>.
"""

from __future__ import annotations

import random
import re

ALTERNATIVE = re.compile(r"\{([^{}]*)\}")
PIC = "{picture|picture|image|image|photo|drawing}"
THE = "{the|the|this}"
IN = "{in|in|on}"
THINGS = "{objects|objects|objects|shapes|shapes|things|figures|items}"
THING = "{object|object|object|shape|thing|figure|item}"
COLOUR = "{colour|color}"
WHERE = f"{{|| in {THE} {PIC}| {{in|on}} {THE} {PIC}| here}}"

TEMPLATES: dict[str, tuple[str, ...]] = {
    "caption": (
        f"{{What is|What's}} {IN} {THE} {PIC}?",
        f"{{What is|What's}} {IN} {THE} {PIC}?",
        f"Describe {THE} {PIC}.",
        f"Describe {THE} {PIC}.",
        f"{{Please describe|Can you describe|Could you describe}} {THE} {PIC}{{.|?|}}",
        f"Describe {{what you see|what is in {THE} {PIC}|it|this|the scene|the content}}.",
        f"Describe {THE} {PIC} {{briefly|in one sentence|in a few words|in detail|shortly}}.",
        f"What {{do|can}} you see{WHERE}?",
        f"{{Tell me what|Say what|Show me what}} you see{WHERE}.",
        f"{{Tell me|Say}} what is {IN} {THE} {PIC}.",
        f"What {{does|do}} {THE} {PIC} show?",
        f"What is {{shown|drawn|depicted|visible}} {{here|in {THE} {PIC}}}?",
        f"{{What|Which}} {THINGS} {{are there|are|do you see|can you see}}{WHERE}?",
        f"{{List|Name}} {{the|all|all the}} {THINGS}{WHERE}.",
        f"{{Caption|Caption this|Caption the {PIC}|Describe|Write a caption}}{{.|:|}}",
        "{What is this|What's this|What is that|What am I looking at|What is here}?",
        f"{{Look at|Have a look at}} {THE} {PIC}. What {{do you see|is it|is there}}?",
        "{What is there|What is in it|What does it show|And this one|What about this|And now}?",
        f"{{Give me|Write}} a {{short |}}{{description|caption}} of {THE} {PIC}.",
        "",
    ),
    "count all": (
        f"How many {THINGS} {{are there|do you see|can you see|are}}{WHERE}?",
        f"How many {THINGS} {{are there|are}} {{in total|altogether}}{WHERE}?",
        f"How many {THINGS} does {THE} {PIC} {{show|have|contain}}?",
        f"{{Count|Please count}} the {THINGS}{WHERE}.",
        f"{{What is the number|Tell me the number}} of {THINGS}{WHERE}?",
        f"How many {THINGS}?",
    ),
    "count colour": (
        "How many <colour> {objects|shapes}?",
        f"How many <colour> {THINGS} {{are there|do you see|can you see}}{WHERE}?",
        f"How many {THINGS} are <colour>?",
        f"{{Count|Please count}} the <colour> {THINGS}.",
    ),
    "count shape": (
        "How many <shape>s?",
        f"How many <shape>s {{are there|do you see|can you see|are}}{WHERE}?",
        "{Count|Please count} the <shape>s.",
        f"How many of the {THINGS} are <shape>s?",
    ),
    "count both": (
        f"How many <colour> <shape>s {{are there|do you see|can you see|are}}{WHERE}?",
        f"How many <colour> <shape>s {{are there|do you see|can you see|are}}{WHERE}?",
        "{Count|Please count} the <colour> <shape>s.",
    ),
    "is there colour": (
        f"Is there {{anything|something}} <colour>{WHERE}?",
        f"Is there a <colour> {THING}{WHERE}?",
        f"{{Do|Can}} you see {{anything|something}} <colour>{WHERE}?",
    ),
    "is there shape": (
        f"Is there <kind>{WHERE}?",
        f"Is there <kind>{WHERE}?",
        f"{{Do|Can}} you see <kind>{WHERE}?",
        f"Does {THE} {PIC} {{show|contain|have}} <kind>?",
    ),
    "is there both": (
        f"Is there <kind>{WHERE}?",
        f"Is there <kind>{WHERE}?",
        f"{{Do|Can}} you see <kind>{WHERE}?",
        f"Does {THE} {PIC} {{show|contain|have}} <kind>?",
    ),
    "is it": ("Is the <shape> <colour>?", "Is the <shape> <colour>?", "Does the <shape> have the colour <colour>?"),
    "colour": (
        f"{{What|Which}} {COLOUR} {{is|has}} the <shape>{WHERE}?",
        f"What {COLOUR} is the <shape>?",
        f"{{What is|What's|Tell me|Name}} the {COLOUR} of the <shape>{WHERE}?",
        f"What {COLOUR} does the <shape> have?",
    ),
    "colour alone": (
        f"{{What|Which}} {COLOUR} is {{it|the {THING}|this|this {THING}}}?",
        f"{{What is|What's}} the {COLOUR} of the {THING}?",
        f"{{What|Which}} {COLOUR} do you see?",
        f"What is its {COLOUR}?",
    ),
    "shape": (
        f"{{What|Which}} shape is the <colour> {THING}{WHERE}?",
        f"What is the <colour> {THING}{WHERE}?",
        "{What|Which} shape is <colour>?",
        f"{{What is|What's|Tell me|Name}} the shape of the <colour> {THING}?",
        f"What shape does the <colour> {THING} have?",
    ),
    "shape alone": (
        f"{{What|Which}} shape is {{it|the {THING}|this|this {THING}}}?",
        f"{{What is|What's}} the shape of the {THING}?",
        "{What|Which} shape do you see?",
        f"{{What|Which}} shape is {{shown|drawn|there}}{WHERE}?",
    ),
    "left": (
        f"{{What is|What's}} on the left{{| side}}{WHERE}?",
        f"Which {THING} is on the left?",
        f"{{What is|Which is|Name}} the leftmost {THING}?",
    ),
    "right": (
        f"{{What is|What's}} on the right{{| side}}{WHERE}?",
        f"Which {THING} is on the right?",
        f"{{What is|Which is|Name}} the rightmost {THING}?",
    ),
    "middle": (
        "{What is|What's} in the {middle|middle|centre|center}{| of the picture| of the image}?",
        f"Which {THING} is in the middle?",
    ),
    "beside left": (
        "{What is|What's} {left of|to the left of|left of|on the left of} <ref>?",
        f"Which {THING} is {{left of|to the left of}} <ref>?",
    ),
    "beside right": (
        "{What is|What's} {right of|to the right of|right of|on the right of} <ref>?",
        f"Which {THING} is {{right of|to the right of}} <ref>?",
    ),
    "where": (
        f"Where is <ref>{WHERE}?",
        "Where is <ref>?",
        f"{{Where in {THE} {PIC} is|In which part of {THE} {PIC} is|Where do you see}} <ref>?",
        "{What is|Tell me|Name} the {position|place|location} of <ref>?",
    ),
    "biggest": (
        f"{{Which|What}} {THING} is the {{biggest|biggest|largest}}{WHERE}?",
        f"{{What is|What's|Name}} the {{biggest|largest}} {THING}{WHERE}?",
    ),
    "smallest": (
        f"{{Which|What}} {THING} is the smallest{WHERE}?",
        f"{{What is|What's|Name}} the smallest {THING}{WHERE}?",
    ),
    "bigger": (
        "Is <ref> {bigger|bigger|larger} than <other>?",
        "Is <ref> {bigger|larger} than <other>?",
    ),
    "smaller": ("Is <ref> smaller than <other>?",),
    "read": (
        "What does {it|it|the text|the picture|the image|this} say?",
        f"Read the {{text|text|writing}}{WHERE}.",
        f"{{What is|What's}} {{printed|written}}{WHERE}?",
        f"What {{text|writing}} {{is printed|is written|is there|do you see|can you read}}{WHERE}?",
        "{Please read|Can you read|Read} {it|this|the text|what is written|what it says}{.|?|}",
        "What can you read{| here| in the picture}?",
        f"{{Transcribe|Read}} {THE} {PIC}.",
    ),
    "read number": (
        "{What|Which} number {is|is} {printed|printed|written|shown|this|it|there}?",
        f"{{What|Which}} number {{do you see|can you see|is}} {IN} {THE} {PIC}?",
        "{Read|Tell me} the number.",
        "What is the number?",
    ),
    "read word": (
        "{What|Which} word {is|is} {printed|printed|written|shown|this|it|there}?",
        f"{{What|Which}} word {{do you see|can you see|is}} {IN} {THE} {PIC}?",
        "{Read|Tell me} the word.",
        "What is the word?",
    ),
    "pair both": (
        "{What is|What's} in {the|the|these|these two|the two|both} {pictures|pictures|images}?",
        "Describe {the|these|both|the two} {pictures|images}.",
        "What do you see{| in the pictures| in the images}?",
        "What do the {two |}{pictures|images} show?",
        "{Caption|Tell me about} {the|these|the two} {pictures|images}.",
    ),
    "pair first": (
        "{What is|What's|What do you see} in the first {picture|picture|image}?",
        "Describe the first {picture|image}{| only}.",
        "What does the first {picture|image} show?",
    ),
    "pair second": (
        "{What is|What's|What do you see} in the {second|second|second|last} {picture|picture|image}?",
        "Describe the {second|second|last} {picture|image}{| only}.",
        "What does the second {picture|image} show?",
    ),
    "pair more": (
        "Which {picture|picture|image} {has|has|shows|contains} more <things>?",
        "Which {picture|picture|image} {has|has|shows|contains} more <things>?",
        "Which of the {two |}{pictures|images} {has|shows|contains} more <things>?",
        "{In which|In which|Which} {picture|image} {are there more <things>|are more <things>|has more <things>}?",
    ),
    "pair shows": (
        "Which {picture|picture|image} {shows|shows|has|contains} <kind>?",
        "Which {picture|picture|image} {shows|shows|has|contains} <kind>?",
        "In which {picture|image} is {there |}<kind>?",
        "In which {picture|image} {do|can} you see <kind>?",
    ),
}


def expand(rng: random.Random, template: str) -> str:
    """Chooses one alternative of every brace, innermost first."""
    # The pattern excludes inner braces, so nested choices resolve from the inside out.
    while (found := ALTERNATIVE.search(template)) is not None:
        chosen = rng.choice(found.group(1).split("|"))
        template = template[: found.start()] + chosen + template[found.end() :]
    return template


def vary(rng: random.Random, text: str) -> str:
    """Now and then the small liberties of typing: no capital, no end mark, a `please`."""
    if text and rng.random() < 0.12:
        text = text[0].lower() + text[1:]
    if text[-1:] in (".", "?") and rng.random() < 0.15:
        text = text[:-1]
    elif text[-1:] in (".", "?") and rng.random() < 0.04:
        text = f"{text[:-1]}, please{text[-1]}"
    return text


def phrase(rng: random.Random, which: str, **slots: str) -> str:
    """A random wording of question `which` with its slots filled."""
    text = expand(rng, rng.choice(TEMPLATES[which]))
    for name, value in slots.items():
        text = text.replace(f"<{name}>", value)
    return vary(rng, text)
