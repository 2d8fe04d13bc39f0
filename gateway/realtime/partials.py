"""What may be told of a text while it still changes: what two readings in a row agree on."""

from __future__ import annotations


class AgreedText:
    """Successive readings of a growing recording, and the part of them that was told; it is never taken back.

    The rule is LocalAgreement of whisper_streaming (Macháček et al., 2023), for words.
    """

    def __init__(self) -> None:
        self.told = ""
        self._last = ""

    def __repr__(self) -> str:
        return f"<AgreedText {self.told!r} of {self._last!r}>"

    def read(self, text: str) -> str:
        """The next reading; returns what can be told now and was not."""
        agreed = _whole_words(_common(self._last, text), text)
        self._last = text
        return self._tell(agreed)

    def finish(self, text: str) -> str:
        """The last reading: the rest of it, unless it goes another way than what was told."""
        return self._tell(text)

    def _tell(self, text: str) -> str:
        if not text.startswith(self.told):
            return ""
        new, self.told = text[len(self.told) :], text
        return new


def _common(first: str, second: str) -> str:
    """What both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return first[: next((place for place, (one, other) in pairs if one != other), min(len(first), len(second)))]


def _whole_words(prefix: str, text: str) -> str:
    """The prefix of `text` without a word that goes on after it; languages without spaces have no such words."""
    if " " not in text or len(prefix) == len(text) or text[len(prefix) :].startswith(" "):
        return prefix
    return prefix[: prefix.rfind(" ") + 1].rstrip()
