"""Answers compared with the truth and with each other, and the table of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import jiwer

from tests.examination.question import Question
from tests.examination.recordings import Recording
from tests.examination.served import REFUSED
from tests.speech import words

Asked = Question | Recording


@dataclass(frozen=True)
class Result:
    """A question with its answers; None where nobody was asked."""

    asked: Asked
    direct: str | None
    served: str | None

    @property
    def is_refused(self) -> bool:
        return self.served is not None and self.served.startswith(REFUSED)


@dataclass(frozen=True)
class Row:
    """All results of one kind, or of a group of kinds."""

    name: str
    results: tuple[Result, ...] = field(repr=False)

    @property
    def direct(self) -> float:
        """The share that transformers answers rightly, from 0 to 1."""
        return _share(result.direct is not None and result.asked.accepts(result.direct) for result in self.results)

    @property
    def served(self) -> float:
        """The share that the system answers rightly."""
        return _share(result.served is not None and result.asked.accepts(result.served) for result in self.results)

    @property
    def same(self) -> float:
        """The share of which both say the same."""
        return _share(result.direct == result.served for result in self.results)

    @property
    def is_refused(self) -> bool:
        """The API has no such thing."""
        return all(result.is_refused for result in self.results)

    @property
    def direct_wer(self) -> float | None:
        return _word_error_rate([(result.asked, result.direct) for result in self.results])

    @property
    def served_wer(self) -> float | None:
        return None if self.is_refused else _word_error_rate([(found.asked, found.served) for found in self.results])

    def wrong(self) -> list[str]:
        """A line for every mistake of either."""
        return [_mistake(result) for result in self.results if _is_wrong(result)]


def rows(results: Iterable[Result], by_group: bool = False) -> dict[str, Row]:
    """One row for each kind or group, in the order of their first results."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.asked.group if by_group else result.asked.kind, []).append(result)
    return {name: Row(name, tuple(several)) for name, several in found.items()}


def table(results: Sequence[Result]) -> str:
    """Every kind, and a line with the sum below each group of several kinds."""
    kinds, lines = rows(results), [_HEAD]
    for group, whole in rows(results, by_group=True).items():
        members = [row for row in kinds.values() if row.results[0].asked.group == group]
        lines += [_line(row) for row in members]
        lines += [_line(Row(f"{group}: all", whole.results))] if len(members) > 1 else []
    return "\n".join(lines)


_HEAD = f"{'kind':32} {'n':>4} {'direct':>7} {'system':>7} {'same':>7} {'WER':>6} {'WER sys':>7}"


def _line(row: Row) -> str:
    was_served = row.results[0].served is not None
    system = "refused" if row.is_refused else f"{row.served:7.1%}" if was_served else "-"
    same = f"{row.same:7.1%}" if was_served and not row.is_refused else "-"
    rates = [f"{rate:.1%}" if rate is not None else "" for rate in (row.direct_wer, row.served_wer)]
    shares = f"{row.direct:7.1%} {system:>7} {same:>7}"
    return f"{row.name:32} {len(row.results):4} {shares} {rates[0]:>6} {rates[1]:>7}".rstrip()


def _share(found: Iterable[bool]) -> float:
    listed = list(found)
    return sum(listed) / len(listed)


def _word_error_rate(pairs: Sequence[tuple[Asked, str | None]]) -> float | None:
    """By jiwer over all words of the row; None for what is not a text that somebody speaks."""
    texts = [(one.answer, given) for one, given in pairs if isinstance(one, Recording) and one.task != "detect"]
    if not texts or not all(truth and given is not None for truth, given in texts):
        return None
    truths, heard = ([" ".join(words(text or "")) for text in side] for side in zip(*texts, strict=True))
    return float(jiwer.wer(truths, heard))


def _is_wrong(result: Result) -> bool:
    answers = [answer for answer in (result.direct, result.served) if answer is not None]
    return not all(result.asked.accepts(answer) for answer in answers)


def _mistake(result: Result) -> str:
    answers = repr(result.direct)
    if result.served is not None and result.served != result.direct:
        answers += f", system {result.served!r}"
    return f"{result.asked.text!r}: right {result.asked.answer!r}, direct {answers}"
