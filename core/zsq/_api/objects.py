"""Turns objects that a caller passes to ``zsq.quantize`` into components and recipe entries.

An object has the name ``memory/CLASS`` in recipes and reports, a network the reference ``memory:CLASS``. A recipe cannot bring the
object back: to run or resume it, pass the object again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple

from torch import Tensor

from zsq._builtin.in_memory import (
    Labelled,
    Listener,
    Measure,
    Network,
    NetworkSource,
    OwnImages,
    OwnImagesOptions,
    checksum,
    read_images,
)
from zsq._builtin.options import MemoryOptions
from zsq._component import TEACHER_NEEDS, Component, Role
from zsq._plugin import MEMORY, Found, Plugin
from zsq._recipe import CHAINS, Entry, parse_entry
from zsq.errors import OptionError
from zsq.options import Options
from zsq.protocols import Calibrator, Evaluator, Exporter, Log, Loss, Pooled, Quantizer, SaysNeeds, SaysProvides, Synthesizer, Tuner
from zsq.types import Context


class _Kind(NamedTuple):
    """What an object of a role must have, its members for messages, and its needs and provides unless it has attributes of these names."""

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
class InMemory(Component):
    """The descriptor of an object in memory: ``make(options, ctx)`` returns it; ``made`` is it, or its class."""

    make: Callable[[Any, Context], Any] = field(default=lambda options, ctx: None, repr=False, compare=False)
    made: Any = field(default=None, repr=False, compare=False)

    def implementation(self) -> Any:
        return self.make

    def has(self, protocol: type) -> bool:
        return issubclass(self.made, protocol) if isinstance(self.made, type) else isinstance(self.made, protocol)


class Objects:
    """The objects of one call: their recipe entries, and the plugin that holds them."""

    def __init__(self) -> None:
        self.found: list[Found] = []
        self.notes: list[str] = []

    def add(self, role: Role, name: str, made: Any, make: Callable[[Any, Context], Any] | None = None, *, options: type[Options] = Options,
            needs: Iterable[str] = (), provides: Iterable[str] = ()) -> str:  # fmt: skip
        """Add an object; returns its name in a recipe."""
        taken = {found.component.name for found in self.found if found.role is role}
        plain, number = name, 2
        while name in taken:
            name, number = f"{plain}-{number}", number + 1
        summary, make = f"An object in memory: {type(made).__name__}.", make or (lambda options, ctx: made)
        component = InMemory(
            name, f"memory:{name}", options, summary, needs=frozenset(needs), provides=frozenset(provides), make=make, made=made
        )
        self.found.append(Found(role, component, provider=MEMORY))
        return f"{MEMORY}/{name}"

    def plugin(self) -> Plugin | None:
        """All of them as a plugin, for :meth:`zsq._manager.Manager.with_memory`; None if there are none."""
        return Plugin(MEMORY, MEMORY, status="ok", components=self.found) if self.found else None

    def network(self, network: Network) -> Entry:
        """The section ``teacher`` for a network in memory."""
        self.add(Role.TEACHER, MEMORY, network, partial(NetworkSource, network), options=MemoryOptions, provides=TEACHER_NEEDS)
        return network.entry()

    def synth(self, value: Any) -> Entry:
        """The section ``synth``: as :meth:`single`; a tensor or an iterable of tensors is the caller's own images."""
        if isinstance(value, (str, Mapping, type, Synthesizer)) or (isinstance(value, tuple) and not isinstance(value[0], Tensor)):
            return self.single(Role.SYNTH, value)
        images, targets, more = read_images(value)
        if more:
            self.notes.append(f"synth=: only the first {len(images)} images (1 GB) are used")
        provides = {"pool", "targets"} if targets is not None else {"pool"}
        make = partial(OwnImages, images=images, targets=targets)
        name = self.add(Role.SYNTH, "images", OwnImages, make, options=OwnImagesOptions, provides=provides)
        return {"name": name, "count": len(images), "sha256": checksum(images)}

    def evaluators(self, value: Any) -> list[Entry]:
        """The section ``eval``: as :meth:`chain`; a function measures a network, batches of (inputs, classes) give top-1 accuracy."""
        pairs = isinstance(value, list) and value and all(isinstance(item, tuple) and isinstance(item[0], Tensor) for item in value)
        entries = []
        for item in value if isinstance(value, list) and not pairs else [value]:
            if not isinstance(item, (str, Mapping, tuple, type, Evaluator)):
                if callable(item):
                    named = isinstance(item, FunctionType) and item.__name__ != "<lambda>"
                    item = Measure(item, item.__name__ if named else "measure")
                elif isinstance(item, Iterable):
                    item = Labelled(item)
                else:
                    hint = "pass a name, a function of the network, a DataLoader, or an object with evaluate()"
                    raise OptionError(f"evaluate= is a {type(item).__name__}", "zsq.quantize", hint)
            entries.append(self.single(Role.EVAL, item))
        return entries

    def single(self, role: Role, value: Any) -> Entry:
        """The recipe entry of one component: a name, a mapping, ``(name or object, options)``, or an object."""
        settings: dict[str, Any] = {}
        if isinstance(value, tuple):
            if len(value) != 2 or not isinstance(value[1], Mapping):
                hint = f"write {role}=('{value[0] if value and isinstance(value[0], str) else 'NAME'}', {{'option': value}})"
                more = f"; a list holds several: {role}=['NAME', 'NAME']" if role.value in CHAINS else ""
                raise OptionError(f"{role}= is a tuple, but not a pair of a component and its options", "zsq.quantize", hint + more)
            value, settings = value[0], dict(value[1])
        if isinstance(value, (str, Mapping)):
            return {**parse_entry(role.value, value, f"{role}="), **settings}
        return {"name": self.object(role, value), **settings}

    def chain(self, role: Role, value: Any) -> list[Entry]:
        """The entries of one component, or of a list of them."""
        return [self.single(role, item) for item in (value if isinstance(value, list) else [value])]

    def object(self, role: Role, value: Any) -> str:
        """Add an object that satisfies the role's protocol, or a class that is built as ``Class(options, ctx)``.

        Raises:
            OptionError: If it does not satisfy the protocol.
        """
        kind, is_class = _KINDS[role], isinstance(value, type)
        name = value.__name__ if isinstance(value, (type, FunctionType)) else type(value).__name__
        plain = "".join(c if c.isalnum() or c in "_-" else "_" for c in name).strip("_") or role.value
        if role is Role.LOG and callable(value) and not isinstance(value, Log) and not is_class:
            value = Listener(value)
        if not (issubclass(value, kind.protocol) if is_class else isinstance(value, kind.protocol)):
            hint = f"pass a name, (name, options), or an object with {kind.members}"
            raise OptionError(f"{role}= is a {name}, which is not a {role.words}", "zsq.quantize", hint)
        usual = kind.provides | ({"pool"} if role is Role.SYNTH and isinstance(value, Pooled) else set())
        needs = value.needs if isinstance(value, SaysNeeds) else kind.needs
        provides = value.provides if isinstance(value, SaysProvides) else usual
        return self.add(role, plain, value, value if is_class else None, needs=needs, provides=provides)
