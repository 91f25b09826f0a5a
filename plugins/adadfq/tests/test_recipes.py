"""The presets and recipes of AdaDFQ: the published constants, the authors' schedule, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from zsq_adadfq import AdadfqOptions, zsq_synthesizers

from zsq import Recipe
from zsq.errors import OptionError, PlanError
from zsq.testing.world import Manager, compose

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
COMPONENT = next(zsq_synthesizers())


def test_wrong_1_the_students_loss_is_the_entropy_only() -> None:
    """No cross-entropy and no divergence beside it, in what is suggested and in every recipe."""
    manager = Manager.discover()
    plans = [compose(Recipe.from_dict({"synth": "adadfq"}), manager)]
    plans += [compose(Recipe.from_dict(yaml.safe_load(path.read_text())), manager) for path in RECIPES]
    assert len(plans) > 10
    for plan in plans:
        assert [(loss.name, loss.weight) for loss in plan.losses] == [("logit-entropy", 1.0)]


@pytest.mark.parametrize(
    ("preset", "constants"),
    [
        ("adadfq-paper", (0.2, 0.1, 0.1, 0.8)),
        ("adasg", (0.1, 0.1, 0.3, 0.8)),
        ("adasg-paper", (0.1, 0.1, 0.3, 0.8)),
        ("adadfq-resnet18-w3", (0.2, 0.1, 0.1, 0.8)),
        ("adadfq-resnet18-w4", (0.2, 0.1, 0.3, 0.8)),
        ("adadfq-resnet18-w5", (0.3, 0.1, 0.3, 0.8)),
        ("adadfq-resnet50-w3", (0.2, 0.1, 0.4, 0.8)),
        ("adadfq-resnet50-w4", (0.1, 0.1, 0.3, 0.8)),
        ("adadfq-resnet50-w5", (0.2, 0.1, 0.3, 0.8)),
        ("adadfq-mobilenetv2-w3", (0.2, 0.1, 0.1, 0.8)),
        ("adadfq-mobilenetv2-w4", (0.3, 0.1, 0.1, 0.8)),
        ("adadfq-mobilenetv2-w5", (0.2, 0.1, 0.1, 0.8)),
    ],
)
def test_presets_have_the_published_constants(preset: str, constants: tuple[float, ...]) -> None:
    o = AdadfqOptions.parse(COMPONENT.presets[preset])
    assert (o.alpha_ds, o.alpha_as, o.lambda_l, o.lambda_u) == constants and (o.beta, o.lr, o.betas) == (1.0, 1e-3, (0.5, 0.999))


@pytest.mark.parametrize("path", [p for p in RECIPES if "short" not in p.stem], ids=lambda path: path.stem)
def test_wrong_8_and_10_recipes_have_the_authors_batch_and_schedule(path: Path) -> None:
    """Batch 16 on CIFAR too; 80,000 iterations in all; generator and student slow down at the same iterations."""
    recipe = yaml.safe_load(path.read_text())
    plan = compose(Recipe.from_dict(recipe), Manager.discover())
    synth, tune = plan.synth.options, plan.tuner.options
    before = synth.warmup + plan.calibrators[0].options.batches
    assert plan.run.batch_size == 16 and before + tune.steps == 80_000
    assert before == {"resnet50-w3a3": 20_000}.get(path.stem.removeprefix("imagenet-"), 10_000 if "imagenet" in path.stem else 800)
    assert tuple(step - before for step in synth.milestones) == tune.milestones
    assert (tune.optimizer, tune.momentum, tune.nesterov, tune.weight_decay, tune.range_lr) == ("sgd", 0.9, True, 1e-4, 0)
    assert tune.lr == (1e-5 if "resnet18" in path.stem or "mobilenetv2" in path.stem else 1e-4)
    assert plan.losses[0].options.temperature == (5.0 if "imagenet" in path.stem else 20.0)
    bits = int(path.stem[-1])
    assert (plan.quant.options.weight_bits, plan.quant.options.act_bits) == (bits, bits)


def test_an_empty_band_is_refused() -> None:
    with pytest.raises(OptionError, match="band is empty"):
        AdadfqOptions.parse({"lambda_l": 0.9})


def test_it_makes_no_pool_for_a_quantizer() -> None:
    manager = Manager.discover()
    pooled = [f for f in manager.components() if f.role == "quant" and "pool" in f.component.needs]
    if not pooled:
        pytest.skip("no quantizer here wants a pool")
    with pytest.raises(PlanError, match=r"needs student\.output to make images"):
        compose(Recipe.from_dict({"synth": "adadfq", "quant": pooled[0].component.name}), manager)
