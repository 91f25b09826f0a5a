"""The teacher source ``hub``: loads networks from the Hugging Face Hub."""

from __future__ import annotations

import zsq
from zsq.errors import ComponentError, FileError
from zsq.options import InputOptions
from zsq.protocols import Reader
from zsq.teachers import teacher_from
from zsq.types import Context, Teacher
from zsq_hub.fetch import fetch
from zsq_hub.repository import Repository, library_of


class Hub:
    """Loads ``hub:ORG/NAME[@REVISION]``: a zsq student, or a network of a library that an installed reader knows."""

    def __init__(self, options: InputOptions, ctx: Context) -> None:
        self.options, self.ctx = options, ctx

    def load(self, ref: str) -> Teacher:
        """The network as a teacher; its reference names the commit, so that a recipe made with it stays the same.

        Raises:
            HubError, FileError: As :func:`zsq_hub.fetch.fetch`, or when its files are damaged.
            ComponentError: If it is of a library that no installed plugin reads.
        """
        repository = Repository.open(ref)
        if (library := library_of(repository.config)) != "zsq":
            return self._reader(library, repository.ref).read(repository)
        spec = repository.config.get("inputs")
        if not isinstance(spec, dict):
            raise FileError("the student does not say what its inputs are", repository.ref, "it was saved without an input spec")
        module = zsq.load(fetch(f"{repository.name}@{repository.commit}"))
        return teacher_from(module, repository.ref, self.options.over(spec), None, where=repository.ref, license=repository.license())

    def _reader(self, library: str, where: str) -> Reader:
        """What reads the repositories of ``library``, with those of this source's options that were set."""
        if not library:
            what = "config.json does not say what network it describes"
            raise ComponentError(what, where, "`zsq plugins list --role reader` shows what can be read here")
        values = {name: value for name, value in self.options.to_dict().items() if value is not None}
        try:
            reader: Reader = self.ctx.find("reader", library, values)
        except ComponentError as error:
            raise ComponentError(error.what, error.where or where, error.hint) from error
        return reader
