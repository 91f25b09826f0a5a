"""Qimera (Choi et al., NeurIPS 2021, arXiv 2111.02625): GDFQ's generator with superposed latent embeddings as input.

Light: descriptors and options only. The differences to GDFQ are in ``zsq_qimera.synth``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from zsq_gdfq import PAPER_SCHEDULE, SHORT, GeneratorOptions

from zsq import Component, hookimpl, opt


@dataclass(frozen=True, kw_only=True)
class QimeraOptions(GeneratorOptions):
    superpose: float = opt(0.4, "Probability that a batch is superposed, decided once for the whole batch.", ge=0, le=1)
    mixed: int | None = opt(
        None, "Number of classes superposed in one image, drawn with replacement; by default a tenth of the classes, at least 2.", ge=1
    )
    noise: float = opt(1.0, "Standard deviation of the noise added to a class's embedding.", ge=0)
    embedding: Literal["auto", "teacher", "random"] = opt(
        "random",
        "Initial class embeddings. teacher: the weight rows of its last layer; random; auto: the teacher's if they fit, else random.",
    )
    freeze_embedding: bool = opt(False, "Do not train the class embeddings.")
    latent_dim: int | None = opt(None, "Length of an embedding; by default the input width of the teacher's last layer, else 100.", ge=1)
    mapping: bool = opt(True, "Disentanglement mapping: a linear layer between embedding and generator.")
    mapping_dim: int = opt(100, "Output width of the disentanglement mapping.", ge=1)
    norm: Literal["paper", "released"] = opt(
        "paper",
        "How the noisy embeddings of a superposed batch are standardised. paper: each alone, as in a batch of single classes; "
        "released: all images of a batch together, slot by slot, as the authors' code does.",
    )
    conditioning: Literal["auto", "plain", "cbn"] = opt(
        "auto",
        "Whether every class also has its own BatchNorm scale and shift (cbn, the authors' ImageNet generator); auto from 64 pixels on.",
    )
    cbn_mix: Literal["sum", "mean"] = opt(
        "sum",
        "How scale and shift of several classes are mixed. sum: weighted sum, as the paper means; "
        "mean: also divided by their number, as the authors' code does.",
    )


@hookimpl
def zsq_synthesizers() -> Iterator[Component]:
    yield Component(
        "qimera",
        "zsq_qimera.synth:Qimera",
        QimeraOptions,
        "A generator that also makes images between the classes, from superposed latent embeddings.",
        presets={
            "qimera-paper": {"embedding": "teacher", **PAPER_SCHEDULE},
            "qimera-released": {"embedding": "random", "mapping": False, "norm": "released", "cbn_mix": "mean", **PAPER_SCHEDULE},
        },
        needs={"classes", "teacher.output", "teacher.bn"},
        provides={"targets"},
        paper="NeurIPS 2021, arXiv 2111.02625",
        suggests=SHORT,
    )
