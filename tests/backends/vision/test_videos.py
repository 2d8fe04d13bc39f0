"""Videos: which frames are taken, what becomes of them, and the same tokens as transformers from the same frames."""

from __future__ import annotations

from functools import partial
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
import transformers as hf
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.video_utils import VideoMetadata

from python_backends.errors import InvalidInput, Unsupported
from python_backends.llm.feature_cache import ImageFeatures
from python_backends.llm.prompt import Prompter
from python_backends.vision.encoder import VisionEncoder
from python_backends.vision.processor import PixelProcessor
from python_backends.vision.videos import Video, sample_video
from tests.backends.vision import tiny
from tests.backends.vision.test_families import NUM_TOKENS, answers, pictures

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
TEXT = f"<user>see {tiny.IMAGE} and\n<video>: which?<reply>"


def film(num_frames: int = 30, rate: int = 10) -> bytes:
    """An MP4 of 96 x 64 whose n-th frame is of the grey 8 n, with a white corner."""
    written = BytesIO()
    with av.open(written, "w", format="mp4") as file:
        stream: Any = file.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(num_frames):
            pixels = np.full((64, 96, 3), number * 8, np.uint8)
            pixels[:32, :48] = 255
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))
    return written.getvalue()


def numbers(video: Video) -> list[int]:
    """Which frames were taken, by their grey."""
    return [round(float(np.asarray(frame)[-8:, -8:].mean()) / 8) for frame in video.frames()]


@pytest.mark.parametrize(
    ("fps", "max_frames", "taken"),
    [
        (2.0, 64, [0, 5, 10, 15, 20, 25]),
        (2.0, 5, [0, 7, 15, 22]),
        (0.1, 64, [0, 7, 15, 22]),
        (3.0, 64, [0, 3, 7, 11, 15, 18, 22, 26]),
        (99.0, 64, list(range(30))),
    ],
)
def test_frames_are_spread_over_the_film(fps: float, max_frames: int, taken: list[int]) -> None:
    video = sample_video(film(), fps, max_frames)
    assert list(video.indices) == numbers(video) == taken
    assert video.sampled_fps == pytest.approx(len(taken) / 3)


def test_one_frame_is_a_film_too() -> None:
    video = sample_video(film(1), 2.0, 64)
    assert (video.indices, video.times(2), numbers(video)) == ((0,), [0.0], [0])


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "is empty"),
        (b"no video", "is no MP4"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n", "is no MP4"),
        (film()[:2000], "is no MP4"),
    ],
)
def test_what_is_no_video_is_refused(data: bytes, text: str) -> None:
    with pytest.raises(InvalidInput, match=text) as caught:
        sample_video(data, 2.0, 64)
    assert caught.value.field == "video"


def test_each_frame_is_the_image_it_would_be_alone(tmp_path: Path) -> None:
    processor = PixelProcessor(str(tiny.save(tmp_path, "qwen2_5_vl")))
    video = sample_video(film(), 2.0, 64)
    made, alone = processor.video(video), [processor(frame) for frame in video.frames()]
    assert made.grid.tolist() == [3, *alone[0].grid.tolist()[1:]]
    assert (made.size.tolist(), made.seconds_per_grid) == ([64, 96], 1.0)
    patches = made.pixel_values.reshape(3, len(alone[0].pixel_values), 3, 2, -1)
    for number, frame in enumerate(alone):
        # An image is a film whose frames are all equal.
        first = frame.pixel_values.reshape(*patches.shape[1:])[:, :, 0]
        assert np.array_equal(patches[number // 2, :, :, number % 2], first)


def test_families_without_videos_say_so(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="'llava' take no videos"):
        PixelProcessor(str(tiny.save(tmp_path, "llava"))).check_video()


@pytest.mark.parametrize("family", FAMILIES)
def test_same_frames_same_tokens(family: str, tmp_path: Path) -> None:
    folder = tiny.save(tmp_path, family, std=0.15)
    processor, encoder = PixelProcessor(str(folder)), VisionEncoder(str(folder), "float32")
    video = sample_video(film(rate=8), 2.0, 64)
    inputs = [processor(pictures()[0]), processor.video(video)]
    image, clip = [
        ImageFeatures(found, tuple(each.grid.tolist()), bytes([number]), each.prompt, each.seconds_per_grid)
        for number, (each, found) in enumerate(zip(inputs, encoder.encode(inputs), strict=True))
    ]
    prompter = Prompter(str(folder))
    prompt = prompter.expand(prompter.from_text(TEXT), [image], [clip])
    ids, answer = oracle(folder, prompter, inputs, video)
    assert list(prompt.ids) == ids
    assert prompt.num_image_tokens == ids.count(5) + ids.count(6)
    assert answers(folder, prompt, 2) == [answer, answer]
    assert len(set(answer)) > 2, "a text that repeats one token shows little"


def oracle(folder: Path, prompter: Prompter, inputs: list[Any], video: Video) -> tuple[list[int], list[int]]:
    """Prompt and greedy answer of `generate`, from the same pixel values."""
    image, clip = inputs
    model: Any = hf.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    family = model.config.model_type
    stands = stamped(video, clip.grid) if family == "qwen3_vl" else "<video>" * (int(clip.grid.prod()) // 4)
    text = TEXT.replace(tiny.IMAGE, tiny.IMAGE * (int(image.grid.prod()) // 4)).replace("<video>", stands)
    ids = torch.tensor([prompter.from_text(text)])
    given = {
        "pixel_values": torch.from_numpy(image.pixel_values),
        "image_grid_thw": torch.from_numpy(image.grid[None]),
        "pixel_values_videos": torch.from_numpy(clip.pixel_values),
        "video_grid_thw": torch.from_numpy(clip.grid[None]),
        "mm_token_type_ids": (ids == 5).int() + 2 * (ids == 6).int(),
    }
    if family == "qwen2_5_vl":
        given["second_per_grid_ts"] = torch.tensor([2 / video.sampled_fps])
    limits = {"max_new_tokens": NUM_TOKENS, "eos_token_id": -1, "pad_token_id": 2}
    with torch.inference_mode():
        output = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **limits, **given)
    return ids[0].tolist(), output[0, ids.shape[1] :].tolist()


def stamped(video: Video, grid: Any) -> str:
    """The text of transformers' own Qwen3-VL processor for these frames."""
    metadata = VideoMetadata(video.num_frames, fps=video.fps, frames_indices=list(video.indices))
    itself: Any = SimpleNamespace(
        video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2),
        video_token="<video>",
        vision_start_token="<user>",
        vision_end_token="<reply>",
        _calculate_timestamps=partial(Qwen3VLProcessor._calculate_timestamps, None),
    )
    given = {"video_grid_thw": grid[None], "video_metadata": [metadata]}
    return Qwen3VLProcessor.replace_video_token(itself, given, 0)
