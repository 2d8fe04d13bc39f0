"""Write the averaged weights as a Hugging Face folder: ``python -m training.speech.export``.

Files are written to a folder beside the product and then moved over it one by one, so that a server
that loads meanwhile sees whole files.
"""

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path

from transformers import (
    GenerationConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from training.speech import checkpoint, model, texts, tokenizer
from training.speech.windows import POSITIONS


def generation_config(vocabulary: WhisperTokenizer, heads: list[list[int]]) -> GenerationConfig:
    """All that ``generate`` needs for language, task, timestamps and word timestamps."""
    ids = partial(tokenizer.token_id, vocabulary)
    end = ids(tokenizer.END)
    return GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=ids(tokenizer.START),
        is_multilingual=True,
        lang_to_id={token: ids(token) for token in tokenizer.language_tokens()},
        task_to_id={"transcribe": ids(tokenizer.TRANSCRIBE), "translate": ids(tokenizer.TRANSLATE)},
        no_timestamps_token_id=ids(tokenizer.NO_TIMESTAMPS),
        prev_sot_token_id=ids(tokenizer.PREVIOUS),
        # The end token stays allowed at once, unlike in the original: silence is an empty text.
        begin_suppress_tokens=[ids(tokenizer.SPACE)],
        suppress_tokens=[],
        # The original 50 forbids a first segment that starts after the first second.
        max_initial_timestamp_index=POSITIONS,
        alignment_heads=heads,
        # A word is one token here, so dictated digits have a ratio of 1.9 without any fault.
        compression_ratio_threshold=2.4,
        max_length=448,
        return_timestamps=False,
    )


def _vocabulary_list() -> str:
    """What may be said to the model, as ``language<TAB>word`` lines."""
    words = {"en": texts.english_words(), "de": texts.german_words()}
    return "".join(f"{language}\t{word}\n" for language in words for word in words[language])


def load_model(checkpoint_file: Path) -> tuple[WhisperForConditionalGeneration, WhisperTokenizer]:
    vocabulary = tokenizer.build()
    whisper = WhisperForConditionalGeneration(model.config(vocabulary))
    whisper.load_state_dict(checkpoint.averaged_weights(checkpoint.load(checkpoint_file)))
    # openai/whisper and the words of transformers' pipeline begin a word where the token before it
    # looks, so the heads are those that training led to the word to come (``Trainee.decode``).
    layer = whisper.config.decoder_layers - 1
    heads = [[layer, head] for head in range(whisper.config.decoder_attention_heads)]
    whisper.generation_config = generation_config(vocabulary, heads)
    return whisper, vocabulary


def export(checkpoint_file: Path, folder: Path) -> None:
    whisper, vocabulary = load_model(checkpoint_file)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as name:
        fresh = Path(name)
        whisper.save_pretrained(fresh)
        vocabulary.save_pretrained(fresh)
        extractor = WhisperFeatureExtractor(feature_size=80)  # type: ignore[no-untyped-call]
        extractor.save_pretrained(fresh)
        (fresh / "vocabulary.txt").write_text(_vocabulary_list())
        for file in sorted(fresh.iterdir()):
            file.chmod(0o644)
            os.replace(file, folder / file.name)


def main() -> None:
    parser = argparse.ArgumentParser(description="Export a checkpoint as a model folder.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    export(arguments.checkpoint, arguments.folder)


if __name__ == "__main__":
    main()
