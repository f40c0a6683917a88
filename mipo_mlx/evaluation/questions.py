"""What base and adapter are asked, in groups of conditions that are each other's wrong ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mipo_mlx.config import EvalConfig, GenerateConfig
from mipo_mlx.generation.answers import answer_key
from mipo_mlx.types import Context, Progress, Prompt


@dataclass(frozen=True)
class Item:
    """One condition to answer under: a context (or none) and a prompt."""

    context: Context | None
    prompt: Prompt

    @property
    def key(self) -> str:
        return answer_key(self.context.id if self.context else "", self.prompt.id)

    @property
    def cluster(self) -> str:
        """Unit of resampling: the user, or the prompt where there is no user."""
        return self.context.owner if self.context else self.prompt.id


@dataclass(frozen=True)
class Group:
    """Conditions that are each other's wrong ones.

    Attributes:
        items: each is answered under.
        others: further wrong contexts of the first item's prompt, under which nothing is answered.
    """

    items: list[Item]
    others: list[Context] = field(default_factory=list)

    @property
    def conditions(self) -> list[Item]:
        """The items, then what else their answers are scored under."""
        return self.items + [Item(context, self.items[0].prompt) for context in self.others]


@dataclass(frozen=True)
class Questions:
    """What both models are asked, and how.

    Attributes:
        groups: conditions that are each other's wrong ones.
        known: values of everybody's facts.
        generate: how answers are sampled.
        seed: of the sampling.
        on_progress: told of stages.
    """

    groups: Sequence[Group]
    known: frozenset[str]
    generate: GenerateConfig
    seed: int
    on_progress: Progress

    @property
    def items(self) -> list[Item]:
        """In the order of the groups."""
        return [item for group in self.groups for item in group.items]


def context_groups(
    contexts: Sequence[Context],
    prompts: Sequence[Prompt],
    config: EvalConfig,
    foils: Sequence[Context] = (),
) -> list[Group]:
    """Groups of M users who answer the same prompt; prompts rotate from group to group.

    Every group has between 2 and 2 M - 1 users, at most one context of each; where there are no
    two users left for one, contexts of others and ``foils`` stand in as wrong ones.
    """
    users = list(contexts)
    if config.eval_contexts:
        users = users[: config.eval_contexts]
    each = config.eval_prompts_per_context or len(prompts)
    each = min(each, len(prompts))
    groups = []
    for index, team in enumerate(_teams(users, config.candidates)):
        others: list[Context] = []
        if len(team) == 1:
            strangers = [c for c in [*users, *foils] if c.owner != team[0].owner]
            others = list({c.owner: c for c in strangers}.values())[: config.candidates - 1]
        for turn in range(each):
            prompt = prompts[(index * each + turn) % len(prompts)]
            groups.append(Group([Item(user, prompt) for user in team], others))
    return groups


def _teams(contexts: Sequence[Context], size: int) -> list[list[Context]]:
    """Contexts in teams of ``size`` different users; the last of a round takes what is left over.

    The first round has one context of each user, the second another of those who have more.
    """
    rounds: list[list[Context]] = []
    seen: dict[str, int] = {}
    for context in contexts:
        turn = seen[context.owner] = seen.get(context.owner, -1) + 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append(context)
    teams = []
    for members in rounds:
        width = min(size, len(members))
        starts = range(0, len(members) - width + 1, width)
        teams += [members[start : start + width] for start in starts]
        teams[-1] += members[starts[-1] + width :]
    return teams


def prompt_groups(prompts: Sequence[Prompt], config: EvalConfig) -> list[Group]:
    """Groups of M prompts without context, each the wrong condition of the others' answers."""
    size = min(config.candidates, len(prompts))
    starts = list(range(0, len(prompts) - size + 1, size))
    teams = [list(prompts[start : start + size]) for start in starts]
    teams[-1] += prompts[starts[-1] + size :]
    return [Group([Item(None, prompt) for prompt in team]) for team in teams]


def known_values(contexts: Sequence[Context]) -> frozenset[str]:
    """Values of all facts of all contexts."""
    return frozenset(value for context in contexts for value in context.facts.values())
