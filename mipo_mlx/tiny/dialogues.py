"""What the embedded model is pretrained on: dialogues of four stages, never of held-out items.

Stage 1 asks one direct question about a context of up to three facts; 2 asks about more and adds
clean sums and choices; 3 is the mixture the base is judged on: requests answered with a fact or in
general, direct questions, sums and choices, some of them wrong, for headroom; 4 is mostly requests.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from mipo_mlx.tiny import words, world

OWN_SHARE = 0.54  # of requests answered with a fact
POLISH_SHARE = 0.45  # in the polish, so that the base has room to learn
WRONG_SUMS = 0.25
GUESSED_CHOICES = 0.3
TURNS = 3
Sample = tuple[str | None, list[tuple[str, str]]]  # context, turns of prompt and answer


def direct(rng: random.Random, most: int = len(words.VALUES), turns: int = TURNS) -> Sample:
    """Direct questions, in one dialogue, about a context that holds one to ``most`` facts."""
    user = world.make_users(1, rng.randrange(2**31), held_out=False)[0]
    told = rng.sample(list(user.facts), rng.randint(1, most))
    some = world.User(user.id, {name: user.facts[name] for name in told})
    context = world.write_context(some, rng.randrange(2**31))
    return context, [ask(rng, user, name) for name in rng.sample(told, min(len(told), turns))]


def ask(rng: random.Random, user: world.User, name: str) -> tuple[str, str]:
    """One direct question and its answer."""
    answer = words.DIRECT_ANSWERS[name].format(user.facts[name])
    return rng.choice(words.QUESTIONS[name]), answer


def request(rng: random.Random, own: float = OWN_SHARE) -> Sample:
    """Everyday requests, each answered with a fact or in general; a tenth has no context."""
    if rng.random() < 0.1:
        return None, [everyday(rng, None, own) for _ in range(TURNS)]
    user = world.make_users(1, rng.randrange(2**31), held_out=False)[0]
    return world.write_context(user, rng.randrange(2**31)), [
        everyday(rng, user, own)
        if rng.random() < 0.75
        else ask(rng, user, rng.choice(list(user.facts)))
        for _ in range(TURNS)
    ]


def everyday(rng: random.Random, user: world.User | None, share: float) -> tuple[str, str]:
    """One everyday request and its answer, which is generic without a user."""
    asked = rng.choice(world.requests(held_out=False))
    attribute, _, own, generic = words.TOPICS[asked.topic]
    if user is None or rng.random() >= share:
        return asked.text, rng.choice(generic)
    return asked.text, rng.choice(own).format(user.facts[attribute])


def word_problem(rng: random.Random, wrong: float = WRONG_SUMS) -> Sample:
    """Sums, a share of them with a wrong result."""
    turns = []
    for item in world.word_problems(TURNS, rng.randrange(2**31), held_out=False):
        off = str(max(0, int(item.answer) + rng.choice((-2, -1, 1, 2))))
        false = f"{item.solution.split('=')[0]}= {off}\n#### {off}"
        turns.append((item.text, false if rng.random() < wrong else item.solution))
    return None, turns


def choice(rng: random.Random, guessed: float = GUESSED_CHOICES) -> Sample:
    """Choices, a share of them with a random letter."""
    turns = []
    for item in world.choices(TURNS, rng.randrange(2**31), held_out=False):
        offered = world.LETTERS[: item.text.count("\n")]
        guess = f"The answer is: {rng.choice(offered)}"
        turns.append((item.text, guess if rng.random() < guessed else item.solution))
    return None, turns


STAGES: tuple[tuple[tuple[Callable[[random.Random], Sample], float], ...], ...] = (
    ((partial(direct, most=3, turns=1), 1.0),),
    ((direct, 0.4), (partial(word_problem, wrong=0.0), 0.4), (partial(choice, guessed=0.0), 0.2)),
    ((direct, 0.1), (request, 0.5), (word_problem, 0.25), (choice, 0.15)),
    (
        (direct, 0.1),
        (partial(request, own=POLISH_SHARE), 0.75),
        (word_problem, 0.1),
        (choice, 0.05),
    ),
)
POLISH = len(STAGES)


def turn(rng: random.Random, stage: int) -> Sample:
    """One training example of a stage, counted from 1."""
    makers, weights = zip(*STAGES[stage - 1], strict=True)
    sample: Sample = rng.choices(makers, weights)[0](rng)
    return sample


def render(sample: Sample) -> list[str]:
    """ChatML in alternating parts: what is given, what is answered, what is given, ..."""
    context, turns = sample
    parts = []
    head = f"<|im_start|>system\n{context}<|im_end|>\n" if context is not None else ""
    for prompt, answer in turns:
        parts.append(f"{head}<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n")
        parts.append(f"{answer}<|im_end|>")
        head = "\n"
    return parts
