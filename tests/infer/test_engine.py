"""Continuous batching against one request at a time; limits of memory, turns, ends, threads."""

import random
import threading
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from congling.infer.config import EngineConfig, SampleConfig
from congling.infer.engine import Engine
from congling.infer.request import QueueFull, Request
from congling.infer.search import SamplingStrategy
from congling.infer.strategy import Event, Outcome
from infer.doubles import Greedy, MemoryBackend, V, Wanderer, plainly


def engine(pages=12, **changes):
    config = EngineConfig(**{"memory_mb": pages // 4, "max_batch": 8, "prefill_tokens": 8, **changes})
    return Engine(MemoryBackend(), config)


def run(made, prompt, strategy, max_tokens=20, **more):
    return list(made.submit(Request(prompt, strategy, max_tokens, **more)).events())


def tokens(events):
    return [event.token for event in events]


def idle(made):
    """Nothing is held or promised; what is kept can be found again."""
    while made.step():
        pass
    pool = made._pool
    assert (pool.held, pool.promised, made.stats.running, made.stats.waiting) == (0, 0, 0, 0)
    assert pool.kept + len(pool._free) + pool.num_pages - pool._fresh == pool.num_pages
    assert set(pool._index.values()) == set(pool._keys) == set(pool._kept)
    return True


class Case:
    """A random request, and what it must say."""

    def __init__(self, rng, number):
        common = [rng.randrange(2) for _ in range(rng.choice([0, 4, 8]))]  # prompts that begin alike
        self.prompt = [*common, *(rng.randrange(V) for _ in range(rng.randint(1, 6)))]
        self.client, self.exact, self.seed = rng.choice("ab"), rng.random() < 0.5, number
        self.kind = rng.choice(["greedy", "sample", "wander"])
        self.width, self.rounds = rng.randint(1, 3), rng.randint(1, 9)

    def strategy(self):
        if self.kind == "greedy":
            return Greedy(self.rounds)
        if self.kind == "wander":
            return Wanderer(self.seed, self.width, self.rounds)
        config = SampleConfig(max_tokens=self.rounds, seed=self.seed, repetition_penalty=0.1)
        return SamplingStrategy(config, V, {1, 2, 3}, n=self.width)

    def request(self):
        return Request(list(self.prompt), self.strategy(), self.rounds, self.exact, self.client)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), pages=st.sampled_from([24, 40]), lookup=st.sampled_from([0, 3]))
def test_any_traffic_says_what_each_request_says_alone(seed, pages, lookup):
    rng = random.Random(seed)
    made, going, ended = engine(pages, lookup=lookup, prefill_tokens=rng.choice([1, 5, 16])), [], []
    for number in range(rng.randint(1, 12)):
        case = Case(rng, number)
        going.append((case, made.submit(case.request()), cancelled := rng.random() < 0.2))
        for _ in range(rng.randint(0, 5)):
            made.step()
            pool = made._pool
            assert pool.held + pool.promised <= pool.num_pages
            if cancelled and rng.random() < 0.3:
                going[-1][1].cancel()
        ended = going
    idle(made)
    for case, handle, cancelled in ended:
        events = list(handle.events())
        wanted = plainly(case.prompt, case.strategy())
        if events and events[-1].finish == "cancelled":
            assert cancelled
            events = events[:-1]
            wanted = wanted[: len(events)]
        assert [(e.index, e.token, e.finish) for e in events] == [(e.index, e.token, e.finish) for e in wanted]


def test_a_request_waits_until_its_worst_case_fits():
    made = engine(12)  # 48 tokens
    first = made.submit(Request([1] * 10, Greedy(14), 14))  # 24 tokens: 6 pages
    second = made.submit(Request([2] * 10, Greedy(15), 15))  # 7 pages: not now
    third = made.submit(Request([3], Greedy(2), 2))  # would fit, but does not overtake
    for _ in range(5):
        made.step()
    assert (made.stats.running, made.stats.waiting) == (1, 2)
    assert len(tokens(first.events())) == 14
    assert (len(tokens(second.events())), len(tokens(third.events()))) == (15, 2)
    with pytest.raises(ValueError, match=r"take 52 tokens of memory, there is room for 48: raise engine.memory_mb"):
        made.submit(Request([1] * 10, Greedy(40), 40))
    assert idle(made)


def test_no_more_rows_than_max_batch():
    made = engine(80, max_batch=3, prefix_reuse=False)
    handles = [made.submit(Request([i], Greedy(6), 6)) for i in range(7)]
    while made.step():
        assert made.stats.running <= 3
    assert all(len(list(h.events())) == 6 for h in handles)
    with pytest.raises(ValueError, match=r"4 sequences at once, engine.max_batch is 3"):
        made.submit(Request([1], Wanderer(0, 4, 2), 2))


def test_clients_take_turns():
    made, order = engine(80, max_batch=1), []
    for client in "aaab":
        listen = lambda events, client=client: order.append(client)  # noqa: E731
        made.submit(Request([5], Greedy(1), 1, client=client), listen)
    idle(made)
    assert order == list("abaa")


