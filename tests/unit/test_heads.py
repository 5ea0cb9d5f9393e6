"""A head answers as its files say, and refuses files that are not what they say."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from agegender.heads.calibration import (
    ConformalIntervals,
    Familiarity,
    added_years,
    fit_temperature,
    tempered,
    year_quantiles,
)
from agegender.heads.head import (
    BadHead,
    Classes,
    HeadManifest,
    Task,
    load_head,
    read_current,
    save_head,
    set_current,
)
from agegender.heads.networks import Mlp, ResMlp, bank_logits, folded, softmax, tensor_shapes
from agegender.labels import AGE_GROUPS, YEARS, age_groups_of
from agegender.predictions import age_answers, gender_answers
from agegender.spaces import Space

from tests.support.made_heads import make_answer_wrongly

SPACE = Space(id="test-1", dimension=16)


def random_tensors(architecture: Mlp | ResMlp, members: int, outputs: int) -> dict[str, np.ndarray]:
    draws = np.random.default_rng(1)
    shapes = tensor_shapes(architecture.layers(SPACE.dimension, outputs), members, SPACE.dimension)
    tensors = {name: draws.standard_normal(shape).astype(np.float32) * 0.3 for name, shape in shapes.items()}
    tensors["input.std"] = np.abs(tensors["input.std"]) + 0.5
    return tensors


def manifest(architecture: Mlp | ResMlp, classes: Classes = Classes.YEARS) -> HeadManifest:
    return HeadManifest(
        task=Task.GENDER if classes is Classes.GENDERS else Task.AGE,
        space=SPACE,
        version="v1",
        classes=classes,
        members=3,
        architecture=architecture,
        temperature=1.3,
        weights_sha256="",
    )


def test_feature_that_no_training_face_activated_is_ignored(tmp_path: Path) -> None:
    architecture = Mlp(hidden=(8,))
    tensors = random_tensors(architecture, 3, YEARS)
    tensors["input.mean"][:, 5], tensors["input.std"][:, 5] = 0, 1e-6
    save_head(tmp_path / "head", manifest(architecture), tensors)
    head = load_head(tmp_path / "head")
    unseen = np.random.default_rng(2).standard_normal((4, SPACE.dimension)).astype(np.float32)
    unseen[:, 5] = 0
    activated = unseen.copy()
    activated[:, 5] = 0.001
    for predict in (head.probabilities, head.probabilities_as_saved):
        assert np.allclose(predict(activated), predict(unseen), atol=1e-5)
    again = save_head(tmp_path / "again", manifest(architecture), head.tensors)  # as a calibration does
    assert np.allclose(again.probabilities(activated), head.probabilities(activated), atol=1e-3)


@pytest.mark.parametrize("architecture", [Mlp(hidden=(8,)), Mlp(hidden=()), ResMlp(blocks=2)])
def test_head_round_trips_through_its_files(tmp_path: Path, architecture: Mlp | ResMlp) -> None:
    tensors = random_tensors(architecture, 3, YEARS)
    saved = save_head(tmp_path, manifest(architecture), tensors)
    embeddings = np.random.default_rng(2).standard_normal((5, 16)).astype(np.float32)
    answered = load_head(tmp_path).probabilities(embeddings)
    assert answered.shape == (5, YEARS)
    np.testing.assert_allclose(answered.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(answered, saved.probabilities(embeddings))
    np.testing.assert_allclose(answered, saved.probabilities_as_saved(embeddings), atol=1e-5)


def test_loaded_head_takes_the_memory_of_its_file_until_it_is_asked(tmp_path: Path) -> None:
    """A predictor has heads for several spaces, and the faces of one."""
    architecture = Mlp(hidden=(4096, 128))
    save_head(tmp_path, manifest(architecture), random_tensors(architecture, 3, YEARS))
    size = (tmp_path / "head.safetensors").stat().st_size
    tracemalloc.start()
    head = load_head(tmp_path)
    loaded = tracemalloc.get_traced_memory()[0]
    head.probabilities(np.zeros((1, SPACE.dimension), np.float32))
    asked = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert loaded < 1.1 * size + 100_000
    assert asked > 2.5 * size


def test_bank_equals_its_members_one_by_one() -> None:
    architecture = ResMlp(blocks=2)
    layers = architecture.layers(16, 2)
    tensors = random_tensors(architecture, 3, 2)
    x = np.random.default_rng(3).standard_normal((4, 16)).astype(np.float32)
    bank = bank_logits(layers, tensors, x)
    for member in range(3):
        alone = bank_logits(layers, {n: t[member : member + 1] for n, t in tensors.items()}, x)
        np.testing.assert_allclose(bank[member], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "architecture", [Mlp(hidden=()), Mlp(hidden=(8, 4), input_dropout=0.2), Mlp(hidden=(8,), norm=False)]
)
def test_folded_bank_equals_the_plain_one(architecture: Mlp) -> None:
    layers, tensors = architecture.layers(16, 2), random_tensors(architecture, 3, 2)
    bank = folded(layers, tensors)
    assert bank is not None
    x = np.random.default_rng(3).standard_normal((4, 16)).astype(np.float32)
    np.testing.assert_allclose(bank.logits(x), bank_logits(layers, tensors, x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("error")
def test_activation_beyond_the_exponential_is_finite_and_silent() -> None:
    architecture = Mlp(hidden=(8,), norm=False)
    layers, tensors = architecture.layers(16, 2), random_tensors(architecture, 3, 2)
    x = 1e4 * np.random.default_rng(3).standard_normal((4, 16)).astype(np.float32)
    assert np.isfinite(bank_logits(layers, tensors, x)).all()


def test_bank_that_begins_with_a_residual_unit_is_not_folded() -> None:
    architecture = ResMlp(blocks=2)
    assert folded(architecture.layers(16, 2), random_tensors(architecture, 3, 2)) is None


@pytest.mark.parametrize("damage", ["flip", "truncate", "missing", "json", "weights and hash"])
def test_damaged_head_is_refused(tmp_path: Path, damage: str) -> None:
    save_head(tmp_path, manifest(Mlp(hidden=(8,))), random_tensors(Mlp(hidden=(8,)), 3, YEARS))
    weights = tmp_path / "head.safetensors"
    content = bytearray(weights.read_bytes())
    match damage:
        case "flip":
            content[-40] ^= 0xFF
            weights.write_bytes(content)
        case "truncate":
            weights.write_bytes(content[: len(content) // 2])
        case "missing":
            weights.unlink()
        case "json":
            (tmp_path / "head.json").write_text("{")
        case "weights and hash":
            make_answer_wrongly(tmp_path)
    with pytest.raises(BadHead, match="golden" if damage == "weights and hash" else None):
        load_head(tmp_path)


def test_current_remembers_the_previous_version(tmp_path: Path) -> None:
    assert read_current(tmp_path) is None
    set_current(tmp_path, "v1")
    set_current(tmp_path, "v2")
    current = read_current(tmp_path)
    assert current is not None and (current.version, current.previous) == ("v2", "v1")
    for number in range(3, 50):
        set_current(tmp_path, f"v{number}")
    set_current(tmp_path, "v49-all", instead_of="v49")
    current = read_current(tmp_path)
    assert current is not None and current.versions[:3] == ("v49-all", "v48", "v47")
    assert len(current.versions) < 40


def test_current_of_release_0_1_0_is_read(tmp_path: Path) -> None:
    (tmp_path / "current.json").write_text('{"version": "v2", "previous": "v1"}')
    current = read_current(tmp_path)
    assert current is not None and current.versions == ("v2", "v1")
    (tmp_path / "current.json").write_text('{"version": "v1", "previous": null}')
    current = read_current(tmp_path)
    assert current is not None and current.versions == ("v1",)


def test_temperature_recovers_overconfidence() -> None:
    draws = np.random.default_rng(4)
    honest = softmax(draws.standard_normal((20000, 5)) * 1.5)
    labels = (honest.cumsum(axis=1) < draws.random((20000, 1))).sum(axis=1)
    overconfident = tempered(honest, 0.5)
    assert fit_temperature(overconfident, labels, labels) == pytest.approx(2.0, rel=0.05)


def test_quantiles_of_a_symmetric_distribution_lie_about_its_mean() -> None:
    years = np.arange(YEARS)
    distribution = np.exp(-0.5 * ((years - 40) / 6) ** 2)[None]
    distribution /= distribution.sum()
    low, high = (year_quantiles(distribution, level)[0] for level in (0.1, 0.9))
    assert (low + high) / 2 == pytest.approx(40, abs=1e-6)
    assert high - low == pytest.approx(2 * 1.2816 * 6, rel=0.01)


def test_conformal_intervals_cover_as_stated_on_fresh_faces() -> None:
    draws = np.random.default_rng(5)
    centre = draws.uniform(5, 80, 20000)
    age = np.clip(np.rint(centre + draws.normal(0, 6, centre.shape)), 0, 100)
    narrow = np.exp(-0.5 * ((np.arange(YEARS) - centre[:, None]) / 3) ** 2)  # twice too sure
    narrow /= narrow.sum(axis=1, keepdims=True)
    conformal = ConformalIntervals.fit(narrow[:10000], age[:10000], age[:10000])
    for coverage in (0.5, 0.8, 0.9, 0.95):
        low, high = conformal.intervals(narrow[10000:], coverage)
        covered = ((low <= age[10000:]) & (age[10000:] <= high)).mean()
        assert covered == pytest.approx(coverage, abs=0.03)  # the hull covers a little more


def test_conformal_intervals_cover_each_true_age_group() -> None:
    """Faces of 60 and older are taken for younger ones, as where they are rare in training."""
    draws = np.random.default_rng(6)
    age = draws.integers(0, 90, 20000).astype(np.float64)
    centre = np.where(age >= 60, age - 12, age) + draws.normal(0, 4, age.shape)
    years = np.exp(-0.5 * ((np.arange(YEARS) - centre[:, None]) / 4) ** 2)
    years /= years.sum(axis=1, keepdims=True)
    conformal = ConformalIntervals.fit(years[:10000], age[:10000], age[:10000])
    low, high = conformal.intervals(years[10000:], 0.9)
    inside = (low <= age[10000:]) & (age[10000:] <= high)
    for group in range(len(AGE_GROUPS)):
        assert inside[age_groups_of(age[10000:]) == group].mean() > 0.87


def training_embeddings() -> np.ndarray:
    """Return 1,000 embeddings; the last feature is zero for all of them."""
    embeddings = np.random.default_rng(7).standard_normal((1000, SPACE.dimension)).astype(np.float32)
    embeddings[:, -1] = 0
    return embeddings


def test_familiarity_is_uniform_on_faces_like_those_of_training_and_small_on_others() -> None:
    embeddings = training_embeddings()
    fitted = Familiarity.fit(embeddings, np.arange(500))
    alike = fitted.of(embeddings[500:])
    np.testing.assert_allclose(np.quantile(alike, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.1)
    assert np.median(fitted.of(2 * embeddings[500:])) < 0.01
    assert (fitted.of(np.full((1, SPACE.dimension), 9, np.float32)) == 0).all()
    assert (fitted.of(np.zeros((1, SPACE.dimension), np.float32)) == 1).all()
    assert len(fitted.of(embeddings[:0])) == 0


def test_interval_gains_years_only_below_a_familiarity_of_a_half_and_fewer_if_it_is_narrower() -> None:
    years = added_years(np.array([0, 0.25, 0.5, 1]), 0.9)
    np.testing.assert_allclose(years, [3, 1.5, 0, 0])
    narrow = added_years(np.array([0, 0.25]), 0.5)
    assert (narrow > 0).all() and (narrow < years[:2] / 2).all()


def test_head_stores_familiarity_and_one_of_an_older_release_has_none(tmp_path: Path) -> None:
    architecture, embeddings = Mlp(hidden=(8,)), training_embeddings()
    tensors, fitted = random_tensors(architecture, 3, YEARS), Familiarity.fit(embeddings, np.arange(1000))
    with_it = manifest(architecture).model_copy(update={"familiarity": True})
    save_head(tmp_path / "new", with_it, {**tensors, **fitted.tensors})
    answered = load_head(tmp_path / "new").familiarity(embeddings)
    assert answered is not None
    np.testing.assert_allclose(answered, fitted.of(embeddings), atol=0.01)

    save_head(tmp_path / "old", manifest(architecture), tensors)
    path = tmp_path / "old" / "head.json"
    document = json.loads(path.read_bytes())
    del document["familiarity"]
    path.write_text(json.dumps({**document, "format": 1}))
    assert load_head(tmp_path / "old").familiarity(embeddings) is None


@pytest.mark.parametrize("name", ["familiarity.std", "familiarity.distances", "familiarity.mean"])
def test_head_with_wrong_statistics_is_rejected(tmp_path: Path, name: str) -> None:
    architecture = Mlp(hidden=(8,))
    with_it = manifest(architecture).model_copy(update={"familiarity": True})
    statistics = Familiarity.fit(training_embeddings(), np.arange(1000)).tensors
    wrong = {
        "familiarity.std": np.zeros(16),
        "familiarity.distances": -np.arange(101),
        "familiarity.mean": np.full(16, np.nan),
    }
    tensors = {**random_tensors(architecture, 3, YEARS), **statistics, name: wrong[name].astype(np.float32)}
    with pytest.raises(ValueError, match="familiarity"):
        save_head(tmp_path, with_it, tensors)


def test_answers_carry_groups_and_labels() -> None:
    distribution = np.zeros((1, YEARS), dtype=np.float32)
    distribution[0, 30] = 1
    conformal = ConformalIntervals(widening=((1.0,) * 50,) * 8, faces=(0,) * 8)
    answer = age_answers(distribution, conformal, 0.9)[0]
    assert (answer.mean, answer.group, answer.coverage) == (30, "25-32", 0.9)
    assert answer.interval[0] < 30 < answer.interval[1]
    assert gender_answers(np.array([[0.8, 0.2]]))[0].label == "female"
