"""Tree search: a case made so that the likeliest token leads to unlikely ones; against a plain computation; limits."""

import math

import pytest
import torch

from congling.infer.config import SampleConfig
from congling.infer.penalties import Rules
from congling.infer.sampler import Sampler
from congling.infer.tree import TreeSearch
from infer.drive import Driver, answers, random_logits

CONFIG = SampleConfig(max_tokens=5, seed=1, top_p=1.0, repetition_penalty=0.3)


def test_takes_the_branch_whose_rollouts_are_better():
    """1 is likelier than 2, but behind 1 the model is at a loss, behind 2 it is sure."""

    def logits_of(ids):
        if 2 in ids:
            return torch.tensor([0.0, 0.0, 0.0, 9.0])
        return torch.tensor([-9.0, 1.0, 0.5, -9.0]) if len(ids) == 1 else torch.zeros(4)

    config = SampleConfig(max_tokens=3, repetition_penalty=0)
    found = answers(Driver(TreeSearch(config, 4, branches=2, rollouts=3, depth=4), logits_of).run([0]))
    assert found == {0: ([2, 3, 3], "length")}


def plain(logits_of, prompt, size, stop, branches, rollouts, depth, config=CONFIG):
    """The same search, one rollout after the other, nothing shared."""
    trunk, line = Sampler(config, prompt, size), list(prompt)
    while len(line) - len(prompt) < config.max_tokens:
        logits = logits_of(line)
        ids, deltas = trunk.adjustment.sparse()
        values = logits.clone().index_add_(0, torch.from_numpy(ids), torch.from_numpy(deltas))
        best, taken, row = -math.inf, None, 0
        for token in values.argsort(descending=True)[:branches].tolist():
            own = logits.log_softmax(-1)[token].item()
            value, trial = own, trunk.fork()
            trial.push(token)
            if token not in stop:
                value = 0.0
                for number in range(rollouts):
                    sampler, ids, total, count = trial.fork(1 + row * rollouts + number), [*line, token], own, 1
                    while count <= depth:
                        now = logits_of(ids)
                        ids.append(sampler.choose(now).token)
                        total, count = total + now.log_softmax(-1)[ids[-1]].item(), count + 1
                        if ids[-1] in stop:
                            break
                    value += total / count / rollouts
                row += 1
            if value > best:
                best, taken, after = value, token, trial
        trunk = after
        if taken in stop:
            return line[len(prompt) :], "stop"
        line.append(taken)
    return line[len(prompt) :], "length"


@pytest.mark.parametrize(("branches", "rollouts", "depth"), [(3, 2, 4), (2, 1, 1), (1, 2, 3), (6, 2, 2)])
def test_equals_the_search_without_sharing(branches, rollouts, depth):
    ends = set()
    for seed in range(4):
        logits_of = random_logits(6, seed)
        driver = Driver(TreeSearch(CONFIG, 6, {0}, branches, rollouts, depth), logits_of)
        found = answers(driver.run([3]))[0]
        assert found == plain(logits_of, [3], 6, {0}, branches, rollouts, depth)
        ends.add(found[1])
        assert driver.steps <= 1 + depth * (len(found[0]) + 1)
    assert "length" in ends


def test_a_forced_token_is_not_tried_out():
    driver = Driver(TreeSearch(CONFIG, 6, rules=Rules(allowed=[4])), random_logits(6))
    assert answers(driver.run([3])) == {0: ([4] * 5, "length")}
    assert driver.rows == 5


def test_log_probabilities_and_stop():
    logits_of, strategy = random_logits(6), TreeSearch(CONFIG, 6, logprobs=2)
    events, line = Driver(strategy, logits_of).run([3]), [3]
    for event in events:
        logs = logits_of(line).log_softmax(-1)
        assert event.logprob == pytest.approx(logs[event.token].item(), abs=1e-5)
        assert [i for i, _ in event.top] == logs.topk(2).indices.tolist()
        line.append(event.token)
    strategy.stop(0)
    assert strategy.advance([], torch.empty(0, 6)).done


@pytest.mark.parametrize("dial", ["branches", "rollouts", "depth"])
def test_settings_that_cannot_be_used(dial):
    with pytest.raises(ValueError, match=f"{dial} = 0"):
        TreeSearch(CONFIG, 6, **{dial: 0})
