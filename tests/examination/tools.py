"""Questions with tools: the call that is needed, the answer after its result, and questions that need none."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from typing import Any

from tests.examination.question import Maker, Question, assistant, call_text, user
from tests.examination.questions import ask_color, ask_count_all, ask_is_there
from tests.examination.talk import CANNOT_KNOW, CITIES, SECRETS, ask_count_to

GENRES = ("jazz", "rock", "pop", "blues", "classical music")
WEATHER = ("sunny", "rainy", "cloudy", "windy", "snowy")


@dataclass(frozen=True)
class Use:
    """A question that needs a tool: the arguments of the call, what the tool says, and what the answer must repeat."""

    name: str
    text: str
    arguments: dict[str, Any]
    result: dict[str, Any]
    answer: str
    is_pattern: bool = True


def _function(name: str, about: str, key: str, kind: str, meaning: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {key: {"type": kind, "description": meaning}}, "required": [key]}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": parameters}}


TOOLS = {
    "get_weather": _function("get_weather", "Get the current weather in a city.", "city", "string", "Name of the city"),
    "get_time": _function("get_time", "Get the current time in a city.", "city", "string", "Name of the city"),
    "roll_dice": _function("roll_dice", "Roll a dice.", "sides", "integer", "Number of sides"),
    "calculate": _function("calculate", "Calculate an expression.", "expression", "string", "For example 1 + 2"),
    "play_music": _function("play_music", "Play music.", "genre", "string", "Kind of music"),
}


def use_weather(dice: random.Random) -> Use:
    city, sky, degrees = dice.choice(CITIES), dice.choice(WEATHER), dice.randint(1, 35)
    text = dice.choice(("What is the weather in {}?", "How is the weather in {}?", "Tell me the weather in {}."))
    result = {"weather": sky, "temperature": degrees}
    answer = f"It is {sky} and {degrees} degrees in {city}."
    return Use("get_weather", text.format(city), {"city": city}, result, answer, is_pattern=False)


def use_time(dice: random.Random) -> Use:
    city, clock = dice.choice(CITIES), f"{dice.randint(10, 23)}:{dice.randint(10, 59)}"
    text = dice.choice(("What time is it in {}?", "What is the time in {}?", "Tell me the time in {}."))
    return Use("get_time", text.format(city), {"city": city}, {"time": clock}, f"It is {clock} in {city}.", False)


def use_dice(dice: random.Random) -> Use:
    sides = dice.choice((6, 8, 10, 12, 20))
    rolled = dice.randint(1, sides)
    text = dice.choice(("Roll a dice with {} sides.", "Please roll a dice with {} sides.", "Roll a {}-sided dice."))
    return Use("roll_dice", text.format(sides), {"sides": sides}, {"result": rolled}, rf"\b{rolled}\b")


def use_calculator(dice: random.Random) -> Use:
    one, other = dice.randint(11, 99), dice.randint(11, 99)
    text = dice.choice(("What is {} plus {}?", "Calculate {} + {}.", "What is {} + {}?")).format(one, other)
    arguments = {"expression": f"{one} + {other}"}
    return Use("calculate", text, arguments, {"result": one + other}, rf"\b{one + other}\b")


def use_music(dice: random.Random) -> Use:
    genre = dice.choice(GENRES)
    text = dice.choice(("Play some {}.", "Please play {}.", "I want to hear some {}.")).format(genre)
    return Use("play_music", text, {"genre": genre}, {"playing": genre}, rf"\b{genre}\b")


_USES = (use_weather, use_time, use_dice, use_calculator, use_music)


def ask_for_call(dice: random.Random) -> Question:
    use = dice.choice(_USES)(dice)
    answer = call_text(use.name, use.arguments)
    return Question("tool: call", (user(use.text),), answer, tools=_offer(dice, use.name))


def ask_after_call(dice: random.Random) -> Question:
    use = dice.choice(_USES)(dice)
    function = {"name": use.name, "arguments": json.dumps(use.arguments)}
    call = {**assistant(""), "tool_calls": [{"id": "call_1", "type": "function", "function": function}]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": json.dumps(use.result)}
    messages, tools = (user(use.text), call, result), _offer(dice, use.name)
    return Question("tool: after the result", messages, use.answer, tools=tools, is_pattern=use.is_pattern)


def ask_without_need(dice: random.Random) -> Question:
    """Questions that no tool is for are answered as ever."""
    question = dice.choice((ask_color, ask_count_all, ask_is_there, ask_count_to))(dice)
    return replace(question, kind="tool: not needed", tools=_offer(dice))


def ask_without_tool(dice: random.Random) -> Question:
    """What a tool could tell, but another one is offered."""
    text = dice.choice(SECRETS).format(dice.choice(CITIES))
    tools = _offer(dice, dice.choice(("roll_dice", "play_music")), most=1)
    return Question("tool: missing", (user(text),), CANNOT_KNOW, tools=tools)


def _offer(dice: random.Random, needed: str | None = None, most: int = 3) -> tuple[dict[str, Any], ...]:
    """One to three tools in any order, the needed one among them."""
    others = [name for name in TOOLS if name != needed]
    names = dice.sample(others, dice.randint(0 if needed else 1, most - (needed is not None)))
    names += [needed] if needed else []
    dice.shuffle(names)
    return tuple(TOOLS[name] for name in names)


TOOL_QUESTIONS: tuple[Maker, ...] = (ask_for_call, ask_after_call, ask_without_need, ask_without_tool)
