"""The models asked through the running system, with the official OpenAI client."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import openai

from tests.examination.question import Question, call_text
from tests.examination.recordings import LANGUAGES, Recording

REFUSED = "refused: "


class Served:
    """What `client` reaches; the models are found by their tasks, whatever their names are."""

    def __init__(self, client: openai.OpenAI) -> None:
        self._client = client
        tasks = {model.model_dump().get("task"): model.id for model in client.models.list()}
        self._chat, self._speech = tasks.get("chat", ""), tasks.get("transcription", "")

    def answer(self, asked: Question | Recording) -> str:
        """The answer; REFUSED and the reason where the API does not have what is asked for; another error as a text."""
        try:
            return self._chat_answer(asked) if isinstance(asked, Question) else self._speech_answer(asked)
        except (openai.BadRequestError, openai.NotFoundError) as error:
            return f"{REFUSED}{error.message}"
        except openai.APIError as error:
            return f"failed: {error.message}"

    def _chat_answer(self, question: Question) -> str:
        pictures = iter(question.pictures)
        messages: Any = [_wire_message(message, pictures) for message in question.messages]
        options: Any = {"tools": list(question.tools)} if question.tools else {}
        reply = self._client.chat.completions.create(
            model=self._chat, messages=messages, temperature=0, max_tokens=128, **options
        )
        message: Any = reply.choices[0].message
        if message.tool_calls:
            function = message.tool_calls[0].function
            return call_text(function.name, function.arguments)
        return message.content or ""

    def _speech_answer(self, recording: Recording) -> str:
        file = ("speech", recording.file)
        if recording.task == "translate":
            return self._client.audio.translations.create(model=self._speech, file=file).text
        if recording.task == "detect":
            told: Any = self._client.audio.transcriptions.create(
                model=self._speech, file=file, response_format="verbose_json"
            )
            return next((code for code, name in LANGUAGES.items() if name == told.language), told.language)
        return self._client.audio.transcriptions.create(model=self._speech, file=file, language=recording.language).text


def _wire_message(message: dict[str, Any], pictures: Iterator[bytes]) -> dict[str, Any]:
    """With a data URL in the place of every image part."""
    if isinstance(message["content"], str):
        return message
    parts = [_picture_part(next(pictures)) if part["type"] == "image" else part for part in message["content"]]
    return {**message, "content": parts}


def _picture_part(picture: bytes) -> dict[str, Any]:
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"}}
