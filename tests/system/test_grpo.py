"""`examples/grpo.py`: the arithmetic of GRPO, and the whole program as a user runs it."""

import contextlib
import fcntl
import importlib.util
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))
from grpo import command_line  # noqa: E402
from grpo.algorithm import Compass, Digits, Settings, build_policy, draw, group_advantages, grpo_loss  # noqa: E402
from grpo.traffic import SENT, read_by_path, sent_by_path  # noqa: E402

pytestmark = pytest.mark.timeout(240)  # a watchdog for crowded machines; alone, none takes half a minute

FIELDS = {
    "heldout_accuracy", "accuracy", "reward", "loss", "parameters", "steps", "step_ms", "step_ms_median", "phase_ms",
    "phase_ms_per_step", "bytes_measured", "bytes_by_path", "bytes_read_by_path", "versions", "lag", "startup_s",
    "wall_s", "engine", "transport", "guard",
}  # fmt: skip


def run(tmp_path: Path, *flags: str) -> dict:
    """The figures of one run of the example; its --json file."""
    file = tmp_path / "figures.json"
    command = [sys.executable, str(EXAMPLES / "grpo.py"), *flags, "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(file.read_text())


def check(figures: dict, steps: int) -> None:
    """What holds for every run, however it was run."""
    assert figures.keys() >= FIELDS
    assert figures["steps"] == len(figures["reward"]) == len(figures["step_ms"]) == steps
    assert all(len(series) == steps for series in figures["phase_ms_per_step"].values())
    assert figures["phase_ms"].keys() == {"generate", "learn", "guard", "update", "overhead"}
    assert figures["phase_ms"]["learn"] > 0 and figures["phase_ms"]["generate"] > 0
    # Every version reached the Generator, and it never answered with one older than the one before the newest.
    assert figures["versions"] == {"learner": steps, "generator": steps}
    assert figures["lag"]["max"] == 1 and figures["lag"]["mean"] == pytest.approx((steps - 1) / steps)
    assert figures["bytes_measured"] == (figures["engine"] == "beeline" and not figures["plain"])


IN_PLACE, COPIED, MESSAGES = SENT.values()


def weights_by_path(figures: dict) -> dict[str, float]:
    """How many times over the weights of all steps went by each path; what are no weights is less than a tenth."""
    all_weights = figures["steps"] * figures["parameters"] * 4
    times = {path: round(count / all_weights, 1) for path, count in figures["bytes_by_path"]["weights"].items()}
    return {path: count for path, count in times.items() if count}


# --- The arithmetic --------------------------------------------------------------------------------------------


def test_advantages_compare_within_the_group_alone():
    advantages = group_advantages(torch.tensor([[0.0, 1.0, 0.0, 1.0], [5.0, 5.0, 5.0, 5.0]]))
    torch.testing.assert_close(advantages[0], torch.tensor([-1.0, 1.0, -1.0, 1.0]), atol=1e-3, rtol=0)
    assert advantages[1].abs().max() == 0


def test_loss_of_a_case_worked_by_hand():
    # Two actions with probabilities 3/4 and 1/4; the older policy had 1/2 each, so the ratios are 1.5 and 0.5.
    logits = torch.tensor([[3.0, 1.0]]).log()
    actions, old_logps = torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.5]]).log()
    # Clipped at 1.2, the good one earns 1.2 x 1; the bad one costs max(0.5, 0.8) x 1: the mean gain is 0.2.
    loss = grpo_loss(logits, actions, old_logps, torch.tensor([[1.0, -1.0]]), clip=0.2)
    assert loss.item() == pytest.approx(-0.2, abs=1e-6)
    # The other way about nothing is clipped: a mistake is always paid in full.
    loss = grpo_loss(logits, actions, old_logps, torch.tensor([[-1.0, 1.0]]), clip=0.2)
    assert loss.item() == pytest.approx(0.5, abs=1e-6)


