import math
import signal
import threading

import pytest
import torch

from opendetr.config import PRESETS, LossConfig, TrainConfig
from opendetr.model.detr import build_model
from opendetr.training import plan as plan_module
from opendetr.training.optim import build_optimizer, learning_rate_factor, set_learning_rates
from opendetr.training.plan import Plan


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when told."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(plan_module.time, "time", lambda: Clock.now)
    return Clock


def minutes_plan(seconds, **changes) -> Plan:
    return Plan(**({"total_steps": 1, "total_seconds": seconds, "started": 1000.0, "saving_seconds": 0.0} | changes))


# --- optimiser and schedule ---


@pytest.mark.parametrize("weights", ["none", "auto"])
def test_the_backbone_has_a_learning_rate_of_its_own_and_what_is_frozen_is_left_out(weights):
    torch.manual_seed(0)
    config = PRESETS["detr-tiny"]
    model = build_model(config.__class__(**{**_fields(config), "backbone_weights": weights}), LossConfig(), 3)
    optimizer = build_optimizer(model, TrainConfig())
    rest, backbone = optimizer.param_groups
    assert (rest["lr"], backbone["lr"]) == (1e-4, 1e-5)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {1e-4}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(p)] for p in backbone["params"]} == {
        name for name, p in model.named_parameters() if name.startswith("backbone.") and p.requires_grad
    }
    assert {names[id(p)] for p in rest["params"]} == {
        name for name, p in model.named_parameters() if not name.startswith("backbone.")
    }
    assert isinstance(optimizer, torch.optim.AdamW)


def _fields(config):
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def test_a_wholly_frozen_backbone_has_no_group():
    model = build_model(PRESETS["detr-tiny"], LossConfig(), 3)
    model.backbone.requires_grad_(False)
    assert len(build_optimizer(model, TrainConfig()).param_groups) == 1


@pytest.mark.parametrize(
    ("progress", "factor"), [(0.0, 1.0), (0.66, 1.0), (2 / 3, 0.1), (0.9, 0.1), (1.0, 0.1)]
)  # fmt: skip
def test_learning_rates_fall_to_a_tenth_after_the_fraction(progress, factor):
    model = build_model(PRESETS["detr-tiny"], LossConfig(), 3)
    optimizer = build_optimizer(model, TrainConfig(lr=1e-3, backbone_lr=1e-4))
    for _ in range(3):  # nor does it matter how often it is asked
        set_learning_rates(optimizer, progress, TrainConfig())
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-3 * factor, 1e-4 * factor])


def test_a_cosine_falls_to_a_fiftieth_after_a_rise():
    config = TrainConfig(schedule="cosine", warmup=0.1)
    factors = [learning_rate_factor(progress / 100, config) for progress in range(101)]
    assert factors[0] < 0.01
    assert factors[5] == pytest.approx(factors[10] / 2, rel=0.03)
    assert max(factors) == factors[10] > 0.97
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[55] == pytest.approx(0.51 - 0.49 * math.sin(math.pi * 0.05))
    assert factors[100] == pytest.approx(0.02)


# --- plan ---


def test_progress_counts_steps_where_epochs_are_counted(clock):
    plan = Plan(total_steps=300, total_seconds=None, started=1000.0)
    clock.now += 1e6
    assert [plan.progress(step) for step in (0, 200, 300, 400)] == [0, pytest.approx(2 / 3), 1, 1]
    plan.record_step(10.0)
    assert plan.remaining() == float("inf")
    assert not plan.must_stop()
    assert plan.may_evaluate()


def test_progress_counts_seconds_where_minutes_are_given(clock):
    plan = minutes_plan(100.0)
    assert plan.progress(10**6) == 0
    clock.now += 25
    assert (plan.progress(0), plan.remaining(), plan.elapsed()) == (0.25, 75, 25)
    clock.now += 100
    assert (plan.progress(0), plan.remaining()) == (1, -25)


