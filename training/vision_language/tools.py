"""Tool calls in Qwen's form (that of Hermes): tools, calls, results and what is said of them.

A tool's result is a user turn of its own in this form, so a call is two ordinary turns.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from training.vision_language.answers import Turn
from training.vision_language.intents import CANNOT_KNOW, CITIES, GENRES, NAMES, SONGS, WORDS
from training.vision_language.phrases import expand, vary

Schema = dict[str, Any]
OPEN = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
CLOSE = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    'within <tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, '
    '"arguments": <args-json-object>}\n</tool_call>'
)
WEATHERS = ("sunny", "cloudy", "rainy", "windy", "snowy", "foggy", "stormy", "clear", "cold", "warm")


@dataclass(frozen=True)
class Need:
    """Something a tool is needed for: the question, the call's arguments, a result, the answer."""

    question: str
    arguments: Schema
    result: str
    answer: str


def tools_text(tools: list[Schema]) -> str:
    """What the chat template adds to the system message."""
    return OPEN + "".join(f"\n{json.dumps(tool, ensure_ascii=False)}" for tool in tools) + CLOSE


def call_text(name: str, arguments: Schema) -> str:
    """The assistant's call."""
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"


def response_text(content: str) -> str:
    """The tool's result as the chat template writes it into a user turn."""
    return f"<tool_response>\n{content}\n</tool_response>"


def some_city(rng: random.Random) -> str:
    """A city, or another name, so that the call has to copy."""
    if rng.random() < 0.75:
        return rng.choice(CITIES)
    name = rng.choice((rng.choice(NAMES), rng.choice(WORDS).capitalize()))
    return f"New {name}" if rng.random() < 0.2 else name


def shaped(rng: random.Random, values: Schema, bare: str) -> str:
    """A result as JSON (in any order, seldom with something more) or, seldom, bare."""
    if rng.random() < 0.1:
        return bare
    keys = list(values)
    if rng.random() < 0.3:
        rng.shuffle(keys)
    return json.dumps({key: values[key] for key in keys})


def weather(rng: random.Random, _: str) -> Need:
    """`get_weather(city)`."""
    city, sky, degrees = some_city(rng), rng.choice(WEATHERS), rng.randint(-15, 40)
    ask = (
        "{What is|What's|How is|Tell me} the weather{| like}{| today| now} in <x>{?|?|}",
        "{Is it raining|Is it sunny|Is it cold|Is it warm|Will it rain}{| today| now} in <x>?",
        "{How warm|How cold} is it in <x>?", "{Weather|The weather} in <x>{?|, please.|}",
    )  # fmt: skip
    question = expand(rng, rng.choice(ask)).replace("<x>", city)
    values: Schema = {rng.choice(("weather",) * 4 + ("condition",)): sky, "temperature": degrees}
    if rng.random() < 0.15:
        values["city"] = city
    result = shaped(rng, values, f"{sky}, {degrees} degrees")
    return Need(question, {"city": city}, result, f"It is {sky} and {degrees} degrees in {city}.")


def clock(rng: random.Random, _: str) -> Need:
    """`get_time(city)`."""
    city, time = some_city(rng), f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
    ask = (
        "{What time|What time|What hour} is it{| now} in <x>?",
        "{What is|What's|Tell me} the {time|current time}{| now} in <x>{?|?|}",
        "{How late is it|Do you know the time} in <x>?",
    )
    question = expand(rng, rng.choice(ask)).replace("<x>", city)
    values: Schema = {"time": time}
    if rng.random() < 0.15:
        values["city"] = city
    return Need(question, {"city": city}, shaped(rng, values, time), f"It is {time} in {city}.")


def dice(rng: random.Random, _: str) -> Need:
    """`roll_dice(sides)`."""
    sides = rng.choice((6, 6, 4, 8, 10, 12, 20, 100, rng.randint(2, 100)))
    number = rng.randint(1, sides)
    ask = (
        "{Roll|Please roll|Throw|Can you roll} a {dice|die|dice} with <x> sides{.|.|}",
        "{Roll|Throw} a <x>-sided {dice|die}{.|, please.|}",
    )
    question = expand(rng, rng.choice(ask)).replace("<x>", str(sides))
    # Without a number a die has six sides.
    if sides == 6 and rng.random() < 0.5:
        question = expand(rng, "{Roll|Please roll|Throw|Can you roll} {a|the} {dice|die|dice}{.|.|, please.|}")
    values = {rng.choice(("result", "result", "value", "number")): number}
    return Need(question, {"sides": sides}, shaped(rng, values, str(number)), f"You rolled a {number}.")


def calculation(rng: random.Random, _: str) -> Need:
    """`calculate(expression)`."""
    sign, word = rng.choice((("+", "plus"), ("+", "plus"), ("-", "minus"), ("*", "times"), ("/", "divided by")))
    one, two = rng.randint(1, 999), rng.randint(10, 99)
    one, two = (one, two) if rng.random() < 0.7 else (two, rng.randint(2, 12))
    values = {"+": one + two, "-": one - two, "*": one * two, "/": round(one / two, 2)}
    said = f"{one} {sign if rng.random() < 0.6 else word} {two}"
    ask = "{What is|What is|What's|How much is|Calculate|Please calculate|Compute} <x>{?|?|.|}"
    question = expand(rng, ask).replace("<x>", said)
    expression = f"{one} {sign} {two}"
    result = shaped(rng, {rng.choice(("result", "result", "value")): values[sign]}, str(values[sign]))
    return Need(question, {"expression": expression}, result, f"{expression} is {values[sign]}.")


