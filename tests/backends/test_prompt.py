"""From messages to token ids, with a real tokenizer and a real chat template."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from python_backends.errors import BackendError, InvalidInput, Unsupported
from python_backends.llm.feature_cache import ImageFeatures
from python_backends.llm.prompt import Prompter, place_media, wishes_of
from python_backends.llm.vision_client import Wishes
from tests.backends.tiny import SPECIALS, byte_level_tokenizer, save_tokenizer

TOKENIZER = byte_level_tokenizer()
START, END, VISION, IMAGE = (TOKENIZER.token_to_id(SPECIALS[i]) for i in (1, 2, 3, 5))
# A placeholder for videos that the template does not know.
VIDEO = TOKENIZER.token_to_id(SPECIALS[0])
CONTROL = {TOKENIZER.token_to_id(name) for name in SPECIALS}
PICTURE = {"type": "image"}


@pytest.fixture(scope="module")
def prompter(tmp_path_factory: pytest.TempPathFactory) -> Prompter:
    folder = save_tokenizer(tmp_path_factory.mktemp("chat"), image_token_id=IMAGE, video_token_id=VIDEO)
    return Prompter(str(folder))


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def image(num_tokens: int, digest: bytes = b"d") -> ImageFeatures:
    return ImageFeatures(np.zeros((num_tokens, 4), np.float32), (1, 2, 2 * num_tokens), digest)


def controls(ids: list[int]) -> list[int]:
    return [token_id for token_id in ids if token_id in CONTROL]


def test_a_conversation_is_the_template_in_tokens(prompter: Prompter) -> None:
    ids = prompter.from_messages([{"role": "system", "content": "the dog"}, user("stop")])
    expected = "<|im_start|>system\nthe dog<|im_end|>\n<|im_start|>user\nstop<|im_end|>\n<|im_start|>assistant\n"
    assert ids == TOKENIZER.encode(expected).ids


@example("\ue0000\ue001")
@example("\ue00077\ue001")
@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([*SPECIALS, "a", " dog", "\ue000", "\ue001", "0", "77", "<|", "im_end|>"])).map("".join)
)
def test_what_a_user_types_stays_text(prompter: Prompter, typed: str) -> None:
    plain = prompter.from_messages([user("x")])
    for content in (typed, [text(typed)]):
        ids = prompter.from_messages([user(content)])
        assert controls(ids) == controls(plain)
        said = TOKENIZER.decode(ids, skip_special_tokens=False)
        assert said == f"<|im_start|>user\n{typed}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("messages", "tools"),
    [
        ([{"role": "user<|im_end|>", "content": "x"}], None),
        ([user([{"type": "<|im_end|>", "text": "x"}])], None),
        ([user("x")], [{"type": "function", "<|im_end|>": "<|im_start|>"}]),
    ],
)
def test_no_other_place_makes_control_tokens_either(
    prompter: Prompter, messages: list[Any], tools: list[Any] | None
) -> None:
    assert controls(prompter.from_messages(messages, tools)) == [START, END, START]


def test_tools_and_keyword_arguments_reach_the_template(prompter: Prompter) -> None:
    ids = prompter.from_messages([user("x")], [{"name": "clock"}], {"add_generation_prompt": False})
    assert TOKENIZER.decode(ids).endswith('x\n[{"name": "clock"}]')


@pytest.mark.parametrize(
    ("messages", "kwargs", "expected"),
    [
        ([], {}, "must not be empty"),
        (["hi"], {}, "message 0 must be an object with a role"),
        ([user("x"), {"content": "x"}], {}, "message 1 must be an object with a role"),
        ([user(5)], {}, "the content of message 0 must be text"),
        ([user(["x"])], {}, "the content of message 0 must be text"),
        ([user("x")], {"shout": "shouting"}, "no shouting"),
        ([user("x")], {"tokenize": True}, "multiple values"),
    ],
)
def test_what_no_template_can_take(
    prompter: Prompter, messages: list[Any], kwargs: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InvalidInput, match=expected) as caught:
        prompter.from_messages(messages, None, kwargs)
    assert caught.value.field == "messages"


def test_a_client_does_not_choose_the_template(prompter: Prompter) -> None:
    with pytest.raises(InvalidInput) as caught:
        prompter.from_messages([user("x")], None, {"chat_template": "{{ messages }}"})
    assert caught.value.field == "chat_template_kwargs"


def test_a_checkpoint_without_a_template_takes_text_only(tmp_path: Path) -> None:
    base = Prompter(str(save_tokenizer(tmp_path, chat_template=None)))
    assert base.from_text("the dog") == TOKENIZER.encode("the dog").ids
    with pytest.raises(Unsupported, match="no chat template"):
        base.from_messages([user("x")])
    with pytest.raises(Unsupported, match="does not see images"):
        base.expand(base.from_text("the dog"), [image(2)])


@pytest.mark.parametrize("as_file", [False, True])
def test_the_template_of_the_options_wins(tmp_path: Path, as_file: bool) -> None:
    template = "{{ messages[0]['content'] }}!"
    (tmp_path / "mine.jinja").write_text(template)
    folder = save_tokenizer(tmp_path / "checkpoint")
    mine = Prompter(str(folder), str(tmp_path / "mine.jinja") if as_file else template)
    assert TOKENIZER.decode(mine.from_messages([user("stop")])) == "stop!"


def test_special_tokens_of_a_finished_prompt_are_control_tokens(prompter: Prompter) -> None:
    assert prompter.from_text("<|im_start|>user")[0] == START


def test_placeholders_grow_to_one_token_per_feature(prompter: Prompter) -> None:
    ids = prompter.from_messages([user([PICTURE, text("the dog"), PICTURE, text("stop")])])
    prompt = prompter.expand(ids, [image(3, b"first"), image(2, b"second")])
    assert [prompt.ids[span.start : span.end] for span in prompt.images] == [(IMAGE,) * 3, (IMAGE,) * 2]
    assert [prompt.ids[span.start - 1] for span in prompt.images] == [VISION, VISION]
    assert [span.digest for span in prompt.images] == [b"first", b"second"]
    assert prompt.num_image_tokens == prompt.ids.count(IMAGE) == 5
    assert [token_id for token_id in prompt.ids if token_id != IMAGE] == [i for i in ids if i != IMAGE]


def test_an_image_that_comes_in_tiles_has_one_span_for_each(prompter: Prompter) -> None:
    ids = prompter.from_messages([user([PICTURE, text("stop")])])
    features = np.arange(12, dtype=np.float32).reshape(3, 4)
    tiled = "<|vision_start|><|image_pad|><|image_pad|>\n<|vision_end|><|image_pad|>"
    prompt = prompter.expand(ids, [ImageFeatures(features, (1, 2, 2), b"d", tiled)])
    assert [prompt.ids[span.start : span.end] for span in prompt.images] == [(IMAGE,) * 2, (IMAGE,)]
    assert np.array_equal(np.concatenate([span.features for span in prompt.images]), features)
    assert prompt.images[0].digest == b"d" != prompt.images[1].digest
    with pytest.raises(InvalidInput, match="one placeholder for each of 2 features"):
        prompter.expand(ids, [ImageFeatures(features[:2], (1, 2, 2), b"d", tiled)])


def test_each_image_part_can_bound_its_image() -> None:
    parts = [PICTURE | {"max_pixels": 9}, text("x"), {"type": "image_url", "min_pixels": 4}, PICTURE]
    assert wishes_of([user("x"), user(parts)]) == [Wishes(0, 9), Wishes(4, 0), Wishes()]


@pytest.mark.parametrize("value", [0, -1, 1.5, "9", True, 2**63])
def test_bounds_that_are_no_counts_of_pixels_are_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match="max_pixels of a part"):
        wishes_of([user([PICTURE | {"max_pixels": value}])])


@pytest.mark.parametrize(("num_places", "num_images"), [(0, 1), (1, 0), (2, 1)])
def test_places_and_images_must_be_equally_many(prompter: Prompter, num_places: int, num_images: int) -> None:
    ids = prompter.from_messages([user([PICTURE] * num_places + [text("x")])])
    with pytest.raises(InvalidInput, match=f"{num_places} places for images, but {num_images} came") as caught:
        prompter.expand(ids, [image(2)] * num_images)
    assert caught.value.field == "image"


def test_a_typed_placeholder_is_no_place_for_an_image(prompter: Prompter) -> None:
    ids = prompter.from_messages(place_media([user("<|image_pad|>")], 1))
    assert prompter.expand(ids, [image(2)]).num_image_tokens == 2


def test_images_without_a_place_go_before_the_last_users_text() -> None:
    messages = [user("first"), {"role": "assistant", "content": "ok"}, user("last")]
    placed = place_media(messages, 2)
    assert placed == [*messages[:2], user([PICTURE, PICTURE, text("last")])]
    assert messages[2] == user("last"), "the caller's messages are left alone"


def test_only_missing_places_are_added() -> None:
    url = {"type": "image_url", "image_url": {"url": "data:"}}
    messages = [user([PICTURE, text("first")]), user([url, text("last")])]
    assert place_media(messages, 2) == messages
    assert place_media(messages, 3)[1] == user([PICTURE, url, text("last")])


@pytest.mark.parametrize("content", [None, "", []])
def test_an_empty_message_can_hold_an_image(prompter: Prompter, content: Any) -> None:
    ids = prompter.from_messages(place_media([user(content)], 1))
    assert ids.count(IMAGE) == 1


@pytest.mark.parametrize("messages", [[], ["hi"], [user(5)], [{"role": "system", "content": "x"}], [user([5])]])
def test_nowhere_to_put_an_image_is_an_error_of_the_request(prompter: Prompter, messages: list[Any]) -> None:
    with pytest.raises(BackendError) as caught:
        prompter.expand(prompter.from_messages(place_media(messages, 1)), [image(2)])
    assert caught.value.code == "INVALID_ARGUMENT"


def test_a_bad_word_is_spelt_at_a_start_and_after_a_space(prompter: Prompter) -> None:
    spelt = prompter.word_ids("dog")
    assert {TOKENIZER.decode(list(ids)) for ids in spelt} == {"dog", " dog"}


def test_limits_saved_with_the_tokenizer_do_not_cut_a_prompt(tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path)
    limited = Tokenizer.from_file(str(folder / "tokenizer.json"))
    limited.enable_truncation(5)
    limited.enable_padding(length=50)
    limited.save(str(folder / "tokenizer.json"))
    assert Prompter(str(folder)).from_text("the dog " * 9) == TOKENIZER.encode("the dog " * 9).ids


def test_loading_warns_of_nothing(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Prompter(str(save_tokenizer(tmp_path)))


def test_images_and_videos_take_their_own_places(prompter: Prompter) -> None:
    clip = ImageFeatures(np.zeros((4, 4), np.float32), (2, 2, 4), b"clip", seconds_per_grid=0.5)
    prompt = prompter.expand([7, VIDEO, 8, IMAGE, 9], [image(2)], [clip])
    assert prompt.ids == (7, *[VIDEO] * 4, 8, *[IMAGE] * 2, 9)
    assert [(span.start, span.digest, span.seconds_per_grid) for span in prompt.images] == [
        (1, b"clip", 0.5),
        (6, b"d", 0),
    ]
    assert prompt.num_image_tokens == 6
    with pytest.raises(InvalidInput, match="0 places for videos, but 1 came") as caught:
        prompter.expand([7, IMAGE], [image(2)], [clip])
    assert caught.value.field == "video"


def test_each_frame_between_times_is_a_grid_of_its_own(prompter: Prompter) -> None:
    pad = SPECIALS[0]
    clip = ImageFeatures(
        np.zeros((4, 4), np.float32), (2, 2, 4), b"clip", f"<0.2 seconds>{pad}{pad}<1.2 seconds>{pad}{pad}", 1.0
    )
    spans = prompter.expand([VIDEO], [], [clip]).images
    assert [(len(span.features), span.grid) for span in spans] == [(2, (1, 2, 4))] * 2


def test_wishes_and_places_of_videos() -> None:
    parts = [{"type": "video", "fps": 0.5, "max_pixels": 9}, {"type": "video_url"}, PICTURE]
    assert wishes_of([user(parts)], "video") == [Wishes(0, 9, 0.5), Wishes()]
    placed = place_media([user("look")], 1, 2)
    assert placed == [user([PICTURE, {"type": "video"}, {"type": "video"}, text("look")])]
    for fps in (0, -1, "2", True, float("nan"), 1001):
        with pytest.raises(InvalidInput, match="fps of a video"):
            wishes_of([user([{"type": "video", "fps": fps}])], "video")
