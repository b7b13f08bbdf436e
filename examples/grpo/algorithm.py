"""GRPO without actors: the two inputs, the policies, and the arithmetic of one update.

Everything here is an ordinary function or value of one process, so it can be tested as such, and a run with
actors and a run without them (`--plain`) do the same arithmetic in the same order.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Settings:
    """What every actor of one run must agree on."""

    input: str  # a key of INPUTS
    width: int  # hidden units of the policy
    batch: int  # questions per step
    group: int  # answers drawn for each question
    replay: int  # rollouts that the replay buffer keeps
    lr: float
    clip: float  # how far the probability ratio counts, either side of 1
    seed: int
    device: str
    threads: int  # torch threads per process


class Compass:
    """Which of eight compass directions is closest to a 2-D unit vector? (A toy problem.)"""

    directions = ("W", "NW", "N", "NE", "E", "SE", "S", "SW")
    width, lr, steps = 64, 3e-3, 200

    def __init__(self) -> None:
        self.held_out = self.sample(1024, torch.Generator().manual_seed(0))

    @staticmethod
    def vectors() -> Tensor:
        """The directions as unit vectors, [8, 2], x to the east and y to the north."""
        angles = math.pi - torch.arange(8) * (math.pi / 4)
        return torch.stack([angles.cos(), angles.sin()], dim=1)

    def sample(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Questions [count, 2], and what the scorer needs to judge an answer: the same vectors."""
        angles = torch.rand(count, generator=rng) * (2 * math.pi)
        questions = torch.stack([angles.cos(), angles.sin()], dim=1)
        return questions, questions

    @classmethod
    def rewards(cls, truths: Tensor, actions: Tensor) -> Tensor:
        """Cosine of the angle between the vector and the chosen direction, [batch, group]."""
        return torch.einsum("bd,bgd->bg", truths, cls.vectors()[actions])

    @classmethod
    def right(cls, truths: Tensor, actions: Tensor) -> Tensor:
        """Whether each of `actions` [batch] is the closest direction."""
        return (truths @ cls.vectors().T).argmax(dim=1) == actions

    @staticmethod
    def policy(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 8))


class Digits:
    """Which digit is this? 1,797 handwritten 8x8 images that ship inside scikit-learn; one in five is held out."""

    width, lr, steps = 1024, 2e-3, 400

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        images = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8)
        truths = torch.tensor(labels)
        # The split does not depend on --seed: every run is judged by the same images.
        order = torch.randperm(len(truths), generator=torch.Generator().manual_seed(0))
        held_out, training = order[: len(order) // 5], order[len(order) // 5 :]
        self.held_out = images[held_out], truths[held_out]
        self._images, self._truths = images[training], truths[training]

    def sample(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images [count, 1, 8, 8] in 0..1, and their digits [count]."""
        chosen = torch.randint(len(self._truths), (count,), generator=rng)
        return self._images[chosen], self._truths[chosen]

    @staticmethod
    def rewards(truths: Tensor, actions: Tensor) -> Tensor:
        """1 for the right digit, 0 for any other, [batch, group]."""
        return (actions == truths[:, None]).float()

    @staticmethod
    def right(truths: Tensor, actions: Tensor) -> Tensor:
        """Whether each of `actions` [batch] is the right digit."""
        return truths == actions

    @staticmethod
    def policy(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(1024, width),
            nn.ReLU(),
            nn.Linear(width, 10),
        )


INPUTS = {"compass": Compass, "digits": Digits}


def build_policy(settings: Settings) -> nn.Module:
    """The policy, with weights that depend on the seed alone: wherever it is built, it is the same."""
    torch.manual_seed(settings.seed)
    return INPUTS[settings.input].policy(settings.width).to(settings.device)


def draw(logits: Tensor, group: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw `group` actions for each row of `logits` [batch, actions].

    Returns the actions and their log-probabilities under this policy, both [batch, group].
    """
    logps = logits.log_softmax(dim=1)
    actions = torch.multinomial(logps.exp(), group, replacement=True, generator=rng)
    return actions, logps.gather(1, actions)


def group_advantages(rewards: Tensor) -> Tensor:
    """How much better each answer is than the others to the same question, [batch, group].

    GRPO's whole idea: the group's mean reward stands in for a learned value function. A group whose answers
    are all equally good has nothing to teach, and gets zeros.
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return centred / (rewards.std(dim=1, keepdim=True, correction=0) + 1e-4)


def grpo_loss(logits: Tensor, actions: Tensor, old_logps: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """The clipped objective, negated, as a scalar.

    `old_logps` are those of the policy that drew the actions, which is older than the one that gave `logits`.
    Beyond 1 +- `clip` the ratio of the two earns nothing more, so one stale batch cannot carry the policy far.
    """
    logps = logits.log_softmax(dim=1).gather(1, actions)
    ratio = (logps - old_logps).exp()
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return -gain.mean()
