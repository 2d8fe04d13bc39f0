"""Whisper's token layout over a vocabulary of our own.

Byte-level BPE whose merges spell each word of the domain letter by letter from its leading space,
so every word is one token and any other text still encodes. After the pieces come
``<|endoftext|>``, the special tokens in Whisper's order with all 99 languages, and the 1,501
timestamps; ``<|nospeech|>`` must stand just before ``<|notimestamps|>`` and that just before the
timestamps, because transformers computes these ids from each other.
"""

from transformers import AddedToken, WhisperTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from training.speech import texts

END = "<|endoftext|>"
START = "<|startoftranscript|>"
TRANSCRIBE = "<|transcribe|>"
TRANSLATE = "<|translate|>"
PREVIOUS = "<|startofprev|>"
NO_SPEECH = "<|nospeech|>"
NO_TIMESTAMPS = "<|notimestamps|>"
ENGLISH = "<|en|>"

TIMESTAMPS = 1501

_BYTES: dict[int, str] = bytes_to_unicode()  # type: ignore[no-untyped-call]
SPACE = _BYTES[ord(" ")]


def language_tokens() -> list[str]:
    """The 99 languages of the original multilingual layout (later ones come after them)."""
    return [f"<|{code}|>" for code in list(LANGUAGES)[:99]]


def word_token(word: str) -> str:
    """The token of a word with the space before it, in the byte alphabet."""
    return SPACE + "".join(_BYTES[byte] for byte in word.encode())


def token_id(vocabulary: WhisperTokenizer, token: str) -> int:
    """The id of one token. Raises KeyError for a token the vocabulary lacks."""
    number = vocabulary.convert_tokens_to_ids(token)
    if not isinstance(number, int) or (number == vocabulary.unk_token_id and token != END):
        raise KeyError(token)
    return number


def _pieces() -> tuple[dict[str, int], list[tuple[str, str]]]:
    vocabulary = {character: index for index, character in enumerate(_BYTES.values())}
    merges: list[tuple[str, str]] = []
    for word in texts.words():
        prefix = SPACE
        for letter in word_token(word)[1:]:
            if prefix + letter not in vocabulary:
                vocabulary[prefix + letter] = len(vocabulary)
                merges.append((prefix, letter))
            prefix += letter
    vocabulary[END] = len(vocabulary)
    return vocabulary, merges


def build() -> WhisperTokenizer:
    """The tokenizer, with prompts for English transcription without timestamps as its default."""
    vocabulary, merges = _pieces()
    tokenizer = WhisperTokenizer(
        vocab=vocabulary, merges=merges, unk_token=END, bos_token=END, eos_token=END, pad_token=END
    )
    special = [
        START,
        *language_tokens(),
        TRANSLATE,
        TRANSCRIBE,
        "<|startoflm|>",
        PREVIOUS,
        NO_SPEECH,
        NO_TIMESTAMPS,
    ]
    tokenizer.add_special_tokens({"extra_special_tokens": special})
    times = [AddedToken(f"<|{n * 0.02:.2f}|>", normalized=False) for n in range(TIMESTAMPS)]
    tokenizer.add_tokens(times)
    return tokenizer


def timestamp_begin(tokenizer: WhisperTokenizer) -> int:
    """The id of ``<|0.00|>``."""
    return token_id(tokenizer, NO_TIMESTAMPS) + 1