def test_clipped_answers_give_no_gradient():
    logits = torch.tensor([[3.0, 1.0]]).log().requires_grad_()
    actions, old_logps = torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.5]]).log()
    grpo_loss(logits, actions, old_logps, torch.tensor([[1.0, -1.0]]), clip=0.2).backward()
    assert logits.grad.abs().max() == 0
    logits.grad = None
    grpo_loss(logits, actions, old_logps, torch.tensor([[1.0, -1.0]]), clip=0.6).backward()
    assert logits.grad[0, 0] < 0 < logits.grad[0, 1]  # a step against it makes the better answer likelier


def test_drawn_actions_come_with_their_own_log_probabilities():
    logits = torch.tensor([[2.0, 0.0, -30.0], [-30.0, 0.0, -30.0]])
    actions, logps = draw(logits, 2000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(logps, logits.log_softmax(1).gather(1, actions))
    assert (actions[0] == 0).float().mean().item() == pytest.approx(logits[0].softmax(0)[0].item(), abs=0.04)
    assert (actions[1] == 1).all() and (actions[0] != 2).all()


def test_compass_rewards_the_closest_direction_most():
    questions, truths = Compass().sample(64, torch.Generator().manual_seed(3))
    assert torch.linalg.vector_norm(questions, dim=1).sub(1).abs().max() < 1e-6
    rewards = Compass.rewards(truths, torch.arange(8).expand(64, 8))
    assert Compass.right(truths, rewards.argmax(dim=1)).all()
    due_north = Compass.rewards(torch.tensor([[0.0, 1.0]]), torch.arange(8)[None])[0]
    assert due_north.argmax().item() == Compass.directions.index("N") and due_north.max() == 1


def test_digits_holds_out_a_fifth_and_never_asks_it():
    task = Digits()
    assert len(task.held_out[0]) == 359
    asked, _ = task.sample(20_000, torch.Generator().manual_seed(0))
    held_out = {image.numpy().tobytes() for image in task.held_out[0]}
    assert not held_out & {image.numpy().tobytes() for image in asked}
    assert Digits.rewards(torch.tensor([3, 4]), torch.tensor([[3, 1], [3, 4]])).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(("name", "width", "least"), [("compass", 10_000, 1e8), ("digits", 97_000, 1e8)])
def test_width_reaches_a_hundred_million_parameters(name, width, least):
    with torch.device("meta"):
        policy = {"compass": Compass, "digits": Digits}[name].policy(width)
    assert least < sum(parameter.numel() for parameter in policy.parameters()) < 1.02 * least


def test_the_policy_depends_on_the_seed_alone():
    def weights(seed):
        policy = build_policy(settings(input="digits", seed=seed))
        return torch.cat([parameter.flatten() for parameter in policy.parameters()])

    assert weights(1).equal(weights(1)) and not weights(1).equal(weights(2))


# --- The actors, as plain objects --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def program():
    """`examples/grpo.py` as a module."""
    spec = importlib.util.spec_from_file_location("grpo_program", EXAMPLES / "grpo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings(**changes) -> Settings:
    return Settings(
        **{**dict(input="compass", width=16, batch=8, group=4, replay=2, lr=1e-2, clip=0.2, seed=0), **changes},
        device="cpu",
        threads=1,
    )


def scored_batch(program, given: Settings) -> dict:
    generator, scorer = program.Generator(given), program.Scorer(given)
    generator.update_weights(program.Learner(given).get_weights())
    return scorer.score(generator.generate(*Compass().sample(given.batch, torch.Generator().manual_seed(0))))


def test_learner_waits_for_the_readers_of_every_weight_before_it_writes(program):
    waited = []
    learner = program.Learner(settings(), lambda tensor, timeout: waited.append((tensor, tensor.clone())))
    published = learner.get_weights()["tensors"]
    before = [tensor.clone() for tensor in published]
    learner.step(scored_batch(program, settings()))
    assert len(waited) == len(published) == len(list(learner.policy.parameters()))
    for (tensor, seen), own, old in zip(waited, published, before, strict=True):
        assert tensor is own  # Ray knows a published tensor by its Python object
        assert seen.equal(old) and not own.equal(old)
    assert learner.get_weights()["version"] == 1


def test_replay_buffer_keeps_copies_of_the_newest_rollouts(program):
    buffer = program.ReplayBuffer(settings(replay=2))
    for version in range(3):
        rollout = {"questions": torch.full((8, 2), float(version)), "versions": torch.full((8,), version)}
        buffer.put(rollout)
        rollout["versions"].fill_(-1)  # the sender reuses its memory
    sample = buffer.sample(16)
    assert sorted(sample["versions"].tolist()) == [1] * 8 + [2] * 8
    assert sample["questions"][:, 0].equal(sample["versions"].float())


def test_generator_takes_values_not_memory(program):
    learner, generator = program.Learner(settings()), program.Generator(settings(seed=9))
    assert generator.update_weights(learner.get_weights())["version"] == 0
    for mine, theirs in zip(generator.policy.parameters(), learner.policy.parameters(), strict=True):
        assert mine.equal(theirs) and mine.data_ptr() != theirs.data_ptr()


# --- The program -----------------------------------------------------------------------------------------------


def test_plain_learns_the_compass(tmp_path):
    figures = run(tmp_path, "--plain", "--input", "compass", "--png", "curve.png")
    check(figures, 200)
    assert fmean(figures["reward"][:10]) < 0.5 and fmean(figures["reward"][-10:]) > 0.93
    assert figures["heldout_accuracy"] > 0.9
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


COMPASS = ["--input", "compass", "--steps", "80", "--seed", "5"]


@pytest.fixture(scope="module")
def plain_compass(tmp_path_factory) -> dict:
    """What one plain process makes of COMPASS: actors have to make exactly the same of it."""
    return run(tmp_path_factory.mktemp("plain"), *COMPASS, "--plain")


@pytest.mark.parametrize("sync", [pytest.param("blocking", marks=pytest.mark.full), "nonblocking"])
@pytest.mark.parametrize(
    ("transport", "direct", "guard"),
    [
        pytest.param("auto", "weights", "snapshot", marks=pytest.mark.full),
        ("auto", "all", "wait"),
        pytest.param("shm", "weights", "wait", marks=pytest.mark.full),
        pytest.param("object_store", "all", "auto", marks=pytest.mark.full),
        pytest.param("cma", "all", "auto", marks=pytest.mark.full),
    ],
)
def test_beeline_learns_the_compass_exactly_as_one_plain_process(
    tmp_path, plain_compass, transport, direct, guard, sync
):
    how = ["--transport", transport, "--direct", direct, "--guard", guard, "--sync", sync]
    actors = run(tmp_path, *COMPASS, "--engine", "beeline", *how)
    check(actors, 80)
    assert fmean(actors["reward"][-10:]) > fmean(actors["reward"][:10]) + 0.3
    assert actors["reward"] == plain_compass["reward"] and actors["accuracy"] == plain_compass["accuracy"]
    if transport == "cma":
        assert weights_by_path(actors) == {"cma fetch": 1, MESSAGES: 0.1}  # the references
        assert actors["bytes_by_path"]["rollouts"].keys() == {"cma fetch", MESSAGES}
        return
    # Weights of 19.5 KB, and the rollouts, are small enough to travel inside messages, whatever was asked for.
    assert weights_by_path(actors) == {MESSAGES: pytest.approx(1, abs=0.11)}
    assert actors["bytes_by_path"]["rollouts"].keys() == {MESSAGES}
    assert actors["bytes_read_by_path"] == {"weights": {}, "rollouts": {}}


def test_beeline_trains_digits(tmp_path):
    flags = ["--input", "digits", "--steps", "60", "--eval-every", "20", "--seed", "1"]
    plain, actors = run(tmp_path, *flags, "--plain"), run(tmp_path, *flags, "--engine", "beeline", "--png", "d.png")
    check(actors, 60)
    assert 0.9e6 < actors["parameters"] < 1.2e6
    assert actors["heldout_accuracy"] > 0.6
    # The same arithmetic in the same order; only how far a library rounds alike in both processes is left open.
    assert actors["reward"] == pytest.approx(plain["reward"], abs=0.15)
    assert fmean(actors["reward"]) == pytest.approx(fmean(plain["reward"]), abs=0.02)
    # A snapshot is one copy into the Learner's shared memory; the Generator reads it there.
    assert weights_by_path(actors) == {COPIED: 1}
    assert actors["bytes_read_by_path"]["weights"] == {"shm map": actors["bytes_by_path"]["weights"][COPIED]}
    assert plain["bytes_by_path"] == {"weights": {}, "rollouts": {}}


@pytest.mark.parametrize(
    ("transport", "expected"),
    [
        # All but the first layer and the biases lies in the Learner's arena from birth: nothing of it is copied.
        pytest.param("shm", {IN_PLACE: 1}, id="shm"),
        pytest.param("object_store", {COPIED: 1}, id="object_store", marks=pytest.mark.full),
        pytest.param("cma", {"cma fetch": 1}, id="cma"),
        pytest.param("gloo", {"gloo fetch": 1}, id="gloo", marks=pytest.mark.full),
        pytest.param("tcp", {"tcp fetch": 1}, id="tcp", marks=pytest.mark.full),
    ],
)
def test_bytes_are_reported_by_the_path_that_they_took(tmp_path, transport, expected):
    flags = ["--input", "digits", "--steps", "6", "--eval-every", "4", "--guard", "auto"]
    flags += ["--guard", "wait"] if transport == "shm" else []
    figures = run(tmp_path, *flags, "--transport", transport)
    check(figures, 6)
    assert weights_by_path(figures) == expected
    read = figures["bytes_read_by_path"]["weights"]
    assert read.keys() == ({"shm map"} if transport in ("shm", "object_store") else expected.keys())
    # What is mapped counts with the gaps between tensors.
    assert sum(read.values()) == pytest.approx(figures["steps"] * figures["parameters"] * 4, rel=1e-3)


def test_bytes_before_the_first_step_are_left_out_and_each_is_counted_once():
    def moved(**changes):
        still = {"sent": dict.fromkeys(SENT.values(), 0), "read": {}}
        return {name: changes.get(name, still) for name in ("Learner", "Generator", "Scorer", "ReplayBuffer")}

    def sent(in_place, copied, messages, **read):
        return {"sent": {IN_PLACE: in_place, COPIED: copied, MESSAGES: messages}, "read": read}

    start = moved(Learner=sent(10, 2, 3), Generator=sent(0, 0, 5, cma=1))
    now = moved(
        Learner=sent(110, 2, 7) | {"read": {"shm map": 40}},
        Generator=sent(0, 40, 5) | {"read": {"shm map": 100, "cma fetch": 9}},
    )
    assert sent_by_path(start, now) == {
        "weights": {IN_PLACE: 100, MESSAGES: 4, "cma fetch": 9},
        "rollouts": {COPIED: 40},
    }
    assert read_by_path(start, now) == {"weights": {"shm map": 100, "cma fetch": 9}, "rollouts": {"shm map": 40}}


@pytest.mark.full
def test_the_demo_reaches_95_percent_and_leaves_a_picture(tmp_path):
    figures = run(tmp_path, "--input", "digits", "--png", "demo.png")
    check(figures, Digits.steps)
    assert figures["heldout_accuracy"] >= 0.95
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.full
@pytest.mark.parametrize("transport", ["object_store", "gloo", "nixl"])
def test_ray_trains_digits_by_every_transport(tmp_path, transport):
    how = ["--engine", "ray", "--transport", transport]
    figures = run(tmp_path, "--input", "digits", "--steps", "60", "--seed", "1", *how)
    check(figures, 60)
    assert figures["heldout_accuracy"] > 0.6
    # Ray counts nothing: what is said is what was asked for, and says so.
    asked = f"{transport} (as asked for; computed)"
    assert figures["bytes_by_path"]["weights"] == {asked: 60 * figures["parameters"] * 4}


@pytest.mark.full
def test_a_terminal_shows_progress_as_it_is(tmp_path):
    """In a real terminal (a pty): one table that is drawn over and over, with everything in it."""
    command = [sys.executable, str(EXAMPLES / "grpo.py"), "--input", "compass", "--steps", "150", "--eval-every", "50"]
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    program = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, cwd=tmp_path)
    os.close(terminal)
    shown = bytearray()
    with contextlib.suppress(OSError):  # the terminal's end
        while part := os.read(master, 65536):
            shown += part
    os.close(master)
    assert program.wait(60) == 0, shown.decode(errors="replace")
    text = shown.decode()
    assert text.count("GRPO · compass · beeline, auto") > 1
    for part in ("step 150/150", "reward", "held-out accuracy", "version 150 in the Generator", "batch 1.0 behind"):
        assert part in text, part
    for part in ("ms per step", "generate", "learn", "guard", "update", "overhead", f"by {MESSAGES}"):
        assert part in text, part


@pytest.mark.full
@pytest.mark.parametrize(
    "how",
    [
        pytest.param(["--transport", "object_store"], id="object_store"),
        pytest.param(["--transport", "gloo", "--direct", "all"], id="gloo, all"),
        pytest.param(["--transport", "gloo", "--direct", "all", "--sync", "blocking"], id="gloo, all, blocking"),
    ],
)
def test_ray_learns_as_one_plain_process(tmp_path, plain_compass, how):
    pytest.importorskip("ray")
    actors = run(tmp_path, *COMPASS, "--engine", "ray", *how)
    check(actors, 80)
    assert actors["reward"] == plain_compass["reward"]


@pytest.mark.full
def test_compare_prints_the_runs_side_by_side(tmp_path):
    file = tmp_path / "all.json"
    flags = ["--input", "compass", "--steps", "10", "--compare", "--json", str(file)]
    command = [sys.executable, str(EXAMPLES / "grpo.py"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(file.read_text())
    assert list(figures["runs"]) == ["auto", "object_store", "plain"]
    assert len({tuple(figure["reward"]) for figure in figures["runs"].values()}) == 1
    assert figures["transport"] == "auto" and "one plain process" in done.stdout


@pytest.fixture
def gpus(monkeypatch):
    """`gpus(n)`: torch sees that many from here on."""
    return lambda count: monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--device cpu", {}),
        ("--device cpu --gpus 1", {}),
        ("--device cpu --engine ray", {}),
        ("--device cuda", {"num_gpus": 0.5}),
        ("--device cuda --engine ray --gpus 0.25", {"num_gpus": 0.25}),
    ],
)
def test_only_a_gpu_that_is_computed_on_is_asked_for(program, gpus, flags, expected):
    gpus(1)
    made = {}

    def remote(*classes, **options):
        """As `ray.remote`, of actors that have no methods: it goes no further than making them."""
        if not classes:
            return lambda cls: remote(cls, **options)
        return SimpleNamespace(remote=lambda *_: made.update({classes[0].__name__: options}) or SimpleNamespace())

    args = command_line.parse("GRPO", flags.split())
    experimental = SimpleNamespace(wait_tensor_freed=None)
    with pytest.raises(AttributeError, match="get_weights"):
        program.train(SimpleNamespace(remote=remote, experimental=experimental), args, settings(), None)
    assert made == {"Learner": expected, "Generator": expected, "Scorer": {}, "ReplayBuffer": {}}


# --- The flags -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "transport", "guard", "each"),
    [
        ("", "auto", "snapshot", 0),
        ("--transport shm --guard wait", "shm", "wait", 0),
        ("--transport SHM", "shm", "snapshot", 0),
        ("--transport cma", "cma", "wait", 0),
        ("--transport object_store", "object_store", "none", 0),
        ("--gpus 1", "auto", "snapshot", 0),
        ("--engine ray", "object_store", "none", 0),
        ("--engine ray --transport nixl --direct all", "nixl", "wait", 0),
        ("--device cuda", "cuda_ipc", "wait", 0.5),
        ("--device cuda --gpus 0.25", "cuda_ipc", "wait", 0.25),
        ("--device cuda --transport nccl", "nccl", "wait", 1),
        ("--device cuda --transport object_store --direct all", "object_store", "none", 0.5),
        ("--device cuda --plain", "cuda_ipc", "none", 0.5),
        ("--device cuda --engine ray", "object_store", "none", 0.5),
        ("--device cuda --engine ray --transport cuda_ipc", "cuda_ipc", "wait", 0.5),
        ("--device cuda --engine ray --transport nixl --direct all", "nixl", "wait", 0.5),
        ("--device cuda --engine ray --transport nccl", "nccl", "wait", 1),
    ],
)
def test_transport_guard_and_gpus_that_are_chosen(gpus, flags, transport, guard, each):
    gpus(2)
    args = command_line.parse("GRPO", flags.split())
    assert (args.transport, args.guard, args.gpus) == (transport, guard, each)


