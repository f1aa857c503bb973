"""What the answers of a contest add up to."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from langchain_ralmspec.bench.comparison import quartiles
from langchain_ralmspec.bench.rapid.answers import score
from langchain_ralmspec.bench.rapid.contest import (
    PLAIN,
    RAG,
    SD,
    Asked,
    LongAnswer,
    LongContest,
    length_class,
)
from langchain_ralmspec.bench.rapid.policies import (
    END,
    Answered,
    Cost,
    acceptance_by_position,
    best_policy,
    ceiling,
    lookup_places,
    model_attainable,
    oracle,
)

_LOOKUP = "lookup"
_MOSTLY = 0.5  # of an answer

Seconds = Callable[[Asked, str], float]
"""Of a row for a question."""


def figures(contest: LongContest) -> dict[str, Any]:
    """Everything that was measured, for a report and a JSON file."""
    rows = {name: Row(name, contest.asked) for name in contest.chains}
    chosen = rows.get(SD) or list(rows.values())[-1]
    return {
        "summary": chosen.summary(),
        "rows": {name: row.as_dict() for name, row in rows.items()},
        "batch_costs": _batch_costs(contest.asked),
        "samples": [_sample(asked) for asked in contest.asked],
    }


def _batch_costs(all_asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """Medians of what passes took, by length of prompt."""
    classes: dict[int, list[Asked]] = {}
    for asked in all_asked:
        classes.setdefault(length_class(asked.prompt), []).append(asked)
    return [
        {
            "prompt_tokens": round(statistics.median(len(a.prompt) for a in alike)),
            "seconds": {
                size: statistics.median(asked.costs(size) for asked in alike)
                for size in min((asked.costs.sizes for asked in alike), key=len)
            },
        }
        for _, alike in sorted(classes.items())
    ]


@dataclass(frozen=True, slots=True)
class Row:
    """All answers of a row, against the plain ones."""

    name: str
    asked: Sequence[Asked]

    @property
    def answers(self) -> list[LongAnswer]:
        """In the order of the questions."""
        return [asked.answers[self.name] for asked in self.asked]

    @property
    def acceptance(self) -> float | None:
        """Share of the drafted tokens that were accepted; None without any."""
        drafted = sum(sum(a.stats.drafted.values()) for a in self.answers)
        accepted = sum(sum(a.stats.accepted.values()) for a in self.answers)
        return accepted / drafted if drafted else None

    @property
    def n_identical(self) -> int:
        """Answers with the tokens of the plain one."""
        return sum(
            asked.answers[self.name].tokens == asked.answers[PLAIN].tokens
            for asked in self.asked
        )

    def speedup(self, seconds: Seconds) -> dict[str, Any] | None:
        """Plain seconds ÷ this row's; None where nothing was decoded.

        Questions for which either is 0 are left out.
        """
        pairs = [
            (seconds(each, PLAIN), seconds(each, self.name)) for each in self.asked
        ]
        pairs = [pair for pair in pairs if all(part > 0 for part in pair)]
        if not pairs:
            return None
        return {"quartiles": quartiles([plain / ours for plain, ours in pairs])}

    @property
    def decode_of_totals(self) -> float | None:
        """All plain seconds a token ÷ all of this row's."""
        plain, ours = _a_token(self.asked, PLAIN), _a_token(self.asked, self.name)
        return plain / ours if plain and ours else None

    def where(self, *, quoting: bool) -> Row:
        """Of the questions that plain decoding answers by quoting, mostly, or not."""
        asked = [each for each in self.asked if (each.quoted >= _MOSTLY) is quoting]
        return replace(self, asked=asked)

    @property
    def mean_cost(self) -> Cost:
        """*v(n)*, the mean over all questions."""
        return lambda n: statistics.fmean(asked.costs(n) for asked in self.asked)

    @property
    def attainable(self) -> tuple[float | None, str]:
        """What the best fixed policy allows, and whose; None for a row that is RAG."""
        if self.name == RAG:
            return None, ""
        allowed = [(1.0, "never draft")]
        for name in sorted({name for a in self.answers for name in a.drafters}):
            if name == _LOOKUP:
                policy, gain = best_policy(self._looked_up)
                allowed.append((gain, policy.label))
            else:
                allowed.append(self._by_model(name))
        return max(allowed, key=lambda one: one[0])

    @property
    def oracle(self) -> float | None:
        """What look-up allows by perfect foresight; None for rows without it."""
        if not any(_LOOKUP in answer.drafters for answer in self.answers):
            return None
        return oracle(self._looked_up)

    @property
    def _looked_up(self) -> list[Answered]:
        """The answers, with what look-up would have drafted at every place."""
        played = []
        for asked in self.asked:
            answer = asked.answers[self.name]
            tokens = (*answer.tokens, END) if answer.ended else answer.tokens
            places = lookup_places(asked.prompt, tokens)
            played.append(Answered(places, asked.costs))
        return played

    def _by_model(self, name: str) -> tuple[float, str]:
        known = [a.drafters[name] for a in self.answers if name in a.drafters]
        steps = [one.step for one in known if one.step is not None]
        if not steps:
            return 1.0, f"{name} never drafted"
        judged = acceptance_by_position(
            each for a in self.answers for each in a.stats.rounds if each[0] == name
        )
        gain = model_attainable(
            judged, known[-1].acceptance, statistics.median(steps), self.mean_cost
        )
        return gain, f"{name} at its best length"

    def first_token(self) -> dict[str, float | None]:
        """Median seconds to it: of first and second questions, and from a folder."""
        openings = {id(asked.opening): asked.opening for asked in self.asked}.values()
        firsts = [_first_question(asked, self.name)[0] for asked in self.asked]
        disks = [one.disk for one in openings if one.disk is not None]
        seconds = [answer.stats.first_token for answer in self.answers]
        return {
            "first": statistics.median(firsts),
            "second": statistics.median(seconds),
            "disk": statistics.median(disks) if disks and self.name != RAG else None,
        }

    def quality(self) -> dict[str, float] | None:
        """Means over the questions whose answers are known; None without any."""
        scores = [
            judged
            for asked in self.asked
            if (judged := score(asked.answers[self.name].text, asked.sample.answers))
        ]
        if not scores:
            return None
        return {
            measure: statistics.fmean(getattr(one, measure) for one in scores)
            for measure in ("f1", "exact", "contains")
        }

    def summary(self) -> dict[str, Any]:
        """The figures to quote."""
        decode = self.speedup(_decode_a_token)
        first_token = self.first_token()
        return {
            "speedup_median": decode["quartiles"][1] if decode else None,
            "speedup_sums": self.decode_of_totals,
            "ceiling": ceiling(self.mean_cost),
            "attainable": self.attainable[0],
            "identical": self.n_identical == len(self.asked),
            "questions": len(self.asked),
            "acceptance": self.acceptance,
            "second_ttft_speedup": _ratio(first_token["first"], first_token["second"]),
        }

    def decoding(self) -> dict[str, Any]:
        """How fast it decodes, and could."""
        attainable, policy = self.attainable
        return {
            "n_answers": len(self.asked),
            "n_identical": self.n_identical,
            "decode": self.speedup(_decode_a_token),
            "decode_of_totals": self.decode_of_totals,
            "decode_tokens_a_second": _ratio(1.0, _a_token(self.asked, self.name)),
            "attainable": attainable,
            "attainable_by": policy,
            "oracle": self.oracle,
            "reached": _ratio(self.decode_of_totals, attainable),
        }

    def as_dict(self) -> dict[str, Any]:
        """Everything, for a report and a JSON file."""
        rounds = [each for answer in self.answers for each in answer.stats.rounds]
        lengths = Counter(drafted for _, drafted, _ in rounds)
        n_decoded = sum(answer.n_decoded for answer in self.answers)
        return {
            **self.decoding(),
            "where_quoting": self.where(quoting=True).decoding(),
            "where_not_quoting": self.where(quoting=False).decoding(),
            "second_question": self.speedup(
                lambda each, row: each.answers[row].stats.seconds
            ),
            "first_question": self.speedup(
                lambda each, row: sum(_first_question(each, row))
            ),
            "first_token_seconds": self.first_token(),
            "acceptance": self.acceptance,
            "tokens_per_pass": _ratio(n_decoded, len(rounds)),
            "lengths": dict(sorted(lengths.items())),
            "drafted": _summed(answer.stats.drafted for answer in self.answers),
            "accepted": _summed(answer.stats.accepted for answer in self.answers),
            "quality": self.quality(),
            "divergences": [
                {"sample": number, **asdict(divergence)}
                for number, asked in enumerate(self.asked, start=1)
                for divergence in asked.divergences
                if divergence.row == self.name
            ],
        }


