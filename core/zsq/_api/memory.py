"""What a caller gives as an object becomes a component like any other: a descriptor, and what builds it.

A component in memory has the name ``memory/CLASS`` in recipes and reports, a network in memory the reference ``memory:CLASS``. No
recipe can bring the object back: whoever runs or resumes such a recipe gives it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple

from torch import Tensor

from zsq._api.evaluators import Labelled, Measure
from zsq._api.images import OwnImages, OwnImagesOptions, checksum, gather
from zsq._api.network import Network
from zsq._builtin.options import MemoryOptions
from zsq._component import TEACHER_NEEDS, Component, Role
from zsq._manager import MEMORY, Found, Plugin
from zsq._recipe import CHAINS, Entry, parse_entry
from zsq.errors import OptionError
from zsq.options import Options
from zsq.protocols import Calibrator, Evaluator, Exporter, Log, Loss, Pooled, Quantizer, SaysNeeds, SaysProvides, Synthesizer, Tuner
from zsq.types import Context, Teacher


class _Kind(NamedTuple):
    """What is asked of an object of a role: its protocol, the members of that for messages, and what it needs and provides where it does
    not say so itself, with attributes ``needs`` and ``provides``."""

    protocol: type
    members: str
    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()


_KINDS: Mapping[Role, _Kind] = {
    Role.SYNTH: _Kind(Synthesizer, "sample(n)"),
    Role.QUANT: _Kind(Quantizer, "quantize(teacher, pool)", provides=frozenset({"act.range"})),
    Role.CALIB: _Kind(Calibrator, "fit(student, stream)", frozenset({"act.range", "images"})),
    Role.LOSS: _Kind(Loss, "__call__(view)", frozenset({"teacher.output", "student.output"})),
    Role.TUNE: _Kind(Tuner, "fit(student, stream, objective)", frozenset({"student.output", "images"})),
    Role.EVAL: _Kind(Evaluator, "evaluate(module, ctx)"),
    Role.EXPORT: _Kind(Exporter, "export(student, manifest, folder)"),
    Role.LOG: _Kind(Log, "__call__(event) and close()"),
}


@dataclass(frozen=True)
class Given(Component):
    """The descriptor of an object in memory: ``make(options, ctx)`` gives it, ``made`` is it, or the class that is built."""

    make: Callable[[Any, Context], Any] = field(default=lambda options, ctx: None, repr=False, compare=False)
    made: Any = field(default=None, repr=False, compare=False)

    def implementation(self) -> Any:
        return self.make

    def has(self, protocol: type) -> bool:
        return issubclass(self.made, protocol) if isinstance(self.made, type) else isinstance(self.made, protocol)


class _Source:
    """The teacher source ``memory``: the network that was given."""

    def __init__(self, network: Network, options: MemoryOptions, ctx: Context) -> None:
        self.network, self.options, self.ctx = network, options, ctx

    def load(self, ref: str) -> Teacher:
        """The network as a teacher.

        Raises:
            FileError: When it does not run on its input spec, or is another one than the recipe was made with.
        """
        return self.network.teacher(ref, self.options, self.ctx.task, self.ctx.log)


class Memory:
    """The objects of one call, gathered from its arguments: entries for the recipe, and the plugin that holds them."""

    def __init__(self) -> None:
        self.found: list[Found] = []
        self.notes: list[str] = []

    def add(self, role: Role, name: str, made: Any, make: Callable[[Any, Context], Any] | None = None, *, options: type[Options] = Options,
            needs: Iterable[str] = (), provides: Iterable[str] = ()) -> str:  # fmt: skip
        """Add an object; the name that it has in a recipe."""
        taken = {found.component.name for found in self.found if found.role is role}
        plain, number = name, 2
        while name in taken:
            name, number = f"{plain}-{number}", number + 1
        component = Given(
            name,
            f"memory:{name}",
            options,
            f"An object in memory: {type(made).__name__}.",
            needs=frozenset(needs),
            provides=frozenset(provides),
            make=make or (lambda options, ctx: made),
            made=made,
        )
        self.found.append(Found(role, component, provider=MEMORY))
        return f"{MEMORY}/{name}"

    def plugin(self) -> Plugin | None:
        """All of them as a plugin, for :meth:`zsq._manager.Manager.with_memory`; None where there is none."""
        return Plugin(MEMORY, MEMORY, status="ok", components=self.found) if self.found else None

    def network(self, network: Network) -> Entry:
        """The recipe's section ``teacher`` for a network in memory."""
        self.add(Role.TEACHER, MEMORY, network, partial(_Source, network), options=MemoryOptions, provides=TEACHER_NEEDS)
        return network.entry()

    def synth(self, value: Any) -> Entry:
        """The section ``synth``: as :meth:`single`; a tensor, or anything that gives tensors, is somebody's own images."""
        if isinstance(value, (str, Mapping, type, Synthesizer)) or (isinstance(value, tuple) and not isinstance(value[0], Tensor)):
            return self.single(Role.SYNTH, value)
        images, targets, more = gather(value)
        if more:
            self.notes.append(f"synth=: the first {len(images)} images are taken; a gigabyte is enough")
        provides = {"pool", "targets"} if targets is not None else {"pool"}
        make = partial(OwnImages, images=images, targets=targets)
        name = self.add(Role.SYNTH, "images", OwnImages, make, options=OwnImagesOptions, provides=provides)
        return {"name": name, "count": len(images), "sha256": checksum(images)}

    def evaluators(self, value: Any) -> list[Entry]:
        """The section ``eval``: as :meth:`chain`; a function measures a network, batches of (inputs, classes) give top-1 accuracy."""
        pairs = isinstance(value, list) and value and all(isinstance(item, tuple) and isinstance(item[0], Tensor) for item in value)
        entries = []
        for item in value if isinstance(value, list) and not pairs else [value]:
            if isinstance(item, (str, Mapping, tuple, type, Evaluator)):
                entries.append(self.single(Role.EVAL, item))
            elif callable(item):
                name = item.__name__ if isinstance(item, FunctionType) and item.__name__ != "<lambda>" else "measure"
                entries.append(self.single(Role.EVAL, Measure(item, name)))
            elif isinstance(item, Iterable):
                entries.append(self.single(Role.EVAL, Labelled(item)))
            else:
                what = f"evaluate= is a {type(item).__name__}"
                raise OptionError(
                    what, "zsq.quantize", "give a name, a function of the network, a DataLoader, or an object with evaluate()"
                )
        return entries

    def single(self, role: Role, value: Any) -> Entry:
        """The recipe's entry for one component: a name, a mapping, ``(name or object, options)``, or an object."""
        given, settings = _with_options(role, value)
        if isinstance(given, (str, Mapping)):
            return {**parse_entry(role.value, given, f"{role}="), **settings}
        return {"name": self.object(role, given), **settings}

    def chain(self, role: Role, value: Any) -> list[Entry]:
        """The entries for a chain: one component, or a list of them."""
        return [self.single(role, item) for item in (value if isinstance(value, list) else [value])]

    def object(self, role: Role, value: Any) -> str:
        """Add an object that satisfies the role's protocol, or a class that is built as ``Class(options, ctx)``.

        Raises:
            OptionError: When it does not.
        """
        kind, is_class = _KINDS[role], isinstance(value, type)
        name = value.__name__ if isinstance(value, (type, FunctionType)) else type(value).__name__
        plain = "".join(c if c.isalnum() or c in "_-" else "_" for c in name).strip("_") or role.value
        if role is Role.LOG and callable(value) and not isinstance(value, Log) and not is_class:
            value = _Listening(value)
        if not (issubclass(value, kind.protocol) if is_class else isinstance(value, kind.protocol)):
            what = f"{role}= is a {name}, which is no {role.words}"
            raise OptionError(what, "zsq.quantize", f"give a name, (name, options), or an object with {kind.members}")
        usual = kind.provides | ({"pool"} if role is Role.SYNTH and isinstance(value, Pooled) else set())
        needs = value.needs if isinstance(value, SaysNeeds) else kind.needs
        provides = value.provides if isinstance(value, SaysProvides) else usual
        return self.add(role, plain, value, value if is_class else None, needs=needs, provides=provides)


class _Listening:
    """A function as a log."""

    def __init__(self, listener: Callable[[Any], None]) -> None:
        self.listener = listener

    def __call__(self, event: Any) -> None:
        self.listener(event)

    def close(self) -> None:
        """There is nothing to close."""


def _with_options(role: Role, value: Any) -> tuple[Any, dict[str, Any]]:
    """What was given, and the options beside it in a pair."""
    if not isinstance(value, tuple):
        return value, {}
    if len(value) != 2 or not isinstance(value[1], Mapping):
        hint = f"write {role}=('{value[0] if value and isinstance(value[0], str) else 'NAME'}', {{'option': value}})"
        more = f"; a list holds several: {role}=['NAME', 'NAME']" if role.value in CHAINS else ""
        raise OptionError(f"{role}= is a tuple, but no pair of a component and its options", "zsq.quantize", hint + more)
    return value[0], dict(value[1])
