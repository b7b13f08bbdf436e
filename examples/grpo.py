#!/usr/bin/env python
"""GRPO with four actors, one step off policy, the weights handed from Learner to Generator directly.

    .venv/bin/python examples/grpo.py --input digits                         # about a million parameters
    .venv/bin/python examples/grpo.py --input digits --compare               # also by the object store, and plain
    .venv/bin/python examples/grpo.py --engine ray --transport object_store  # the very same program on Ray
    .venv/bin/python examples/grpo.py --device cuda                          # the weights stay on the GPU

                    rollouts             scored               batch
    questions -> Generator -> Scorer -> ReplayBuffer -> Learner
                     ^                                     |
                     +---------- weights (direct) ---------+

The driver asks the questions and touches no other tensor: it passes references. What it decides is the *order*
of the calls, and an actor runs the calls of one caller in the order in which they were made. The whole
algorithm ("one step off policy") follows from that order; see `train`.

Who may write to a tensor that was handed over?
    A direct transport does not copy what `Learner.get_weights` returns: the Generator reads the Learner's own
    memory, and optimizer.step() writes to that same memory. Were nothing done about it, the Generator could
    see half of one version and half of the next. Two ways out, chosen with --guard:

    snapshot  (Beeline, by auto and shm) `isolation="snapshot"`: a consumer sees the bytes as they were when
              they were published, whatever the Learner writes afterwards. Nothing to do in the actor.
    wait      (Ray, and Beeline) the Learner calls `wait_tensor_freed` on what it published before the
              optimizer writes. Forward and backward pass, which only read, run meanwhile, so this seldom waits.

    The object store copies by value and needs neither; nor do rollouts, whose tensors nobody writes to again.
    (With --sync blocking the driver's own wait would do too. But that is a promise kept by a line far away from the
    optimizer; a guard holds whatever the driver does.)
"""

import contextlib
import importlib
import sys
import time
from argparse import Namespace
from collections import deque

import torch
from grpo.algorithm import INPUTS, Settings, build_policy, draw, group_advantages, grpo_loss
from grpo.command_line import parse
from grpo.report import Report, compare, save_json, save_png
from grpo.traffic import moved

FREED_TIMEOUT_S = 60


@contextlib.contextmanager
def timed(ms: dict, phase: str):
    """Add the milliseconds that the body takes to `ms[phase]`."""
    start = time.perf_counter()
    yield
    ms[phase] = ms.get(phase, 0.0) + (time.perf_counter() - start) * 1e3


# --- The actors. Plain classes: `--plain` uses them as they are, `train` makes actors of them. -------------------


class Generator:
    """Answers questions with the newest policy that it has been given."""

    def __init__(self, settings: Settings) -> None:
        torch.set_num_threads(settings.threads)
        self.settings = settings
        self.policy = build_policy(settings).requires_grad_(False)
        self.rng = torch.Generator(settings.device).manual_seed(settings.seed + 1)
        self.version = None
        self.ms: dict = {}

    def generate(self, questions, truths) -> dict:
        """A group of answers to each question. The tensors are new in each call, so nobody writes to them later."""
        with timed(self.ms, "generate"):
            logits = self.policy(questions.to(self.settings.device))
            actions, logps = draw(logits, self.settings.group, self.rng)
            versions = torch.full((len(questions),), self.version)
            return dict(
                questions=questions, truths=truths, actions=actions.cpu(), old_logps=logps.cpu(), versions=versions
            )

    def update_weights(self, weights: dict) -> dict:
        """Copy the weights into this policy's own parameters; what was received is released on return."""
        with timed(self.ms, "update"):
            for mine, received in zip(self.policy.parameters(), weights["tensors"], strict=True):
                mine.copy_(received)
            if self.settings.device == "cuda":
                torch.cuda.synchronize()  # a transport may have mapped the Learner's memory: until then it is read
            self.version = weights["version"]
        ms, self.ms = self.ms, {}
        return {"version": self.version, "ms": ms}

    def evaluate(self, held_out) -> float:
        """The share of held-out questions for which the likeliest answer is right."""
        questions, truths = held_out
        answers = self.policy(questions.to(self.settings.device)).argmax(dim=1).cpu()
        return INPUTS[self.settings.input].right(truths, answers).float().mean().item()


