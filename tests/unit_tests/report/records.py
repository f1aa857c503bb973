"""Records of answers that nobody wrote, as long and as hostile as wanted."""

from typing import Any

from langchain_ralmspec.report import Call, Passage, Record, RollBack, Step
from langchain_ralmspec.report.record import Span

HOSTILE = (
    "</title></style></script><script>window.alerted=true</script>"
    "<img src=x onerror=window.alerted=true>"
    "\" onload='alert(3)' {{ 7 * 7 }} <!-- ]]> &amp; &#60;b&#62; \x00\x08\x1b[31m\x85"
    "\u202egnp.exe \u2066 \ufffe \U0001ffff \u0645\u0631\u062d\u0628\u0627 \ud83d"
)


def record_with(**changes: Any) -> Record:
    return Record(**{"method": "RaLMSpec", "figures": {}, "counts": {}, **changes})


def long_record(n_steps: int = 500, text: str = " word") -> Record:
    """An answer of so many steps, every tenth of which had to be written again."""
    steps, spans, calls, backs = [], [], [], []
    now = 0.2
    for number in range(n_steps):
        if number % 10 == 7:
            spans.append(Span(part="generating", start=now, end=now + 0.1))
            backs.append(RollBack(start=now, end=now + 0.1, tokens=4, text=text * 4))
            calls.append(Call(start=now - 0.1, end=now + 0.1, guesses=4, right=3))
            now += 0.1
        step = Step(
            start=now,
            end=now + 0.1,
            at=now + 0.15,
            pieces=(text,) * 4,
            documents=(number // 60,),
            origin=("known", "confirmed", "proven")[number % 3],
        )
        steps.append(step)
        spans.append(Span(part="generating", start=now, end=now + 0.1))
        spans.append(Span(part="waiting", start=now + 0.1, end=now + 0.12))
        now += 0.12
    return record_with(
        question=text,
        finish_reason="length",
        figures={
            "seconds": now,
            "first_token": 0.3,
            "guesses": n_steps,
            "right_guesses": n_steps * 9 // 10,
            "rounds": len(calls),
            "store_calls": len(calls),
            "seconds_waiting": 0.02 * n_steps,
        },
        counts={"plans": {text: 4, "same 2": 9}},
        spans=spans,
        steps=steps,
        calls=calls,
        roll_backs=backs,
        documents=[
            Passage(id=text, title=text * (n % 2), text=text)
            for n in range((n_steps - 1) // 60 + 1)
        ],
    )


def token_record(method: str = "RAPID", text: str = " word") -> Record:
    """An answer whose tokens somebody proposed."""
    sources = ("target", text, text, "lookup")
    return record_with(
        method=method,
        figures={"seconds": 1.0, "passes": 2},
        counts={"drafted": {text: 3}, "accepted": {text: 2}, "lengths": {"3": 1}},
        spans=[Span(part="prefilling", start=0, end=0.5)],
        steps=[Step(start=0.5, end=1, at=1, pieces=(text,) * 4, sources=sources)],
    )
