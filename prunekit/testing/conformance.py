"""One line that checks a stage against all the laws of its kind.

def test_my_stage():
    conformance(MyStage())
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from prunekit.errors import ConfigError, UnknownName, nearest
from prunekit.stages import Merger, Selector
from prunekit.testing.laws import LAWS, Case, Law, Subject, kind_of
from prunekit.testing.strategies import choices, merges, token_sets

NONE: Mapping[str, str] = MappingProxyType({})


def conformance(subject: Subject, exempt: Mapping[str, str] = NONE, *, examples: int = 25) -> None:
    """Holds a stage, or a whole pipeline, to every law of its kind on many made-up cases.

    The cases are the same on every run. Some laws are not for every stage: a selector that does not look at
    scores cannot break ties by index. Such a law is exempted by name with a reason; an exempted law that
    turns out to hold fails too, so that exemptions do not outlive their reason.

    Args:
        subject: The stage or pipeline.
        exempt: Law → why it does not apply.
        examples: How many cases to try for each law.

    Raises:
        AssertionError: A law is broken, or an exempted one holds.
        UnknownName: There is no law of an exempted name for this kind.
        ConfigError: An exemption gives no reason.
    """
    laws = {law.__name__: law for law in LAWS[kind_of(subject)]}
    for name, reason in exempt.items():
        if name not in laws:
            raise UnknownName(f"There is no law {name!r} for {kind_of(subject)}. {nearest(name, laws)}")
        if not reason.strip():
            raise ConfigError(f"Say why the law {name!r} does not apply: exempt={{{name!r}: 'because …'}}.")
    for name, law in laws.items():
        if name not in exempt:
            holds(law, subject, examples=examples)
        elif not _breaks(law, subject, examples):
            raise AssertionError(
                f"The law {name!r} holds, though it is exempted ({exempt[name]}): remove the exemption."
            )


def holds(law: Law, subject: Subject, *, examples: int = 25) -> None:
    """Holds a stage to one law; `prunekit.testing.LAWS` has them by kind.

    Raises:
        AssertionError: The law is broken; the smallest case that breaks it is in the notes.
    """
    _try(law, subject, examples, (Phase.generate, Phase.shrink))


def _breaks(law: Law, subject: Subject, examples: int) -> bool:
    try:
        _try(law, subject, 5 * examples, (Phase.generate,))
    except AssertionError:
        return True
    return False


def _try(law: Law, subject: Subject, examples: int, phases: tuple[Phase, ...]) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=phases,
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
    )
    @given(case=_cases(subject))
    def on_many(case: Case) -> None:
        law(subject, case)

    on_many()


def _cases(subject: Subject) -> SearchStrategy[Case]:
    if isinstance(subject, Selector):
        return choices(needs=subject.needs)
    if isinstance(subject, Merger):
        return merges(needs=subject.needs, after=subject.after)
    return token_sets(needs=subject.needs)
