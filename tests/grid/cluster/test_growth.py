"""Clusters that grow: what they may hold, and which machines are asked for."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.helpers.experiments import changed, plan_of
from tests.helpers.scheduling import study_of

from semigrid.data.errors import InputError
from semigrid.grid.cluster.growth import (
    FIXED,
    UNKNOWN,
    Growth,
    growth_of,
    requests_for,
    show_requests,
)
from semigrid.grid.cluster.machines import Demand, Machine

ROOT = Path(__file__).parents[3]
HEAD, G5, SMALL = Machine(0), Machine(48, 4, "g5"), Machine(4, 0, "small")
GROWTH = Growth({G5: 3, SMALL: 8}, 8)
VIT, TEST = Demand(8, 1), Demand(4, 0)
GROUP = Demand(8, 1, workers=8)


def asked(machines: list[Machine], growth: Growth, *demands: Any, **options: Any) -> str:
    settings = {"running": [], "streaming": False, **options}
    return show_requests(requests_for(machines, growth, ready=demands, **settings))


def test_the_cluster_file_says_what_may_come() -> None:
    growth = growth_of(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    assert growth == Growth({G5: 12}, 8)
    assert str(growth) == "up to 8 × gpu-on-demand or gpu-spot (48 CPUs and 4 GPUs)"


def test_a_type_of_unknown_size_makes_all_unknown() -> None:
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    config["available_node_types"]["gpu-spot"]["resources"] = {}
    assert growth_of(config) == UNKNOWN


def test_a_group_may_need_all_types_within_each_types_and_all_types_limits() -> None:
    # 3 × 48 CPUs and 5 × 4: one of the eight machines of any type is there
    whole = "3 × g5 (48 CPUs and 4 GPUs), 4 × small (4 CPUs and 0 GPUs)"
    assert asked([HEAD, SMALL], GROWTH, Demand(4, 0, 41)) == whole
    assert asked([HEAD, SMALL], GROWTH, Demand(4, 0, 42)) == ""
    # 3 × 4 GPUs hold a group of eight workers with one each, and not one of 16
    assert asked([HEAD], GROWTH, Demand(1, 1, 8)) == "2 × g5 (48 CPUs and 4 GPUs)"
    assert asked([HEAD], GROWTH, Demand(1, 1, 16)) == ""
    # one group may need more than is requested for many
    huge = Growth({G5: 200}, 200)
    assert asked([HEAD], huge, Demand(8, 1, 400)) == "100 × g5 (48 CPUs and 4 GPUs)"
    assert asked([HEAD], huge, *[VIT] * 400) == "64 × g5 (48 CPUs and 4 GPUs)"


def test_ready_jobs_that_do_not_fit_are_asked_for_and_no_more() -> None:
    assert asked([HEAD], GROWTH) == ""
    assert asked([HEAD], GROWTH, VIT) == "1 × g5 (48 CPUs and 4 GPUs)"
    assert asked([HEAD], GROWTH, *[VIT] * 4) == "1 × g5 (48 CPUs and 4 GPUs)"
    assert asked([HEAD], GROWTH, *[VIT] * 5) == "2 × g5 (48 CPUs and 4 GPUs)"
    assert asked([HEAD, G5], GROWTH, *[VIT] * 4) == ""
    assert asked([HEAD, G5], GROWTH, *[VIT] * 2, running=[VIT] * 3) == "1 × g5 (48 CPUs and 4 GPUs)"


def test_the_smallest_type_that_is_enough_is_asked_for() -> None:
    assert asked([HEAD], GROWTH, TEST, TEST) == "2 × small (4 CPUs and 0 GPUs)"
    # beside a training that needs the large one there is room
    assert asked([HEAD], GROWTH, VIT, TEST, TEST) == "1 × g5 (48 CPUs and 4 GPUs)"


def test_a_group_is_asked_for_as_a_whole() -> None:
    assert asked([HEAD], GROWTH, GROUP) == "2 × g5 (48 CPUs and 4 GPUs)"
    # for a second group there would have to be four; what is smaller is not held up by it
    assert asked([HEAD], GROWTH, GROUP, GROUP, VIT) == "3 × g5 (48 CPUs and 4 GPUs)"


def test_the_limits_hold_with_machines_that_are_there() -> None:
    assert asked([HEAD, G5, G5], GROWTH, *[VIT] * 99) == "1 × g5 (48 CPUs and 4 GPUs)"
    assert asked([HEAD, *[SMALL] * 7], GROWTH, *[TEST] * 99) == "1 × small (4 CPUs and 0 GPUs)"
    assert asked([HEAD, *[SMALL] * 8], GROWTH, VIT) == ""
    assert asked([HEAD], FIXED, VIT) == ""


def test_machines_that_are_given_no_work_count_for_the_limits_alone() -> None:
    assert asked([HEAD, G5], GROWTH, *[VIT] * 5, unfit=[G5]) == "1 × g5 (48 CPUs and 4 GPUs)"
    assert asked([HEAD, G5], GROWTH, *[VIT] * 9, unfit=[G5, G5]) == ""


def test_a_machine_that_vanished_is_asked_for_again() -> None:
    jobs = [VIT] * 8
    assert asked([HEAD, G5, G5], GROWTH, *jobs) == ""
    assert asked([HEAD, G5], GROWTH, *jobs) == "1 × g5 (48 CPUs and 4 GPUs)"


def test_half_of_each_machine_is_for_ray_data() -> None:
    growth = Growth({Machine(2, 0, "two"): 9}, 9)
    ready = [Demand(1, 0)] * 2
    assert asked([HEAD], growth, *ready, streaming=True) == "2 × two (2 CPUs and 0 GPUs)"
    assert asked([HEAD], growth, *ready) == "1 × two (2 CPUs and 0 GPUs)"
    # of one training at a time, all CPUs but one
    wide = Growth({SMALL: 9}, 9)
    assert asked([HEAD], wide, Demand(3, 0), streaming=True) == "1 × small (4 CPUs and 0 GPUs)"
    assert asked([HEAD], wide, Demand(4, 0), streaming=True) == "2 × small (4 CPUs and 0 GPUs)"
    on_gpus = Growth({Machine(2, 4): 4}, 4)  # one has no CPU left for Ray Data
    assert asked([HEAD], on_gpus, Demand(2, 1), streaming=True) == "2 × 2 CPUs and 4 GPUs"
    assert asked([HEAD, SMALL], wide, Demand(3, 0), streaming=True) == "", "it fits alone"


@pytest.mark.parametrize("streaming, cpus", [(False, 8), (True, 16)])
def test_an_autoscaler_that_does_not_say_is_asked_for_what_jobs_need(
    streaming: bool, cpus: int
) -> None:
    (request,) = requests_for([HEAD], UNKNOWN, [], [Demand(8, 1, 2)], streaming)
    assert request == (Machine(cpus, 1), Machine(cpus, 1))
    assert show_requests([request]) == f"2 × {cpus} CPUs and 1 GPUs"
    # and for more of the same, once something came
    assert asked([HEAD, G5], UNKNOWN, *[VIT] * 5) == "1 × g5 (48 CPUs and 4 GPUs)"


@pytest.mark.ray
def test_only_what_the_grown_cluster_could_not_hold_is_refused() -> None:
    from semigrid.grid.run.room import check_room

    def check(growth: Growth, **train: int) -> None:
        study = study_of(plan_of(changed("train", train)))
        check_room(study, [HEAD], False, growth)

    check(GROWTH, cpus_per_worker=48, gpus_per_worker=4, workers=2)
    check(UNKNOWN, cpus_per_worker=4096)
    with pytest.raises(InputError, match=r"(?s)needs 1 × 49 CPUs.*start up to 3 × g5 \(48 CPUs"):
        check(GROWTH, cpus_per_worker=49)
    with pytest.raises(InputError, match="needs 4 × 48 CPUs"):
        check(GROWTH, cpus_per_worker=48, workers=4)
    with pytest.raises(InputError, match="machines with 0 CPUs and 0 GPUs; lower"):
        check(FIXED, cpus_per_worker=1)


@pytest.mark.ray
def test_a_head_without_cpus_waits_for_its_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    from semigrid.grid.run import room

    looks = iter([[HEAD], [HEAD], [HEAD, G5]])
    monkeypatch.setattr(room, "cluster_machines", lambda: next(looks))
    assert room.joined_machines() == [HEAD, G5]
    monkeypatch.setattr(room, "cluster_machines", lambda: [HEAD])
    monkeypatch.setattr(room, "JOIN_SECONDS", 0.0)
    assert room.joined_machines() == [HEAD]  # and is refused