def test_the_schedule_begins_with_the_first_step_however_late_it_comes(clock):
    plan = minutes_plan(100.0)
    clock.now += 20
    plan.begin()
    assert plan.progress(0) == 0
    assert learning_rate_factor(plan.progress(0), TrainConfig(schedule="cosine", warmup=0.03)) < 0.01
    clock.now += 40
    assert (plan.progress(0), plan.remaining()) == (0.5, 40)
    plan.begin()  # nor does resuming begin anew
    assert plan.progress(0) == 0.5
    clock.now += 40
    assert plan.progress(0) == 1


def test_a_budget_that_is_over_before_the_first_step_is_no_error(clock):
    plan = minutes_plan(1.0)
    clock.now += 20
    plan.begin()
    assert plan.progress(0) == 0
    clock.now += 1
    assert plan.progress(1) == 1


def test_earlier_sessions_count(clock):
    plan = minutes_plan(100.0, spent=60.0)
    clock.now += 10
    assert (plan.progress(0), plan.remaining(), plan.elapsed()) == (0.7, 30, 70)


def test_the_first_step_always_runs(clock):
    plan = minutes_plan(1.0, evaluation_seconds=50.0)
    clock.now += 500
    assert not plan.must_stop()
    plan.record_step(0.1)
    assert plan.must_stop()


@pytest.mark.parametrize(
    ("step", "evaluation", "saving", "reserve"), [(1.0, 0.0, 0.0, 1.2), (1.0, 10.0, 0.0, 11.2), (2.0, 10.0, 3.0, 15.4)]
)
def test_a_step_needs_its_time_and_that_of_evaluation_and_saving(clock, step, evaluation, saving, reserve):
    plan = minutes_plan(100.0, evaluation_seconds=evaluation, saving_seconds=saving)
    plan.record_step(step)
    clock.now += 100 - reserve - 0.01
    assert not plan.must_stop()
    clock.now += 0.02
    assert plan.must_stop()


@pytest.mark.parametrize("step", [0.5, 3.0, 30.0])
def test_a_run_never_outlives_its_minutes_by_more_than_its_first_step(clock, step):
    plan = minutes_plan(60.0, evaluation_seconds=5.0, saving_seconds=1.0)
    steps = 0
    while not plan.must_stop():
        clock.now += step
        plan.record_step(step)
        steps += 1
    clock.now += 6  # evaluates and saves
    assert steps >= 1
    assert plan.remaining() >= min(0, 60 - 6 - step)
    assert steps == 1 or plan.remaining() < 2.3 * step  # and does not stop long before


def test_step_time_follows_the_steps(clock):
    plan = minutes_plan(100.0)
    plan.record_step(2.0)
    assert plan.step_seconds == 2.0
    for _ in range(50):
        plan.record_step(4.0)
    assert plan.step_seconds == pytest.approx(4.0, rel=0.01)
    plan.record_step(40.0)  # one slow step is not taken for the rule
    assert plan.step_seconds < 8


def test_evaluations_between_epochs_take_at_most_15_percent(clock):
    plan = minutes_plan(1000.0, evaluation_seconds=3.0)
    evaluations = 0
    while plan.remaining() > 0:
        clock.now += 4  # an epoch
        if plan.may_evaluate():
            clock.now += 3
            plan.record_evaluation(3.0)
            evaluations += 1
        assert plan.evaluating <= 0.15 * (plan.elapsed() + 3)
    assert evaluations * 3 == plan.evaluating
    assert plan.evaluating > 0.13 * 1000  # and they do take place


def test_ctrl_c_asks_to_stop_and_a_second_one_stops(clock, capsys):
    plan, handler = minutes_plan(1000.0), signal.getsignal(signal.SIGINT)
    with plan.listening():
        assert not plan.interrupted()
        signal.raise_signal(signal.SIGINT)
        assert plan.interrupted()
        assert plan.must_stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is handler
    assert "Stopping after this step" in capsys.readouterr().out


def test_sigterm_asks_to_stop_however_often_it_comes(clock):
    plan, handler = minutes_plan(1000.0), signal.getsignal(signal.SIGTERM)
    with plan.listening():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert plan.must_stop()
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_run_in_a_thread_listens_to_nothing(clock):
    done = []

    def listen():
        with minutes_plan(1.0).listening():
            done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert done == [signal.getsignal(signal.SIGINT)]