@pytest.mark.parametrize(
    ("flags", "seen", "said"),
    [
        ("--device cuda", 0, "torch sees no GPU here"),
        ("--device cuda --plain", 0, "torch sees no GPU here"),
        ("--device cuda --transport auto", 2, "choose cuda_ipc, nccl, object_store"),
        ("--device cuda --transport gloo", 2, "choose cuda_ipc, nccl, object_store"),
        ("--device cuda --engine ray --transport gloo", 2, "choose object_store, nixl, cuda_ipc, nccl"),
        ("--transport cuda_ipc", 2, "choose auto, shm, cma, ucx, nixl, gloo, tcp, object_store"),
        ("--engine ray --transport nccl", 2, "choose object_store, nixl, gloo"),
        ("--engine ray --transport auto", 2, "object_store, nixl, gloo, cuda_ipc, nccl"),
        ("--transport none", 2, "on beeline choose from auto, shm"),
        ("--device cuda --direct all", 2, "choose --direct weights"),
        ("--device cuda --engine ray --transport nccl --direct all", 2, "choose --direct weights"),
        ("--device cuda --guard snapshot", 2, "choose wait"),
        ("--transport cma --guard snapshot", 2, "choose wait"),
        ("--engine ray --guard snapshot", 2, "choose wait"),
        ("--device cuda --transport nccl", 1, "--gpus 1 for each of the Learner and the Generator: torch sees 1"),
        ("--device cuda --gpus 0", 2, "--gpus 0 for each of the Learner and the Generator"),
        ("--device cuda --transport nccl --gpus 0.5", 2, "choose --gpus 1"),
        ("--device cuda --gpus 1", 2, "choose --gpus 0.5, or --transport nccl"),
        ("--steps 0", 2, "--steps must be at least 1"),
    ],
)
def test_flags_that_make_no_sense_are_refused_with_a_hint(capsys, gpus, flags, seen, said):
    gpus(seen)
    with pytest.raises(SystemExit) as ended:
        command_line.parse("GRPO", flags.split())
    assert ended.value.code == 2 and said in " ".join(capsys.readouterr().err.split())


def test_a_refusal_comes_before_anything_is_started():
    command = [sys.executable, str(EXAMPLES / "grpo.py"), "--device", "cuda", "--transport", "shm"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout and "choose cuda_ipc" in done.stderr


def test_names_of_transports_are_those_of_beeline():
    from beeline.tensors.transports import USABLE

    assert command_line.TRANSPORTS["beeline"].keys() == USABLE.keys()
