"""What ranks tell each other arrives whole, and a lone process needs nobody."""

from __future__ import annotations

import json

import pytest
import torch
from distributed import ranks

from obverse.distributed.balance import balanced_shares
from obverse.distributed.env import RankEnv, read_rank_env
from obverse.distributed.launch import join_process_group
from obverse.distributed.process_group import SINGLE_PROCESS, buckets
from obverse.errors import ConfigError

PROGRAM = """
import json, torch
from obverse.distributed.launch import join_process_group

with join_process_group(30.0) as team:
    rank = team.rank
    tensors = [torch.full((2, 3), rank + 1.0), torch.full((4,), 0.1 * (rank + 1), dtype=torch.float64),
               torch.tensor(rank), torch.full((3, 2), 1.0).T[:, 1]]
    tensors.append(torch.nn.Parameter(torch.ones(2) * rank))
    team.sum_(tensors)
    strange = {"name": "r\\u00e9\\ud83d\\ude00", "number": 0.1 + rank * 1e-17 + 1e300, "nan": float("nan")}
    texts = team.gather([strange, "x" * 1000 * rank])
    rows = team.gather_tensors(torch.arange(3 * rank, dtype=torch.float64) / 7)
    empty = team.gather_tensors(torch.zeros(0))
    first = team.broadcast({"from": rank} if team.is_first else None)
    total = team.sum(torch.tensor([rank, 1]))
    team.barrier()
    print(json.dumps([[each.tolist() for each in tensors], texts, [each.tolist() for each in rows],
                      [each.tolist() for each in empty], first, total.tolist()]))
"""


def test_sums_and_gathers_over_three_ranks() -> None:
    found = ranks.python(3, PROGRAM)
    assert json.dumps(found[0]) == json.dumps(found[1]) == json.dumps(found[2])  # the same bits on all
    sums, texts, rows, empty, first, total = found[0]
    assert sums[0] == [[6.0] * 3] * 2 and sums[2] == 3 and sums[3] == [3.0, 3.0] and sums[4] == [3.0, 3.0]
    assert sums[1] == pytest.approx([0.6] * 4, abs=1e-15)
    assert [text for _, text in texts] == ["", "x" * 1000, "x" * 2000]
    assert texts[0][0]["name"] == "r\u00e9\U0001f600" and texts[2][0]["number"] == 0.1 + 2e-17 + 1e300
    assert rows == [[], [0.0, 1 / 7, 2 / 7], [index / 7 for index in range(6)]]
    assert empty == [[], [], []] and first == {"from": 0} and total == [3, 3]


def test_a_team_of_one_is_the_identity() -> None:
    process_group, tensor = SINGLE_PROCESS, torch.ones(3)
    process_group.sum_([tensor])
    process_group.barrier()
    assert (
        process_group.sum(tensor) is tensor and process_group.gather(3) == [3] and process_group.broadcast("x") == "x"
    )
    assert process_group.gather_tensors(tensor) == [tensor]
    assert tensor.tolist() == [1.0] * 3 and process_group.is_first and process_group.is_alone


def test_a_lone_process_never_opens_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_process_group(1.0) as process_group:
        assert process_group is SINGLE_PROCESS and not torch.distributed.is_initialized()


def test_buckets_keep_every_tensor_and_its_order() -> None:
    tensors = [torch.zeros(size, dtype=kind) for size in (3, 5, 2, 9) for kind in (torch.float32, torch.float64)]
    found = list(buckets(tensors, size=32))
    assert sorted(id(each) for bucket in found for each in bucket) == sorted(map(id, tensors))
    assert all(len({each.dtype for each in bucket}) == 1 for bucket in found) and len(found) > 2
    floats = [len(each) for bucket in found for each in bucket if each.dtype == torch.float32]
    assert floats == [3, 5, 2, 9]


@pytest.mark.parametrize(
    ("costs", "size", "expected"),
    [
        ([5, 1, 1, 3], 2, [[0], [1, 2, 3]]),
        ([1, 1, 1], 4, [[0], [1], [2], []]),
        ([], 2, [[], []]),
        ([0, 0, 0, 0], 2, [[0, 2], [1, 3]]),
        ([2, 2, 2, 2], 1, [[0, 1, 2, 3]]),
    ],
)
def test_deal(costs: list[int], size: int, expected: list[list[int]]) -> None:
    assert balanced_shares(costs, size) == expected


def test_deal_is_never_far_from_even() -> None:
    generator = torch.Generator().manual_seed(1)
    for size in (2, 3, 8):
        costs = torch.randint(1, 1000, (37,), generator=generator).tolist()
        shares = balanced_shares(costs, size)
        assert sorted(index for share in shares for index in share) == list(range(37))
        assert max(sum(costs[index] for index in share) for share in shares) <= sum(costs) / size + max(costs)


ENVIRON = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}


def test_a_place_by_the_environment() -> None:
    assert read_rank_env({}) == RankEnv() == read_rank_env({"WORLD_SIZE": "1"})
    assert read_rank_env(ENVIRON) == RankEnv(1, 2, 0, "10.0.0.1", 29500)
    assert not read_rank_env(ENVIRON | {"TORCHELASTIC_USE_AGENT_STORE": "True"}).hosts_store


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', not a number"),
        ({"RANK": None}, "WORLD_SIZE is 2 and RANK is not set: start with torchrun"),
        ({"MASTER_PORT": "x"}, "must be numbers"),
        ({"RANK": "2"}, "RANK is 2 and LOCAL_RANK 0 of WORLD_SIZE 2"),
    ],
)
def test_a_place_that_cannot_be(change: dict[str, str | None], message: str) -> None:
    environ = {name: value for name, value in {**ENVIRON, **change}.items() if value is not None}
    with pytest.raises(ConfigError, match=message):
        read_rank_env(environ)


SHARDED = """
import gc, json, weakref, torch
from obverse.distributed.fsdp import ShardingOptions, fsdp_forward, is_sharded, shard
from obverse.distributed.launch import join_process_group

class Net(torch.nn.Module):
    _no_split_modules = ("Linear",)
    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)

with join_process_group(30.0) as team:
    net = Net()
    shard(net, ShardingOptions(team))
    ours = [name for name, value in vars(net).items() if "obverse" in type(value).__module__]
    facts = [is_sharded(net), is_sharded(torch.nn.Linear(1, 1)), not ours]
    fsdp_forward(net, lambda: net.last(net.first(torch.ones(1, 4)))).sum().backward()
    facts.append(all(parameter.grad is not None for parameter in net.parameters()))
    alive = weakref.ref(net)
    del net
    gc.collect()
    print(json.dumps([*facts, alive() is None]))
"""


@pytest.mark.slow
def test_a_sharded_model_gets_no_attribute_and_is_freed() -> None:
    assert ranks.python(2, SHARDED) == [[True, False, True, True, True]] * 2