class Scorer:
    """Rewards each answer."""

    def __init__(self, settings: Settings) -> None:
        torch.set_num_threads(settings.threads)
        self.rewards = INPUTS[settings.input].rewards

    def score(self, rollout: dict) -> dict:
        return {**rollout, "rewards": self.rewards(rollout["truths"], rollout["actions"])}


class ReplayBuffer:
    """The newest rollouts, in this process's own memory."""

    def __init__(self, settings: Settings) -> None:
        torch.set_num_threads(settings.threads)
        self.rollouts: deque = deque(maxlen=settings.replay)
        self.rng = torch.Generator().manual_seed(settings.seed + 2)

    def put(self, scored: dict) -> None:
        # What arrived by a direct transport may still be the sender's memory: keep a copy, not a hold on it.
        self.rollouts.append({name: tensor.clone() for name, tensor in scored.items()})

    def sample(self, count: int) -> dict:
        """`count` questions with their groups, each at most once, as new tensors."""
        pool = {name: torch.cat([rollout[name] for rollout in self.rollouts]) for name in self.rollouts[0]}
        chosen = torch.randperm(len(pool["questions"]), generator=self.rng)[:count]
        return {name: tensor[chosen] for name, tensor in pool.items()}


class Learner:
    """Owns the policy that is being trained."""

    def __init__(self, settings: Settings, wait_freed=None) -> None:
        """`wait_freed(tensor, timeout)`: called for each published tensor before it is written to (--guard wait)."""
        torch.set_num_threads(settings.threads)
        self.settings = settings
        self.policy = build_policy(settings)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=settings.lr, fused=True)
        # The parameters' own memory under names that need no gradient. Made once: `wait_freed` knows a tensor by
        # its Python object.
        self.weights = [parameter.detach() for parameter in self.policy.parameters()]
        self.wait_freed = wait_freed
        self.version = 0

    def get_weights(self) -> dict:
        """The weights and their version, in one value: a reader cannot pair one with another's number."""
        return {"version": self.version, "tensors": self.weights}

    def step(self, batch: dict) -> dict:
        """One GRPO update. Returns figures only; the weights leave through `get_weights`."""
        ms: dict = {}
        with timed(ms, "learn"):
            moved = {name: tensor.to(self.settings.device) for name, tensor in batch.items()}
            loss = grpo_loss(
                self.policy(moved["questions"]),
                moved["actions"],
                moved["old_logps"],
                group_advantages(moved["rewards"]),
                self.settings.clip,
            )
            self.optimizer.zero_grad()
            loss.backward()
        with timed(ms, "guard"):
            if self.wait_freed:
                for tensor in self.weights:
                    self.wait_freed(tensor, timeout=FREED_TIMEOUT_S)
        with timed(ms, "learn"):
            self.optimizer.step()
            loss = loss.item()
        lag = self.version - batch["versions"].float().mean().item()
        self.version += 1
        size = sum(tensor.nbytes for tensor in batch.values())
        return {
            "reward": batch["rewards"].mean().item(),
            "loss": loss,
            "version": self.version,
            "lag": lag,
            "ms": ms,
            "weight_bytes": sum(tensor.nbytes for tensor in self.weights),
            # Three hops: Generator -> Scorer (not yet with rewards) -> ReplayBuffer -> Learner.
            "rollout_bytes": 3 * size - batch["rewards"].nbytes,
        }


# --- The driver ------------------------------------------------------------------------------------------------


