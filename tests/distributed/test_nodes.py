"""Starters and hosts: torchrun on one machine, accelerate launch, and two hosts with a network between them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed.ranks import TESTS, free_port
from distributed.test_ranks import difference

import runs

BIN = Path(sys.executable).parent
NAMES = ("obverse-a", "obverse-b")
ADDRESSES = ("10.231.7.1", "10.231.7.2")

pytestmark = pytest.mark.release


def words(folder: Path, tiny: Path, problems: Path, **more: object) -> list[str]:
    """The command line of a short run."""
    given = {"model": tiny, "dataset": problems, "output_dir": folder, "max_steps": 4, "prompts_per_step": 6}
    given |= {"max_completion_length": 6, "num_generations": 2, "dtype": "float64", "report": "false", **more}
    return ["-m", "obverse", "train", "grpo", *(f"--{name}={value}" for name, value in given.items())]


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1", **more}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny: Path, problems: Path) -> Path:
    """The run of one process, by the same command."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    command = [sys.executable, *words(folder, tiny, problems)]
    subprocess.run(command, check=True, env=environment(), capture_output=True)
    return folder


def same(folder: Path, alone: Path) -> bool:
    return difference(*(each / "checkpoint-4" / "model.safetensors" for each in (folder, alone))) < 1e-9


def test_torchrun(alone: Path, tiny: Path, problems: Path, tmp_path: Path) -> None:
    command = [BIN / "torchrun", "--standalone", "--nproc-per-node", "2", *words(tmp_path / "run", tiny, problems)]
    ran = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "1 threads on each of 2 ranks" in ran.stdout and ran.stdout.count("step 4/4") == 1
    assert same(tmp_path / "run", alone)


def test_accelerate(alone: Path, tiny: Path, problems: Path, tmp_path: Path) -> None:
    command = [BIN / "accelerate", "launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(free_port())]
    command += words(tmp_path / "run", tiny, problems)
    ran = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert same(tmp_path / "run", alone)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_torchrun_leaves_a_checkpoint_that_goes_on(
    number: int, alone: Path, tiny: Path, problems: Path, tmp_path: Path
) -> None:
    start = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2"]
    long = words(tmp_path / "run", tiny, problems, max_steps=10_000, save_steps=0)
    process = subprocess.Popen([*start, *long], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    metrics, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") > 2):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    sent = time.monotonic()
    process.communicate(timeout=60)
    assert time.monotonic() - sent < 20  # torchrun takes seconds to end by itself
    (saved,) = (tmp_path / "run").glob("checkpoint-*")
    last = int(saved.name.rpartition("-")[2]) + 1
    again = words(tmp_path / "run", tiny, problems, max_steps=last, resume_from_checkpoint="auto")
    ran = subprocess.run([*start, *again], env=environment(), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert [row["step"] for row in runs.figures(tmp_path / "run")] == list(range(1, last + 1))


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a cable between them; each sees itself and the other, and nothing else."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and the program ip")
    try:
        ip("netns", "add", NAMES[0])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine gives no network namespaces: {error.stderr.decode().strip()}")
    try:
        ip("netns", "add", NAMES[1])
        ip("link", "add", "cable", "netns", NAMES[0], "type", "veth", "peer", "name", "cable", "netns", NAMES[1])
        for name, address in zip(NAMES, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield NAMES
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def on_hosts(names: tuple[str, str], command: list[str], logs: Path) -> list[subprocess.Popen[bytes]]:
    """torchrun's agents, one a host, which meet at the first one's address."""
    logs.mkdir(exist_ok=True)
    started = []
    for name, address in zip(names, ADDRESSES, strict=True):
        agent = ["ip", "netns", "exec", name, str(BIN / "torchrun"), "--nnodes", "2", "--nproc-per-node", "1"]
        agent += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:29500", "--rdzv-id", "test"]
        # both have one name, so that torchrun could not tell whose address that is
        agent += ["--local-addr", address, "--rdzv-conf", f"is_host={int(name == names[0])}"]
        started.append(
            subprocess.Popen(
                [*agent, *command],
                env=environment(GLOO_SOCKET_IFNAME="cable"),
                stdout=subprocess.DEVNULL,
                stderr=(logs / name).open("w"),
            )
        )
    return started


def test_two_hosts(hosts: tuple[str, str], alone: Path, tiny: Path, problems: Path, tmp_path: Path) -> None:
    agents = on_hosts(hosts, words(tmp_path / "run", tiny, problems), tmp_path / "logs")
    codes = [agent.wait(240) for agent in agents]
    assert codes == [0, 0], [path.read_text() for path in (tmp_path / "logs").iterdir()]
    assert same(tmp_path / "run", alone)


def test_two_hosts_of_which_one_loses_its_network(
    hosts: tuple[str, str], tiny: Path, problems: Path, tmp_path: Path
) -> None:
    """No process ends and no connection is closed: only silence tells."""
    more = {"max_steps": 10_000, "save_steps": 1, "ddp_timeout": 6}
    agents = on_hosts(hosts, words(tmp_path / "run", tiny, problems, **more), tmp_path / "logs")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run").glob("checkpoint-*")):
        assert time.monotonic() < deadline and all(agent.poll() is None for agent in agents)
        time.sleep(0.05)
    ip("-n", NAMES[1], "link", "set", "cable", "down")
    cut = time.monotonic()
    told = ""
    while "error: " not in told and time.monotonic() < cut + 60:
        time.sleep(0.1)
        told = (tmp_path / "logs" / NAMES[0]).read_text()
    seconds = time.monotonic() - cut
    for agent in agents:
        agent.kill()
        agent.wait()
    assert seconds < 6 + 5, told
    assert "is gone" in told or "hangs" in told, told
