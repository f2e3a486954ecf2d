"""Room on machines: what fits beside what, and who goes first."""

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.experiments import changed, plan_of
from tests.helpers.scheduling import scheduler_of, start_next

from semigrid.grid.cluster.machines import (
    PATIENCE,
    Admission,
    Demand,
    Machine,
    demand_of,
    driver_memory,
    fits,
    for_training,
    take_room,
)
from semigrid.grid.study.state import Job
from semigrid.trainers.options import TrainOptions

G5 = Machine(48, 4)  # four GPUs, as g5.12xlarge has
RESNET, VIT = Demand(4, 1), Demand(4, 1, workers=4)


def room_for(machines: list[Machine], demand: Demand) -> int:
    running: list[Demand] = []
    while fits(machines, running, demand):
        running.append(demand)
    return len(running)


def test_groups_and_single_processes_share_machines() -> None:
    assert room_for([G5, G5], RESNET) == 8
    assert room_for([G5, G5], VIT) == 2
    assert fits([G5, G5], [VIT, RESNET], RESNET)
    assert not fits([G5, G5], [VIT, RESNET], VIT)
    # a group spreads over machines, a worker does not
    assert fits([Machine(2), Machine(2)], [], Demand(1, 0, workers=4))
    assert not fits([Machine(2), Machine(2)], [], Demand(3, 0))


def test_drivers_of_worker_groups_do_not_pile_up_on_one_node() -> None:
    head, small = 22 * 2**30, 2 * 2**30
    assert driver_memory([head, head]) == 2**30  # 22 of them on a head, and the rest elsewhere
    assert 8 * driver_memory([small, small // 2]) <= small  # and some on a laptop too
    assert driver_memory([]) == driver_memory([0]) == 1  # Tune refuses to be asked for nothing


def test_a_group_that_does_not_fit_takes_nothing() -> None:
    free = [Machine(4), Machine(2)]
    assert not take_room(free, Demand(2, 0, workers=4)) and free == [Machine(4), Machine(2)]
    assert take_room(free, Demand(2, 0, workers=2)) and free == [Machine(0), Machine(2)]


def test_ray_data_gets_half_of_each_machine_or_one_cpu_beside_a_lone_training() -> None:
    assert for_training([Machine(8), Machine(2), Machine(1)], streaming=True) == [
        Machine(4),
        Machine(1),
        Machine(0),
    ]
    assert for_training([Machine(8, 1)], streaming=False) == [Machine(8, 1)]
    assert for_training([Machine(2), Machine(8, 1)], True, alone=True) == [
        Machine(7, 1),
        Machine(2),
    ]
    assert for_training([], streaming=True, alone=True) == []


def test_a_measurement_holds_what_one_worker_would() -> None:
    train = TrainOptions(workers=4, cpus_per_worker=3, gpus_per_worker=1)
    assert demand_of(train, "train") == Demand(3, 1, 4)
    assert demand_of(train, "evaluate") == Demand(3, 1, 1)


@given(st.lists(st.sampled_from([RESNET, VIT, Demand(2, 0)]), max_size=12))
def test_what_is_admitted_never_asks_for_more_than_there_is(wanted: list[Demand]) -> None:
    running: list[Demand] = []
    for demand in wanted:
        if fits([G5, G5], running, demand):
            running.append(demand)
    assert sum(d.gpus * d.workers for d in running) <= 8
    assert sum(d.cpus * d.workers for d in running) <= 96


@pytest.fixture
def jobs() -> Iterator[Job]:
    scheduler = scheduler_of(plan_of(changed("search.trials", 40)))
    job = start_next(scheduler)
    assert job is not None
    return (
        Job("train", job.spec.model_copy(update={"seed": n}), job.search) for n in itertools.count()
    )


def test_small_jobs_pass_a_large_one_that_does_not_fit_but_not_for_ever(
    jobs: Iterator[Job],
) -> None:
    admission, large = Admission(), next(jobs)
    running = [RESNET]  # of eight GPUs seven are free: no second group of four on one machine
    machines = [G5]
    passed = 0
    while (
        job := admission.choose([(large, VIT), (next(jobs), RESNET)], machines, running)
    ) is not None:
        assert job != large
        passed += 1
    assert passed == PATIENCE
    # once the machine is clear it is its turn, and then the others'
    assert admission.choose([(large, VIT), (next(jobs), RESNET)], machines, []) == large
    small = next(jobs)
    assert admission.choose([(large, VIT), (small, RESNET)], machines, running) == small


def test_a_group_waits_for_gaps_that_are_there_and_not_for_those_that_could_be(
    jobs: Iterator[Job],
) -> None:
    # two small jobs on two of three machines: packed anew there would be room for the group
    group, small, machines = Demand(4, 0, 2), Demand(2, 0), [Machine(4)] * 3
    ready = [(next(jobs), group)]
    admission = Admission()
    assert admission.choose(ready, machines, [small, small]) == ready[0][0]
    spread = [Machine(2), Machine(2), Machine(4)]
    assert admission.choose(ready, machines, [small, small], spread) is None
    packed = [Machine(0), Machine(4), Machine(4)]
    assert admission.choose(ready, machines, [small, small], packed) == ready[0][0]


def test_nobody_waits_for_what_no_machine_can_hold(jobs: Iterator[Job]) -> None:
    # the node with the GPUs has left: others go on without end
    admission, large = Admission(), next(jobs)
    for _ in range(3 * PATIENCE):
        small = next(jobs)
        ready = [(large, VIT), (small, Demand(1, 0))]
        assert admission.choose(ready, [Machine(4)], []) == small