def train(ray, args: Namespace, settings: Settings, report: Report) -> None:
    """The training loop with actors. `ray` is Beeline or Ray: the loop does not care which."""
    task = INPUTS[settings.input]()
    rng = torch.Generator().manual_seed(settings.seed)
    # Ray's object store is what a method has that asks for nothing; Ray knows no transport of that name.
    annotated = not (args.engine == "ray" and args.transport == "object_store")

    def actor(cls, *arguments, gpus: float = 0):
        options = {"num_gpus": gpus} if gpus else {}
        if args.engine == "ray" and annotated:
            options["enable_tensor_transport"] = True  # Ray's consumers must declare it. Beeline's need not.
        return (ray.remote(**options) if options else ray.remote)(cls).remote(*arguments)

    def direct(method, **isolation):
        """`method`, with the tensors of its result handed over by the chosen transport."""
        return method.options(tensor_transport=args.transport, **isolation) if annotated else method

    wait_freed = ray.experimental.wait_tensor_freed if args.guard == "wait" else None
    learner = actor(Learner, settings, wait_freed, gpus=args.gpus)
    generator = actor(Generator, settings, gpus=args.gpus)
    scorer = actor(Scorer, settings)
    buffer = actor(ReplayBuffer, settings)
    if args.engine == "ray" and args.transport in ("gloo", "nccl"):
        from ray.experimental.collective import create_collective_group

        members = [learner, generator] if args.transport == "nccl" else [learner, generator, scorer, buffer]
        create_collective_group(members, backend=args.transport)

    # In the class, these options would be the decorator @ray.method(tensor_transport="auto", isolation="snapshot").
    get_weights = direct(learner.get_weights, **({"isolation": "snapshot"} if args.guard == "snapshot" else {}))
    rollout_methods = generator.generate, scorer.score, buffer.sample
    generate, score, sample = map(direct, rollout_methods) if args.direct == "all" else rollout_methods
    held_out = ray.put(task.held_out)

    def roll_out():
        """Send a batch of questions on its way; the references carry it from actor to actor."""
        questions, truths = task.sample(settings.batch, rng)
        return buffer.put.remote(score.remote(generate.remote(questions, truths)))

    # Beeline counts what travels; each actor is asked what it has moved.
    counting = {"Learner": learner, "Generator": generator, "Scorer": scorer, "ReplayBuffer": buffer}
    counting = counting if args.engine == "beeline" else {}

    def count() -> list:
        return [each.__ray_call__.remote(moved) for each in counting.values()]

    generator.update_weights.remote(get_weights.remote())
    stored = roll_out()
    ray.get(stored)
    report.start(dict(zip(counting, ray.get(count()), strict=True)))

    # Blocking: the driver waits for the end of each step. Non-blocking: it is always one step ahead, so that no actor
    # waits for the driver; --guard alone keeps reading and writing apart.
    ahead = 0 if args.sync == "blocking" else 1
    in_flight: deque = deque()
    for step in range(1, args.steps + 1):
        batch = sample.remote(settings.batch)  # before this step's rollout is put: the previous policy's answers
        previous, stored = stored, roll_out()  # the Generator works ...
        learned = learner.step.remote(batch)  # ... while the Learner does
        updated = generator.update_weights.remote(get_weights.remote())
        refs = [learned, updated, previous]  # `previous` for its errors: they must not pass unseen
        if step % args.eval_every == 0 or step == args.steps:
            refs += [generator.evaluate.remote(held_out), *count()]
        in_flight.append(refs)
        while len(in_flight) > (ahead if step < args.steps else 0):
            learned, updated, _, *looked = ray.get(in_flight.popleft())
            accuracy, *counts = looked or [None]
            report.add(learned, updated, accuracy, dict(zip(counting, counts, strict=bool(looked))))
    ray.get(stored)


def train_plain(args: Namespace, settings: Settings, report: Report) -> None:
    """The same training in this process, call after call: what actors and transports have to compete with."""
    task = INPUTS[settings.input]()
    rng = torch.Generator().manual_seed(settings.seed)
    learner, generator = Learner(settings), Generator(settings)
    scorer, buffer = Scorer(settings), ReplayBuffer(settings)

    def roll_out():
        buffer.put(scorer.score(generator.generate(*task.sample(settings.batch, rng))))

    generator.update_weights(learner.get_weights())
    roll_out()
    report.start()
    for step in range(1, args.steps + 1):
        batch = buffer.sample(settings.batch)
        roll_out()
        learned = learner.step(batch)
        updated = generator.update_weights(learner.get_weights())
        evaluate = step % args.eval_every == 0 or step == args.steps
        report.add(learned, updated, *([generator.evaluate(task.held_out)] if evaluate else []))


def main() -> None:
    args = parse(__doc__)
    if args.compare:
        return compare(args, sys.argv)
    torch.set_num_threads(args.threads)  # the driver's own: left alone, its OpenMP threads would spin beside the actors
    names = Settings.__dataclass_fields__
    settings = Settings(**{name: getattr(args, name) for name in names})
    report = Report(args)
    with report:
        if args.plain:
            train_plain(args, settings, report)
        else:
            ray = importlib.import_module(args.engine)
            ray.init(**({"include_dashboard": False, "logging_level": "ERROR"} if args.engine == "ray" else {}))
            try:
                train(ray, args, settings, report)
            finally:
                ray.shutdown()
    result = report.result()
    if args.json:
        save_json(result, args.json)
    if args.png:
        save_png(result, args.png)
        print(f"picture: {args.png}")


if __name__ == "__main__":
    main()
