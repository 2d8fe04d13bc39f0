"""What clients of others are answered: each script in `clients/` asks the same, and prints it as JSON.

OpenAI's and Anthropic's clients for Python are in the project's environment. `clients/install` makes the others' in
`.cache/clients`; without it their tests are skipped.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.conftest import ROOT, System
from tests.pictures import draw
from tests.speech import words

pytestmark = pytest.mark.triton

CLIENTS = Path(__file__).parent / "clients"
INSTALLED = ROOT / ".cache/clients"
CHAT = ("openai", "anthropic", "langchain", "litellm", "node")
SPEECH = ("openai", "litellm", "node")

TOOL = {
    "name": "get_weather",
    "description": "Get the current weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "Name of the city"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"color": {"enum": ["red", "green"]}, "sides": {"type": "integer"}},
    "required": ["color", "sides"],
    "additionalProperties": False,
}
TASK = {
    "question": "Who are you?",
    "look": "What is in the picture?",
    "picture": base64.b64encode(draw(("red", "circle"))).decode(),
    "errand": "What is the weather in Paris?",
    "tool": TOOL,
    "result": json.dumps({"weather": "sunny", "temperature": 18}),
    "schema": SCHEMA,
    "recording": str(ROOT / "examples/digits.flac"),
}
# No client may ask anybody but the gateway: LiteLLM fetches a list of prices, LangChain may report to LangSmith.
OFFLINE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false", "LANGCHAIN_TRACING_V2": "false"}


@pytest.fixture(scope="module")
def answers(request: pytest.FixtureRequest, system: System) -> Any:
    """All that one client was answered."""
    task = json.dumps(TASK | {"url": f"http://{system.http}"})
    # `./trimodal test` sets PYTHONSAFEPATH: a script's own folder is then not where it imports from.
    paths = {"PYTHONPATH": str(CLIENTS), "NODE_PATH": str(INSTALLED / "node_modules")}
    environment = {**os.environ, **OFFLINE, **paths}
    command = command_of(request.param)
    ran = subprocess.run(command, input=task, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def command_of(client: str) -> list[str]:
    """Skips where it is not installed."""
    script = str(next(CLIENTS.glob(f"with_{client}.*")))
    if client in ("openai", "anthropic"):
        return [sys.executable, script]
    package = "node_modules/openai" if client == "node" else f"venv/lib/*/site-packages/{client}*"
    runner = shutil.which("node") if client == "node" else str(INSTALLED / "venv/bin/python")
    if runner is None or not any(INSTALLED.glob(package)):
        pytest.skip(f"{client} is not there; tests/system/clients/install fetches it")
    return [runner, script]


@pytest.mark.parametrize("answers", CHAT, indirect=True)
class TestChat:
    def test_text(self, answers: Any) -> None:
        assert "Trimodal" in answers["text"]

    def test_stream(self, answers: Any) -> None:
        assert "".join(answers["pieces"]) == answers["text"]
        assert len([piece for piece in answers["pieces"] if piece]) > 5

    def test_picture(self, answers: Any) -> None:
        assert "red circle" in answers["seen"].lower()

    def test_tool(self, answers: Any) -> None:
        call = answers["call"]
        assert (call["name"], call["arguments"]) == ("get_weather", {"city": "Paris"})
        assert "sunny" in call["told"] and "18" in call["told"], "the result went back to the model"

    def test_form(self, answers: Any) -> None:
        jsonschema.validate(answers["form"], SCHEMA)

    def test_error(self, answers: Any) -> None:
        assert answers["refused"] == "NotFoundError"


@pytest.mark.parametrize("answers", SPEECH, indirect=True)
def test_transcription(answers: Any) -> None:
    assert words(answers["heard"]) == ["three", "one", "four", "one", "five", "nine"]
