import copy
import itertools
import math
import signal
import threading
import time

import pytest
import torch

from opendetr.checkpoints.adapt import freeze
from opendetr.config import LossConfig, ModelConfig, TrainConfig
from opendetr.errors import UserError
from opendetr.model.build import build_model
from opendetr.recipes.presets import PRESETS
from opendetr.training import plan as plan_module
from opendetr.training.optim import build_optimizer, learning_rate_factor, restore_optimizer, set_learning_rates
from opendetr.training.plan import Forecast, Goal, Plan


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
            plan.record_evaluation(2.0)
            plan.extend_evaluation(1.0)  # the page
            assert plan.evaluation_seconds == 3
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


# --- runs that end when they know enough ---


def learn(clock, goal, *, step=0.1, limit=1e6, reached_after=0):
    """The steps of a run whose val says enough after so many; the progress after each."""
    plan, progress = minutes_plan(limit, goal=goal), []
    while not plan.must_stop():
        clock.now += step
        plan.record_step(step)
        progress.append(plan.progress(len(progress)))
        if goal.wants_measurement():
            goal.record(0.9 if len(progress) >= reached_after else 0.1)
    return progress


@pytest.mark.parametrize("steps", [22, 200, 880])  # 22 and 880 times 1 / steps is less than 1 in floating point
def test_what_is_learned_in_time_takes_the_steps_of_the_schedule(clock, steps):
    progress = learn(clock, Goal(0.85, steps))
    assert len(progress) == steps
    assert progress[steps // 2 - 1] == 0.5
    assert progress[-1] == 1


def test_the_schedule_waits_half_way_until_val_says_enough(clock):
    progress = learn(clock, Goal(0.85, 200), reached_after=300)
    assert set(progress[100:300]) == {0.5}  # learning goes on at half the learning rate
    assert len(progress) == 300 + 100
    assert all(earlier <= later for earlier, later in itertools.pairwise(progress))


def test_a_run_that_never_learns_goes_through_its_schedule_in_its_time(clock):
    progress = learn(clock, Goal(0.85, 200), limit=60.0, reached_after=10**9)
    assert len(progress) == pytest.approx(600, abs=15)  # all the time there is
    assert progress[-1] > 0.97
    assert progress.count(0.5) == pytest.approx(600 - 100 - 100, abs=25)


def test_a_machine_too_slow_for_all_steps_goes_through_the_schedule_faster(clock):
    progress = learn(clock, Goal(0.85, 200), step=1.0, limit=60.0)
    assert len(progress) == pytest.approx(60, abs=3)
    assert progress[-1] > 0.95
    assert max(later - earlier for earlier, later in itertools.pairwise(progress)) < 0.04


def test_val_is_looked_at_now_and_then_and_more_often_while_waiting():
    goal, looks = Goal(0.85, 1000), []
    for number in range(1200):
        goal.advance(0.1, 1e9)
        if goal.wants_measurement():
            looks.append(number + 1)
            goal.record(0.5)
    assert looks[0] == 200
    assert looks[1:4] == [300, 400, 500]
    assert looks[4:] == list(range(550, 1201, 50))


def test_later_steps_over_larger_pictures_count_as_long():
    goal = Goal(0.85, 100, growth=2.0)
    assert goal.seconds_left(1.0) == 50 + 2 * 50
    goal.done = 75
    assert goal.seconds_left(2.0) == 50


def test_the_forecast_is_said_once_and_again_when_it_changes(clock, capsys):
    goal = Goal(0.85, 600)
    plan = minutes_plan(1500.0, goal=goal)
    forecast = Forecast(plan)
    forecast.say_after(10, 12.0)
    assert capsys.readouterr().out == ""
    plan.record_step(0.2)
    forecast.say_after(20, 12.0)
    assert "about 12 pictures a second: expect 2.0 minutes" in capsys.readouterr().out
    forecast.say_after(40, 12.0)
    assert capsys.readouterr().out == ""
    plan.step_seconds = 0.6
    forecast.say_after(60, 4.0)
    assert "longer than expected: 6.0 minutes in all" in capsys.readouterr().out


@pytest.mark.parametrize(("frozen", "rate"), [(False, 1e-5), (True, 1e-4)])
def test_learned_positions_have_the_rate_of_the_backbone_while_it_learns(frozen, rate):
    """The official code would leave them at random numbers where it does not train the backbone."""
    config = ModelConfig(
        backbone="test_resnet", backbone_weights="none", embed_dim=32, num_heads=4, num_encoder_layers=1,
        num_decoder_layers=1, feedforward_dim=32, num_queries=5, position_encoding="learned",
    )  # fmt: skip
    model = build_model(config, LossConfig(), 3)
    freeze(model, ("backbone",) if frozen else ())
    optimizer = build_optimizer(model, TrainConfig(lr=1e-4, backbone_lr=0.0 if frozen else 1e-5))
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert rates[id(model.position_encoding.row_embed.weight)] == rate
    assert rates[id(model.position_encoding.col_embed.weight)] == rate
    assert rates[id(model.input_proj.weight)] == 1e-4


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state["state"][0].update(exp_avg=torch.zeros(3)),
        lambda state: state["state"][0].pop("exp_avg_sq"),
        lambda state: state["state"].update({10**6: state["state"][0]}),
        lambda state: state["param_groups"].pop(),
        lambda state: state.pop("state"),
    ],
)
def test_an_optimiser_takes_no_moments_of_other_weights(damage):
    """The fused update would write beyond the memory of a moment that is too small."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    groups = [{"params": layer.parameters(), "lr": 0.1, "initial_lr": 0.1} for layer in model]
    optimizer = torch.optim.AdamW(groups, fused=True)
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    restore_optimizer(optimizer, copy.deepcopy(state), "training.pt")
    damage(state)
    with pytest.raises(UserError, match=r"training\.pt: the optimiser's state is damaged"):
        restore_optimizer(optimizer, state, "training.pt")


def test_within_an_epoch_it_is_saved_after_so_many_seconds_for_at_most_a_tenth_of_the_time():
    plan = Plan(total_steps=100, total_seconds=None, started=time.time() - 400)
    assert plan.may_save_within(300)
    assert not plan.may_save_within(500)
    plan.record_saving(60)
    assert not plan.may_save_within(300)
    plan.saved -= 400
    assert not plan.may_save_within(300)  # saving takes 90 seconds
    plan.saved, plan.started = plan.saved - 600, plan.started - 1000
    assert plan.may_save_within(300)