def music(rng: random.Random, parameter: str) -> Need:
    """`play_music(song)` or `play_music(genre)`."""
    listed, other = (SONGS, WORDS) if parameter == "song" else (GENRES, GENRES)
    what = rng.choice(listed) if rng.random() < 0.7 else rng.choice(other)
    some = "{||the song }" if parameter == "song" else "{|some }"
    ask = (
        f"{{Play|Please play|Can you play|Put on|I want to hear}} {some}<x>{{.|.|}}",
        "{Play|Please play|Put on} <x>{| music| for me}{.|, please.|}",
    )
    question = expand(rng, rng.choice(ask)).replace("<x>", what)
    result = shaped(rng, {"status": rng.choice(("playing", "playing", "ok", "started"))}, "playing")
    return Need(question, {parameter: what}, result, f"Now playing {what}.")


# Name, maker of needs, parameters to choose from and their type, descriptions.
TOOLS: dict[str, tuple[Callable[[random.Random, str], Need], tuple[str, ...], str, tuple[str, ...]]] = {
    "get_weather": (weather, ("city",), "string", (
        "{Get|Gets|Returns|Get|Look up} the {|current }weather {in|of|for} a {city|place}{.|}",
        "{Current weather|The weather} in a city{.|}",
    )),
    "get_time": (clock, ("city",), "string", (
        "{Get|Gets|Returns|Tells} the {|current |local }time {in|of|for} a {city|place}{.|}",
        "{Current time|The time} in a city{.|}",
    )),
    "roll_dice": (dice, ("sides",), "integer", (
        "{Roll|Rolls|Throw|Throws} a {dice|die}{| with a number of sides| with the given number of sides}{.|}",
    )),
    "calculate": (calculation, ("expression",), "string", (
        "{Calculate|Calculates|Evaluate|Evaluates|Computes} an {|arithmetic |mathematical }expression{.|}",
        "A {|simple }calculator{.|}",
    )),
    "play_music": (music, ("song", "genre"), "string", (
        "{Play|Plays|Start|Starts} {|some |a song or a genre of }music{.|}", "{Play|Plays} a song{.|}",
    )),
}  # fmt: skip
PARAMETERS = {
    "city": "{The city|Name of the city|City|The name of the city|City name|The city, e.g. Paris}{.|}",
    "sides": "{Number of sides|The number of sides|How many sides}{.|}",
    "expression": "{The expression|The expression|Expression}{| to evaluate| to calculate|, e.g. 12 + 7}{.|}",
    "song": "{The song|Name of the song|Song|Song to play|Title of the song}{.|}",
    "genre": "{The genre|Genre|Kind of music|Genre of the music}{.|}",
}


def schema(rng: random.Random, name: str, parameter: str) -> Schema:
    """The tool's declaration, with or without the parts that are optional."""
    _, _, kind, descriptions = TOOLS[name]
    field: Schema = {"type": kind}
    if rng.random() < 0.5:
        field["description"] = expand(rng, PARAMETERS[parameter])
    parameters: Schema = {"type": "object", "properties": {parameter: field}}
    if rng.random() < 0.8:
        parameters["required"] = [parameter]
    function: Schema = {"name": name}
    if rng.random() < 0.85:
        function["description"] = expand(rng, rng.choice(descriptions))
    return {"type": "function", "function": {**function, "parameters": parameters}}


def without_tool(rng: random.Random, offered: tuple[str, ...] = ()) -> Turn:
    """A question that needs a tool which is not offered."""
    name = rng.choice([name for name in TOOLS if name not in offered])
    if name in ("get_weather", "get_time") and rng.random() < 0.35:
        ask = (
            "{What is|What's|How is} the weather{| like}{| today| tomorrow| outside}?",
            "What {time|day|date|year} is it{| today| now}?", "Will it rain{| today| tomorrow}?",
            "What is the {time|date}{| today| now}?", "Is it {raining|sunny|cold|warm}{| today| outside}?",
        )  # fmt: skip
        return Turn("without tool", vary(rng, expand(rng, rng.choice(ask))), CANNOT_KNOW)
    maker, parameters, _, _ = TOOLS[name]
    return Turn("without tool", vary(rng, maker(rng, rng.choice(parameters)).question), CANNOT_KNOW)


class Offer:
    """Some tools on offer: their declarations, and conversations that use them."""

    def __init__(self, rng: random.Random, count: int) -> None:
        self.names = tuple(rng.sample(list(TOOLS), count))
        self.parameters = {name: rng.choice(TOOLS[name][1]) for name in self.names}
        self.schemas = [schema(rng, name, self.parameters[name]) for name in self.names]

    def __repr__(self) -> str:
        return f"Offer({', '.join(self.names)})"

    def use(self, rng: random.Random) -> list[Turn]:
        """A call, and mostly its result with the answer."""
        name = rng.choice(self.names)
        need = TOOLS[name][0](rng, self.parameters[name])
        turns = [Turn(f"tool call: {name}", vary(rng, need.question), call_text(name, need.arguments))]
        if rng.random() < 0.65:
            turns.append(Turn(f"tool answer: {name}", response_text(need.result), need.answer))
        return turns

    def lacking(self, rng: random.Random) -> Turn:
        """A question for a tool that is not on offer."""
        return without_tool(rng, self.names)