def _decode_a_token(asked: Asked, row: str) -> float:
    # Answers of different lengths compare by the token.
    answer = asked.answers[row]
    return answer.decoding / answer.n_decoded if answer.n_decoded else 0.0


def _first_question(asked: Asked, row: str) -> tuple[float, float]:
    """Seconds to the first token and behind it, were nothing of the context there."""
    stats, indexing = asked.answers[row].stats, asked.opening.indexing
    if row == RAG:
        return indexing[RAG] + stats.first_token, stats.decode_seconds
    # What a row retrieves from is made behind the context's tokens, once.
    preparing = max(0.0, indexing.get(row, 0.0) - stats.seconds_preparing)
    more = preparing if row != PLAIN else 0.0
    return asked.opening.first + more, stats.decode_seconds


def _a_token(asked: Iterable[Asked], row: str) -> float | None:
    answers = [each.answers[row] for each in asked]
    n_decoded = sum(answer.n_decoded for answer in answers)
    return _ratio(sum(answer.decoding for answer in answers), n_decoded)


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


def _summed(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)


def _sample(asked: Asked) -> dict[str, Any]:
    plain = asked.answers[PLAIN]
    return {
        "question": asked.sample.question,
        "answers": list(asked.sample.answers),
        "is_first": asked.is_first,
        "quoted": asked.quoted,
        "prompt_tokens": plain.stats.prompt_tokens,
        "dropped_tokens": plain.stats.dropped_tokens,
        "first_ttft": asked.opening.first,
        "ttft_from_disk": asked.opening.disk,
        "indexing_seconds": asked.opening.indexing,
        "pass_seconds": asked.costs.known,
        "rows": {row: _answer(asked, row) for row in asked.answers},
    }


def _answer(asked: Asked, row: str) -> dict[str, Any]:
    answer = asked.answers[row]
    judged = score(answer.text, asked.sample.answers)
    return {
        "text": answer.text,
        "score": asdict(judged) if judged else None,
        "identical": answer.tokens == asked.answers[PLAIN].tokens,
        "decoding_seconds": answer.decoding,
        "decoded_tokens": answer.n_decoded,
        "drafters": {name: asdict(one) for name, one in answer.drafters.items()},
        "stats": answer.stats.as_dict(),
        "rounds": [list(each) for each in answer.stats.rounds],
    }
