"""The check for components that can resume in the middle of their work."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from zsq._component import Role
from zsq.protocols import Resumable, Staged
from zsq.testing._kit import Case, Skip

if TYPE_CHECKING:
    from zsq.types import Teacher


def check_goes_on_where_it_was(case: Case) -> None:
    """With ``state_dict`` and ``load_state_dict``: a new instance with the restored state finishes the work bit for bit."""
    from zsq._run.checkpoints import dump, parse
    from zsq.format import restore_student, student_state
    from zsq.testing.world import make_teacher

    if not issubclass(case.implementation, Resumable):
        raise Skip("it has no state_dict and load_state_dict: a resumed run starts its work again")
    teacher = make_teacher()
    total = sum(1 for _ in _World(case, teacher).work)
    for beats in sorted({1, total - 1} - {0}):
        first = _World(case, teacher)
        list(islice(first.work, beats))
        kept = parse(dump([first.component.state_dict(), student_state(first.student), first.ctx.rng.get_state(), first.position]))
        expected = first.rest()
        second = _World(case, teacher)
        restore_student(second.student, kept[1])
        second.component.load_state_dict(kept[0])
        second.ctx.rng.set_state(kept[2])
        second.position = kept[3]
        assert second.rest() == expected, f"resumed after {beats} beats, it computes something else than without a stop"


class _World:
    """A component with its own student and stream, and its work, started or not."""

    def __init__(self, case: Case, teacher: Teacher) -> None:
        from zsq._run.stream import Stream
        from zsq.testing.world import StagedNoise
        from zsq.training import Probe

        self.student = case.student(teacher)
        self.ctx = case.context(teacher, self.student, seed=5, losses=True)
        self.component: Any = case.build(self.ctx)
        self.synth = self.component if case.role is Role.SYNTH else StagedNoise(teacher)
        self.stream = Stream(self.synth, Probe(teacher, self.ctx.precision, self.student), self.student, 4)
        if self.synth is not self.component:
            list(self.synth.prepare(self.stream.probe))
        self.work = self._work(case)

    def _work(self, case: Case) -> Iterator[Any]:
        """Beats; of a synthesizer those of its preparation, and then three batches."""
        if case.role is Role.SYNTH:
            if not self.stream.pulls and isinstance(self.component, Staged):
                yield from self.component.prepare(self.stream.probe)
            while self.stream.pulls < 3:
                yield next(self.stream)
        else:
            extra = (self.ctx.objective,) if case.role is Role.TUNE else ()
            yield from self.component.fit(self.student, self.stream, *extra)

    @property
    def position(self) -> list[int]:
        """Of the stream, and of the noise that it deals out."""
        return [self.stream.pulls, 0 if self.synth is self.component else self.synth.next]

    @position.setter
    def position(self, values: list[int]) -> None:
        self.stream.pulls = values[0]
        if self.synth is not self.component:
            self.synth.next = values[1]

    def rest(self) -> str:
        """Finish the work; returns a digest of the student, of the last batches, and of one more."""
        from zsq.format import student_state
        from zsq.testing.world import digest

        batches = [beat[0] for beat in self.work if isinstance(beat, tuple)][-1:]
        batches.append(self.synth.sample(4))
        return digest([student_state(self.student), [[batch.inputs, batch.targets] for batch in batches]])
