"""The catalogue: everything pinned, everything shaped."""

from __future__ import annotations

import re

import pytest

from benchmarks.cases import DEMO, case_inputs, locate, select_cases
from benchmarks.speed.targets import TARGETS, target_of
from benchmarks.zoo.cache import HERE
from benchmarks.zoo.catalogue import Model, UnknownModelError, load_catalogue, select
from benchmarks.zoo.inputs import load_specs

MODELS = load_catalogue()
SHA256 = re.compile(r"[0-9a-f]{64}")


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_each_file_is_pinned(model: Model) -> None:
    for member in model.files:
        assert SHA256.fullmatch(member.sha256)
        package = member.package
        # What Debian has differs by release, so only the file taken out of it can be pinned.
        if package.registry != "debian":
            assert package.version
            assert SHA256.fullmatch(package.sha256 or "")


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_each_model_has_sizes_and_says_what_its_inputs_are(model: Model) -> None:
    assert model.shapes
    names = set(model.shapes[0])
    assert names == set(load_specs(model.id))
    for shapes in model.shapes:
        assert set(shapes) == names
        assert all(size >= 1 for shape in shapes.values() for size in shape)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_each_model_is_one_file_or_has_an_exporter(model: Model) -> None:
    if model.exporter is None:
        assert len(model.files) == 1
    else:
        assert all((HERE / source).is_file() for source in model.exporter[1].sources)


def test_ids_and_groups_add_up() -> None:
    later = select(MODELS, [], "later")
    assert {model.group for model in later} == {"later"}
    assert [model.id for model in select(MODELS, ["resnet18"], "later")] == [
        name for name in MODELS if MODELS[name] in later or name == "resnet18"
    ]
    with pytest.raises(UnknownModelError, match=r"got \['resnet19'\]"):
        select(MODELS, ["resnet19"], None)


def test_no_argument_means_the_main_group_and_the_demo() -> None:
    cases = select_cases([], None)
    assert {case.id for case in cases} == {DEMO} | {
        model.id for model in MODELS.values() if model.group == "main"
    }
    assert [case.size for case in cases if case.id == "minilm_l6_v2"] == ["1x32", "1x128"]


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(UnknownModelError, match=r"fashion_mnist, got \['no_such'\]"):
        select_cases(["magika", "no_such"], None)


def test_the_demo_is_measured_on_its_own_images() -> None:
    (case,) = select_cases([DEMO], None)
    path = locate(DEMO).path
    assert path is not None
    (image,) = case_inputs(case, path).values()
    assert image.shape == case.shapes["image"]
    assert image.max() > 100  # a picture, not zeros


def test_targets_are_of_models_that_are_measured() -> None:
    assert set(TARGETS) <= {case.id for case in select_cases([], None)}
    assert target_of("resnet18", 1) == 1.9
    assert target_of("crepe_tiny", 2) == 1.0  # has no row of its own: never slower than a rival
    assert target_of("resnet18", 4) is None