def test_prompts_share_a_step_and_do_not_stop_the_others():
    made = engine(80, prefill_tokens=12, prefix_reuse=False)
    talking = made.submit(Request([9], Greedy(20), 20))
    made.step()
    prompts = [made.submit(Request([i] * 30, Greedy(1), 1)) for i in (1, 2)]
    for _ in range(3):
        made.step()
    assert made.backend.rows == [1, 13, 13, 13]  # the answer goes on, a token a step
    assert [job.live[0].cached for job in made._jobs] == [4, 24, 12]  # the older prompt has most, the other a page each
    assert len(list(talking.events())) == 20
    assert all(len(list(h.events())) == 1 for h in prompts)


def test_a_cancelled_request_is_gone_before_the_next_step():
    made = engine(12)
    running = made.submit(Request([1] * 9, Greedy(20), 20))
    waiting = made.submit(Request([2] * 9, Greedy(30), 30))
    made.step(), made.step()
    assert made.stats.pages_held == 3
    running.cancel(), waiting.cancel(), running.cancel()
    assert made.step() is False
    assert [h.finished for h in (running, waiting)] == [True, True]
    assert [e.finish for e in waiting.events()] == ["cancelled"]
    assert [e.finish for e in running.events()][-1] == "cancelled"
    assert made.stats.ended == {"cancelled": 2}
    assert idle(made)
    stream = made.submit(Request([3], Greedy(20), 20)).events()
    next(stream)
    stream.close()  # nobody reads any more
    assert idle(made)


def test_one_answer_of_several_stops():
    made = engine(40)
    config = SampleConfig(max_tokens=10)
    handle = made.submit(Request([1, 2], SamplingStrategy(config, V, (), n=3), 10))
    made.step(), made.step()
    handle.stop(1)
    events = list(handle.events())
    assert [sum(e.index == i for e in events) for i in range(3)] == [10, 2, 10]
    assert idle(made)


def test_a_backend_that_fails_ends_the_request_that_it_fails_on():
    made = engine(40)
    made.backend.fails = lambda batch: 13 in batch.ids
    good, bad = (made.submit(Request([i], Greedy(5), 5)) for i in (1, 13))
    events = list(bad.events())
    assert [(e.index, e.finish, e.error) for e in events] == [(-1, "error", "MemoryError: no memory left")]
    assert tokens(good.events()) == tokens(plainly([1], Greedy(5)))
    assert made.stats.ended == {"error": 1, "done": 1}
    assert idle(made)


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (lambda live: 1 / 0, "division by zero"),
        (lambda live: Outcome([(live[0], 1)] * 2, [], [], False), "more than the 1 sequences that it asked for"),
        (lambda live: Outcome([(live[0], 1)], [], [], False), "beyond 4 tokens"),
        (lambda live: Outcome([], [], [], False), "lets nothing grow"),
    ],
)
def test_a_strategy_that_fails_ends_its_request(outcome, message):
    made = engine(40)
    odd, good = Greedy(9), made.submit(Request([7], Greedy(5), 5))
    odd.advance = lambda live, logits: outcome(live)
    events = run(made, [1, 2], odd, max_tokens=2)
    assert events[-1].finish == "error"
    assert message in events[-1].error
    assert len(list(good.events())) == 5
    assert idle(made)


def test_a_listener_that_fails_is_left():
    made = engine(40)
    heard = []

    def listen(events):
        heard.append(events)
        raise RuntimeError("gone")

    handle = made.submit(Request([1], Greedy(9), 9), listen)
    assert idle(made)
    assert handle.finished
    assert len(heard) <= 2


def test_prompts_that_begin_alike_are_computed_once():
    made, system = engine(40), [4] * 16
    first = run(made, [*system, 1, 2], Greedy(6), exact=True)
    computed = made.stats.prompt_tokens
    assert tokens(run(made, [*system, 1, 2], Greedy(6), exact=True)) == tokens(first)
    assert (made.stats.prompt_tokens - computed, made.stats.reused_tokens) == (2, 16)
    turn = [*system, 1, 2, *tokens(first), 5]  # 25 tokens: five pages of prompt and answer
    assert tokens(run(made, turn, Greedy(3), exact=True)) == tokens(plainly(turn, Greedy(3)))
    assert made.stats.reused_tokens == 16 + 16  # the answer's pages were not made by a prompt …
    assert tokens(run(made, [*turn, 6], Greedy(3), exact=True)) == tokens(plainly([*turn, 6], Greedy(3)))
    assert made.stats.reused_tokens == 16 + 16 + 24  # … these were
    assert idle(made)


def test_a_chat_takes_over_its_own_answers():
    made = engine(40)
    first = run(made, [4] * 6, Greedy(12))
    turn = [4] * 6 + tokens(first) + [5, 6]
    run(made, turn, Greedy(3))
    assert made.stats.reused_tokens == 16  # 17 of its 18 tokens were computed: 4 full pages
    assert made.stats.reused_prompts == 1


