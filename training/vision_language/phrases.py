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
THINGS = "{objects|objects|shapes|shapes|things|figures|items}"
THING = "{object|object|shape|thing|figure|item}"
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
        f"How many <colour> {THINGS} {{are there|do you see|can you see}}{WHERE}?",
        f"How many {THINGS} are <colour>?",
        f"{{Count|Please count}} the <colour> {THINGS}.",
    ),
    "count shape": (
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
    "is it": ("Is the <shape> <colour>?",),
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
        "{What is|What's} in the {middle|centre|center}?",
        f"Which {THING} is in the middle?",
    ),
    "pair both": (
        "{What is|What's} in {the|these|these two|the two|both} {pictures|images}?",
        "Describe {the|these|both|the two} {pictures|images}.",
        "What do you see{| in the pictures| in the images}?",
        "What do the {two |}{pictures|images} show?",
        "{Compare|Tell me about} {the|these|the two} {pictures|images}.",
    ),
    "pair first": (
        "{What is|What's} in the first {picture|image}?",
        "Describe the first {picture|image}{| only}.",
    ),
    "pair second": (
        "{What is|What's} in the {second|second|last} {picture|image}?",
        "Describe the {second|second|last} {picture|image}{| only}.",
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
