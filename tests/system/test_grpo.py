"""`examples/grpo.py`: the arithmetic of GRPO, and the whole program as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))
from grpo.algorithm import Compass, Digits, Settings, build_policy, draw, group_advantages, grpo_loss  # noqa: E402

pytestmark = pytest.mark.timeout(60)

FIELDS = {
    "heldout_accuracy", "accuracy", "reward", "loss", "parameters", "steps", "step_ms", "step_ms_median", "phase_ms",
    "phase_ms_per_step", "bytes_by_path", "versions", "lag", "startup_s", "wall_s", "engine", "transport", "guard",
}  # fmt: skip


def run(tmp_path: Path, *flags: str) -> dict:
    """The figures of one run of the example; its --json file."""
    file = tmp_path / "figures.json"
    command = [sys.executable, str(EXAMPLES / "grpo.py"), *flags, "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=58, cwd=tmp_path)
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
    assert sum(figures["bytes_by_path"]["weights"].values()) == steps * figures["parameters"] * 4


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
        settings = Settings("digits", 32, 4, 2, 1, 1e-3, 0.2, seed, "cpu", 1)
        return torch.cat([parameter.flatten() for parameter in build_policy(settings).parameters()])

    assert weights(1).equal(weights(1)) and not weights(1).equal(weights(2))


# --- The program -----------------------------------------------------------------------------------------------


def test_plain_learns_the_compass(tmp_path):
    figures = run(tmp_path, "--plain", "--input", "compass", "--png", "curve.png")
    check(figures, 200)
    assert fmean(figures["reward"][:10]) < 0.5 and fmean(figures["reward"][-10:]) > 0.93
    assert figures["heldout_accuracy"] > 0.9
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("sync", ["blocking", "nonblocking"])
@pytest.mark.parametrize(
    ("transport", "direct", "guard"),
    [
        ("auto", "weights", "snapshot"),
        ("auto", "all", "wait"),
        ("shm", "weights", "wait"),
        ("object_store", "all", "auto"),
    ],
)
def test_beeline_learns_the_compass_exactly_as_one_plain_process(tmp_path, transport, direct, guard, sync):
    flags = ["--input", "compass", "--steps", "80", "--seed", "5"]
    how = ["--transport", transport, "--direct", direct, "--guard", guard, "--sync", sync]
    plain, actors = run(tmp_path, *flags, "--plain"), run(tmp_path, *flags, "--engine", "beeline", *how)
    check(actors, 80)
    assert fmean(actors["reward"][-10:]) > fmean(actors["reward"][:10]) + 0.3
    assert actors["reward"] == plain["reward"] and actors["accuracy"] == plain["accuracy"]
    assert actors["bytes_by_path"]["weights"].keys() == {transport}
    assert actors["bytes_by_path"]["rollouts"].keys() == {transport if direct == "all" else "object_store"}


def test_beeline_trains_digits(tmp_path):
    flags = ["--input", "digits", "--steps", "60", "--eval-every", "20", "--seed", "1"]
    plain, actors = run(tmp_path, *flags, "--plain"), run(tmp_path, *flags, "--engine", "beeline", "--png", "d.png")
    check(actors, 60)
    assert 0.9e6 < actors["parameters"] < 1.2e6
    assert actors["heldout_accuracy"] > 0.6
    # The same arithmetic in the same order; only how far a library rounds alike in both processes is left open.
    assert actors["reward"] == pytest.approx(plain["reward"], abs=0.15)
    assert fmean(actors["reward"]) == pytest.approx(fmean(plain["reward"]), abs=0.02)


def test_ray_learns_as_one_plain_process(tmp_path):
    pytest.importorskip("ray")
    flags = ["--input", "compass", "--steps", "20", "--seed", "5"]
    plain = run(tmp_path, *flags, "--plain")
    actors = run(tmp_path, *flags, "--engine", "ray", "--transport", "object_store")
    check(actors, 20)
    assert actors["reward"] == plain["reward"]


def test_compare_prints_the_runs_side_by_side(tmp_path):
    file = tmp_path / "all.json"
    flags = ["--input", "compass", "--steps", "10", "--compare", "--json", str(file)]
    command = [sys.executable, str(EXAMPLES / "grpo.py"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=58)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(file.read_text())
    assert list(figures["runs"]) == ["auto", "object_store", "plain"]
    assert len({tuple(figure["reward"]) for figure in figures["runs"].values()}) == 1
    assert figures["transport"] == "auto" and "one plain process" in done.stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--engine", "ray", "--transport", "auto"], "object_store, gloo, nixl, nccl"),
        (["--engine", "ray", "--guard", "snapshot"], "choose wait"),
        (["--steps", "0"], "--steps must be at least 1"),
    ],
)
def test_flags_that_make_no_sense_are_refused_with_a_hint(flags, said):
    done = subprocess.run([sys.executable, str(EXAMPLES / "grpo.py"), *flags], capture_output=True, text=True)
    assert done.returncode == 2 and said in done.stderr
