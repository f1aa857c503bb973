"""The scheduler against brute force, in simulated worlds."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_ralmspec.speculation import Estimates, Line, Plan, Scheduler
from langchain_ralmspec.speculation.calibration import MAX_CHANCE
from langchain_ralmspec.speculation.costs import Spent
from langchain_ralmspec.speculation.plan import (
    EXPLORING,
    SEQUENTIAL,
    STRIDES,
    StepSeconds,
    call_seconds,
)
from tests.unit_tests.speculation.threads import at_once
from tests.unit_tests.speculation.world import World, run

worlds = st.builds(
    World,
    generation=st.floats(0.002, 1.0),
    embedding=st.floats(0.0, 0.03),
    search=st.builds(Line, base=st.floats(0.0001, 1.0), per_query=st.floats(0, 0.1)),
    accuracy=st.fixed_dictionaries(
        {"lookup": st.floats(0.3, MAX_CHANCE), "same": st.floats(0.3, MAX_CHANCE)}
    ),
    waits=st.booleans(),
    encoder_waits=st.booleans(),
)


def measured(
    retrieval: float,
    step: float,
    *,
    embedding: float = 0.0,
    waiting: float = 0.0,
    encoder_waiting: float = 0.0,
) -> Estimates:
    """What is known after a step and two retrievals; the first does not count."""
    estimates = Estimates()
    for _ in range(2):
        estimates.retrieved(
            Spent(embedding, encoder_waiting), Spent(retrieval - embedding, waiting)
        )
    estimates.generated(step, changed=False, overlapped=False)
    return estimates


def share_of_best(world: World, *, asynchronous: bool) -> float:
    """What plans are worth after some learning, ÷ the best rate there is."""
    scheduler = run(world, 400, asynchronous=asynchronous)
    steps = expected = seconds = 0.0
    while steps < 800:
        plan = scheduler.plan()
        steps += world.tell(scheduler.estimates, plan)
        # What the plan is worth, whatever luck it has.
        worth = world.chances(plan).kept(plan.stride) if plan.policy else 1.0
        expected += worth
        seconds += worth / world.rate(plan)
    return expected / seconds / world.best_rate(asynchronous=asynchronous)


# Always the same worlds: a few of very many are a little worse, by bad luck in their
# first guesses, and whether a change may land must not hang on which ones are drawn.
@settings(max_examples=40, derandomize=True)
@given(worlds, st.booleans())
def test_it_finds_what_brute_force_finds(world: World, asynchronous: bool) -> None:
    # Accuracies are known to a few per cent, no better: some plans are a bit off.
    assert share_of_best(world, asynchronous=asynchronous) >= 0.88


@settings(max_examples=20, derandomize=True)
@given(worlds, st.floats(0.1, 0.7))
def test_with_proven_guesses_it_finds_what_brute_force_finds(
    world: World, proven: float
) -> None:
    world.proven = proven
    # Bad luck before anything was proven may leave it with "same".
    assert share_of_best(world, asynchronous=False) >= 0.8


@settings(max_examples=40)
@given(worlds, st.floats(0.0, 0.3))
def test_it_is_never_slower_than_the_sequential_loop_but_for_trying(
    world: World, noise: float
) -> None:
    world.noise = noise
    n_steps = 600
    run(world, n_steps)
    slow = n_steps / world.rate(SEQUENTIAL)
    longest = max(STRIDES)
    trial = max(
        1 / world.rate(Plan(policy, stride, 0)) * stride
        for policy in ("lookup", "same")
        for stride in (1, longest)
    )
    assert world.clock <= 1.06 * slow + 6 * trial


@settings(max_examples=60)
@given(worlds, st.floats(0.0, 0.3), st.booleans(), st.integers(0, 60))
def test_no_plan_is_predicted_to_be_slower_than_the_sequential_loop(
    world: World, noise: float, asynchronous: bool, n_steps: int
) -> None:
    world.noise = noise
    scheduler = run(world, n_steps, asynchronous=asynchronous)
    estimates = scheduler.estimates
    for _ in range(10):
        plan = scheduler.plan()
        step, retrieval = estimates.step(None, overlapped=False), estimates.retrieval()
        if step is None or retrieval is None:
            assert plan == SEQUENTIAL, "nothing is guessed while costs are unknown"
        elif plan.policy:
            assert plan.rate > (1 + EXPLORING) / (step.mean + retrieval)
        world.tell(estimates, plan)


def test_it_follows_a_world_that_changes() -> None:
    world = World(0.05, 0.02, Line(1.0, 0.01), {"lookup": 0.97, "same": 0.9})
    scheduler = run(world, 200)
    assert scheduler.plan().policy is not None
    world.search, world.accuracy = Line(0.0001, 0.0), {"lookup": 0.3, "same": 0.3}
    for _ in range(400):
        world.tell(scheduler.estimates, scheduler.plan())
    assert world.rate(scheduler.plan()) >= world.rate(SEQUENTIAL) * 0.97


def test_waiting_is_shared_by_calls_in_flight_and_computing_is_not() -> None:
    accuracy = {"lookup": 0.97, "same": 0.9}
    remote = World(0.05, 0.0, Line(0.4, 0.0), accuracy, waits=True)
    local = World(0.05, 0.0, Line(0.4, 0.0), accuracy, waits=False)
    assert run(remote, 500).plan().in_flight > 1
    assert run(local, 500).plan().in_flight <= 1


def test_crowded_cores_are_not_shared_for_a_gain_that_they_would_eat_up() -> None:
    # Beside a search the model takes as many times as long.
    accuracy = {"lookup": 0.97, "same": 0.9}
    for contention, expected in ((1.0, True), (5.0, False)):
        world = World(0.1, 0.0, Line(0.5, 0.0), accuracy, contention=contention)
        assert (run(world, 400).plan().in_flight > 0) == expected


def test_of_a_search_that_waits_and_computes_calls_share_the_waiting() -> None:
    # Of half a second; up to half of that, a search waits for its own threads.
    computing = [
        measured(0.5, 0.05, waiting=waiting).computing("lookup", 1.0)
        for waiting in (0.0, 0.2, 0.4, 0.5)
    ]
    assert computing == pytest.approx([1.0, 1.0, 0.4, 0.0])


@pytest.mark.parametrize(("waiting", "expected"), [(0.0, 0.4), (0.1, 0.3)])
def test_reading_beside_a_call_that_computes_is_not_taken_to_be_free(
    waiting: float, expected: float
) -> None:
    estimates = measured(0.1, 0.05, waiting=waiting)
    for _ in range(400):  # all documents change
        estimates.judged("same", right=False)

    def beside() -> float:
        step = estimates.step("lookup", overlapped=True)
        assert step is not None
        return step.mean

    estimates.generated(0.3, changed=True, overlapped=False)
    assert beside() == pytest.approx(expected, rel=0.05)
    estimates.generated(0.33, changed=True, overlapped=True)
    assert beside() == pytest.approx(0.33, rel=0.05), "what is measured is believed"


def test_the_cheaper_policy_wins() -> None:
    accuracy = {"lookup": 0.95, "same": 0.93}
    dear = World(0.05, 0.05, Line(0.3, 0.0), accuracy)
    cheap = World(0.05, 0.0005, Line(0.3, 0.0), accuracy | {"same": 0.6})
    assert run(dear, 500, asynchronous=False).plan().policy == "same"
    assert run(cheap, 500, asynchronous=False).plan().policy == "lookup"


@pytest.mark.parametrize("is_verified", [True, False])
def test_one_slow_guess_is_forgotten(is_verified: bool) -> None:
    world = World(0.01, 0.0, Line(0.1, 0.0), {"lookup": 0.98, "same": 0.5})
    scheduler = Scheduler(Estimates(), policies=("lookup",), asynchronous=False)
    for _ in range(3):
        world.tell(scheduler.estimates, SEQUENTIAL)
    scheduler.estimates.guessed("lookup", 60.0)
    if is_verified:  # else the answer was abandoned before
        scheduler.estimates.verified("lookup", 1, 0.1, overlapped=False)
    assert scheduler.plan() == SEQUENTIAL
    for _ in range(600):
        world.tell(scheduler.estimates, scheduler.plan())
    assert scheduler.plan().stride > 1


def test_a_batch_may_take_another_route_than_a_lone_query() -> None:
    # Two at once cost twice as much as one, and many no more than two.
    accuracy = {"lookup": 0.93, "same": 0.5}
    world = World(0.1, 0.02, Line(0.4, 0.0), accuracy, alone=0.2)
    best = max(STRIDES, key=lambda s: world.rate(Plan("lookup", s)))
    assert world.rate(Plan("lookup", 2)) < world.rate(SEQUENTIAL)
    assert run(world, 400, asynchronous=False).plan().stride >= best / 2


def test_bad_luck_of_look_ups_is_forgotten_while_others_guess() -> None:
    world = World(0.1, 0.02, Line(0.4, 0.01), {"lookup": 0.97, "same": 0.6})
    scheduler = run(world, 1, asynchronous=False)
    estimates = scheduler.estimates
    for _ in range(12):
        estimates.judged("lookup", right=False)
    unlucky = scheduler.plan()
    assert unlucky.policy == "same"
    steps = 0
    while steps < 400:
        steps += world.tell(estimates, scheduler.plan())
    assert scheduler.plan().policy == "lookup"


def test_threads_may_share_what_is_known() -> None:
    world = World(0.05, 0.02, Line(0.3, 0.01), {"lookup": 0.9, "same": 0.7})
    world.unsure, world.accuracy_unsure = 0.1, 0.3
    estimates = run(world, 50).estimates

    def use(seed: int) -> None:
        mine = replace(world, rng=np.random.default_rng(seed))
        scheduler = Scheduler(estimates)
        for _ in range(300):
            mine.tell(estimates, scheduler.plan())
            for _ in range(40):  # forgets everything, again and again
                estimates.decay()

    at_once(use)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_given_stride_is_always_followed(asynchronous: bool) -> None:
    scheduler = Scheduler(Estimates(), stride=7, asynchronous=asynchronous)
    world = World(0.05, 0.02, Line(0.0001, 0.0), {"lookup": 0.3, "same": 0.3})
    for _ in range(100):
        plan = scheduler.plan()
        assert plan.stride == 7
        assert (plan.in_flight > 0) == asynchronous
        world.tell(scheduler.estimates, plan)


def test_strides_grow_by_doubling_from_what_was_measured() -> None:
    world = World(0.01, 0.0, Line(1.0, 0.0), {"lookup": 0.98, "same": 0.5})
    scheduler = Scheduler(Estimates(), asynchronous=False)
    assert scheduler.plan() == SEQUENTIAL, "nothing is known of other requests"
    world.retrieve(scheduler.estimates)
    largest = 1
    for _ in range(40):
        plan = scheduler.plan()
        assert plan.stride <= 2 * largest
        largest = max(largest, plan.stride)
        world.tell(scheduler.estimates, plan)
    assert largest == max(STRIDES)


def test_what_is_proven_pays_however_wrong_the_rest_is() -> None:
    estimates = measured(0.31, 0.05, embedding=0.01)
    scheduler = Scheduler(estimates, asynchronous=False, can_prove=True)
    for _ in range(200):
        estimates.judged("lookup", right=False)
        estimates.judged("same", right=False)
    assert scheduler.plan() == SEQUENTIAL
    for _ in range(40):
        estimates.proved()
    assert scheduler.plan() == Plan("lookup", 1)
    assert replace(scheduler, can_prove=False).plan() == SEQUENTIAL
    assert 0.2 < estimates.chances("lookup", can_prove=True).proven < 0.4
    assert estimates.chances("lookup").proven == 0
    assert estimates.chances("same", can_prove=True).proven == 0
    for _ in range(600):
        estimates.decay()
    assert estimates.chances("lookup", can_prove=True).proven < 0.05


def test_proven_guesses_make_no_call_dearer() -> None:
    estimates = measured(1.0, 0.1)
    for n_queries in (1, 2, 4):
        estimates.verified("lookup", n_queries, 1.0 * n_queries, overlapped=False)
    for _ in range(60):
        estimates.proved()
        estimates.judged("lookup", right=True)
    scheduler = Scheduler(
        estimates, policies=("lookup",), asynchronous=False, can_prove=True
    )
    plan, chances = scheduler.plan(), estimates.chances("lookup", can_prove=True)
    assert chances.proven > 0.4
    assert plan.stride
    seconds = call_seconds(
        chances,
        plan.stride,
        0,
        step=StepSeconds(0.1),
        verification=estimates.verification("lookup", plan.stride, overlapped=False),
    )
    assert plan.rate == pytest.approx(chances.kept(plan.stride) / seconds)


def test_what_margins_tell_is_worth_something() -> None:
    """Calls that end at unsure guesses keep more steps a second."""

    def seconds(seed: int, unsure: float) -> float:
        rng = np.random.default_rng(seed)
        accuracy = {"lookup": 0.995, "same": 0.3}
        world = World(0.1, 0.0, Line(0.5, 0.01), accuracy, rng=rng)
        world.unsure, world.accuracy_unsure = unsure, 0.4
        if not unsure:  # as many are wrong, but which ones nothing tells
            accuracy["lookup"] = 0.995 * 0.94 + 0.4 * 0.06
        scheduler = run(world, 1000, asynchronous=False)
        start, steps = world.clock, 0
        while steps < 1000:
            plan = scheduler.plan()
            if plan.policy:  # now and then retrieving is timed anew
                assert (plan.trusted is not None) == bool(unsure)
            steps += world.tell(scheduler.estimates, plan)
        return (world.clock - start) / steps

    told, untold = (sum(seconds(n, u) for n in range(5)) for u in (0.06, 0.0))
    assert told < 0.95 * untold  # a single seed says 0.71 to 1.0 of it


def test_a_given_stride_is_filled_whatever_is_unsure() -> None:
    world = World(0.1, 0.0, Line(0.5, 0.01), {"lookup": 0.995, "same": 0.3})
    world.unsure, world.accuracy_unsure = 0.1, 0.2
    estimates = run(world, 500, asynchronous=False).estimates
    assert estimates.chances("lookup").trusted is not None
    scheduler = Scheduler(estimates, stride=7, policies=("lookup",))
    assert scheduler.plan().trusted is None


def test_an_encoder_that_is_waited_for_is_waited_for_by_several_calls_at_once() -> None:
    # Embedding takes 0.3 of 0.31 seconds, here or elsewhere.
    accuracy = {"lookup": 0.9, "same": 0.8}
    hosted, local = (
        World(0.08, 0.3, Line(0.01, 0.0), accuracy, encoder_waits=waits)
        for waits in (True, False)
    )
    plan = run(hosted, 500).plan()
    assert (plan.policy, plan.in_flight > 1) == ("same", True)
    assert hosted.rate(plan) > 1.7 * hosted.rate(SEQUENTIAL)
    assert run(local, 500).plan().in_flight <= 1


def test_of_an_embedding_that_waits_calls_share_the_waiting() -> None:
    # Of 0.4 seconds; up to half of that, a local encoder waits for its own threads.
    for waiting, expected in ((0.0, 0.5), (0.2, 0.5), (0.3, 0.3), (0.4, 0.1)):
        estimates = measured(0.5, 0.05, embedding=0.4, encoder_waiting=waiting)
        assert estimates.computing("same", 0.5) == pytest.approx(expected)
        assert estimates.computing("lookup", 0.1) == pytest.approx(0.1), "it is paid"


@settings(max_examples=5, derandomize=True)
@given(worlds, st.floats(0.0, 0.02))
def test_where_nothing_pays_trying_takes_no_more_than_its_share(
    world: World, share: float
) -> None:
    """Of a search that takes next to nothing nothing can be won."""
    world.search, world.waits = Line(share * world.generation, 0.0), False
    world.embedding = 0.0
    n_steps = 1500
    run(world, n_steps)
    slow = n_steps / world.rate(SEQUENTIAL)
    assert world.clock <= (1 + EXPLORING) * slow
