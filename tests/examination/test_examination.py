"""What the demo models promise, on data that neither training nor its code has seen, directly and through the system.

The bars are those that the models were made for. The seed stays the same, so that a failure speaks of a change.
"""

from __future__ import annotations

import shutil

import openai
import pytest

from tests.conftest import ROOT
from tests.examination.examine import examine_chat, examine_speech
from tests.examination.recordings import HELD_OUT_VOICE
from tests.examination.results import Row, rows, table
from tests.examination.served import Served

# The client calls its own translations deprecated.
pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")]

SEED = 2026
# Of the paper for speech, whose recordings take longest.
SHARE = 0.5
# By group: the share of right answers.
CHAT = {"scene": 0.95, "question": 0.95, "number": 0.95, "comparison": 0.9, "word": 0.9, "text": 0.9, "style": 0.95}
CHAT |= {"tool": 0.9}
# By kind: the highest word error rate.
SPEECH = {"unseen sentences": 0.05, "held-out voice": 0.05, "8 kHz": 0.08, "noise 15 dB": 0.08}
DETECTION = {"language detected": 0.98, "no speech": 0.98}


@pytest.fixture
def served(client: openai.OpenAI) -> Served:
    return Served(client)


def test_chat(served: Served) -> None:
    results = examine_chat(ROOT / "demo_models/demo-vl", SEED, served)
    print(table(results))
    found = rows(results, by_group=True)
    for name, bar in CHAT.items():
        assert_share(found[name], bar)


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_speech(served: Served) -> None:
    results = examine_speech(ROOT / "demo_models/demo-whisper", SEED, HELD_OUT_VOICE, served, SHARE)
    print(table(results))
    found = rows(results)
    for name, bar in DETECTION.items():
        assert_share(found[name], bar)
    for name, bar in SPEECH.items():
        row = found[name]
        assert row.direct_wer is not None and row.direct_wer <= bar, row.wrong()
        assert row.served_wer is not None and row.served_wer <= bar, row.wrong()


def assert_share(row: Row, bar: float) -> None:
    assert row.direct >= bar, f"{row.name}: {row.direct:.1%}: {row.wrong()}"
    assert row.served >= bar, f"{row.name}: {row.served:.1%}: {row.wrong()}"