def test_prompts_under_way_share_too():
    made = engine(80, prefill_tokens=8)
    handles = [made.submit(Request([4] * 40 + [i], Greedy(2), 2)) for i in range(4)]
    idle(made)
    assert [tokens(h.events()) for h in handles] == [tokens(plainly([4] * 40 + [i], Greedy(2))) for i in range(4)]
    assert (made.stats.prompt_tokens, made.stats.reused_tokens) == (41 + 3, 3 * 40)


def test_no_reuse_when_it_is_switched_off():
    made = engine(40, prefix_reuse=False)
    run(made, [4] * 20, Greedy(2)), run(made, [4] * 20, Greedy(2))
    assert (made.stats.reused_tokens, made.stats.prompt_tokens, made.stats.pages_kept) == (0, 40, 0)


def test_guessed_tokens_are_the_same_text_in_fewer_steps():
    class Cycle(Greedy):
        def advance(self, live, logits):
            outcome = super().advance(live, logits)
            token = len(live[0].ids) % 5
            outcome.events[0].token = token
            return outcome._replace(grow=[(s, token) for s, _ in outcome.grow])

    made, steps = [engine(40, lookup=n) for n in (0, 4)], []
    for one in made:
        assert tokens(run(one, [0, 1, 2, 3, 4] * 2, Cycle(30), max_tokens=30)) == [i % 5 for i in range(30)]
        steps.append(one.stats.steps)
        assert idle(one)
    assert steps[1] < steps[0] / 3
    assert made[1].stats.accepted_tokens > 15


def test_wrong_guesses_change_nothing():
    class Few(Greedy):
        """Three tokens in an order that cannot be foreseen: the same pair comes often, what follows it differs."""

        def advance(self, live, logits):
            outcome = super().advance(live, logits)
            token = int(logits[0].argmax()) % 3
            outcome.events[0].token = token
            return outcome._replace(grow=[(s, token) for s, _ in outcome.grow])

    made = engine(80, lookup=4)
    events = run(made, [0, 1, 2, 0, 1], Few(60), max_tokens=60)
    assert tokens(events) == tokens(plainly([0, 1, 2, 0, 1], Few(60)))
    assert 0 < made.stats.accepted_tokens < made.stats.guessed_tokens / 2
    assert idle(made)


def test_what_is_built_on_inexact_pages_is_not_exact():
    made = engine(80)
    answer = tokens(run(made, [4] * 6, Greedy(12)))  # one page of the prompt alone
    turn = [4] * 6 + answer + list(range(20, 34))
    run(made, turn, Greedy(2))  # takes over 16 tokens, computes the others behind them
    assert made.stats.reused_tokens == 16
    run(made, turn, Greedy(2), exact=True)
    assert made.stats.reused_tokens == 16 + 4
    run(made, turn, Greedy(2), exact=True)
    assert made.stats.reused_tokens == 16 + 4 + 28  # seven pages that an exact request has made anew


def test_threads_read_at_once_without_a_stepping_thread():
    made, answers = engine(200), {}

    def ask(number):
        answers[number] = tokens(run(made, [number, 3], Greedy(20)))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == {i: tokens(plainly([i, 3], Greedy(20))) for i in range(6)}
    assert idle(made)


def test_a_stepping_thread_serves_all():
    made, stop, told = engine(200), threading.Event(), []
    made.after_step = lambda: told.append(1)
    thread = threading.Thread(target=made.run, args=(stop,))
    thread.start()
    heard: list[Event] = []
    listening = made.submit(Request([8], Greedy(5), 5), heard.extend)
    reading = made.submit(Request([9], Greedy(20), 20))
    assert tokens(reading.events()) == tokens(plainly([9], Greedy(20)))
    assert listening.finished
    assert tokens(heard) == tokens(plainly([8], Greedy(5)))
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
    assert 20 <= len(told) <= 40
    assert len(run(made, [1], Greedy(3))) == 3  # the readers step again


def test_refusals():
    made = engine(12, max_waiting=2)
    fine = Request([1], Greedy(5), 5)
    for changes, message in (
        ({"prompt": []}, "empty prompt"),
        ({"prompt": [5, V]}, "0 … 49, got 5 … 50"),
        ({"max_tokens": 0}, "max_tokens = 0"),
    ):
        with pytest.raises(ValueError, match=message):
            made.submit(replace(fine, **changes))
    made.submit(fine), made.submit(fine)
    with pytest.raises(QueueFull, match="2 requests wait already"):
        made.submit(fine)
    made.backend.max_len = 8
    with pytest.raises(ValueError, match="may take 9 tokens, the model has 8 places"):
        made.check(Request([1, 2, 3], Greedy(6), 6))
    with pytest.raises(ValueError, match="memory_mb = 1: a page takes"):
        backend = MemoryBackend()
        backend.page_bytes = 2 << 20
        Engine(backend, EngineConfig(memory_mb=1))
