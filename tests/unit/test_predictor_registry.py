"""Heads are found, checked and swapped; a bad one is reported and leaves the old one serving."""

import threading
from pathlib import Path

import pytest
from agegender.errors import Problem
from agegender.files import write_json
from agegender.heads.head import Task, current_lock, read_current, set_current
from agegender.spaces import Space
from predictor.registry import HeadRegistry

from tests.support.made_heads import made_head, make_answer_wrongly, promoted_head, promoted_heads

SPACE = Space(id="test-1", dimension=16)
OTHER = Space(id="other-1", dimension=8)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    return tmp_path / "shipped"


@pytest.fixture
def registry(models: Path, shipped: Path) -> HeadRegistry:
    return HeadRegistry(models, shipped)


def age_version(registry: HeadRegistry) -> str:
    return registry.heads(SPACE).age.manifest.version


def test_shipped_heads_serve_until_one_is_promoted(
    registry: HeadRegistry, models: Path, shipped: Path
) -> None:
    promoted_heads(shipped, SPACE, "shipped-1")
    registry.refresh()
    assert age_version(registry) == "shipped-1"
    promoted_head(models, Task.AGE, SPACE, "v2", seed=2)
    registry.refresh()
    heads = registry.heads(SPACE)
    assert (heads.age.manifest.version, heads.gender.manifest.version) == ("v2", "shipped-1")
    assert {(status.task, status.source) for status in registry.status()} == {
        (Task.AGE, "promoted"),
        (Task.GENDER, "shipped"),
    }


def test_unchanged_files_keep_the_very_same_heads(registry: HeadRegistry, models: Path) -> None:
    promoted_heads(models, SPACE)
    registry.refresh()
    before = registry.heads(SPACE)
    registry.refresh()
    assert registry.heads(SPACE).age is before.age


def test_space_without_heads_is_answered_with_the_spaces_that_have_them(
    registry: HeadRegistry, models: Path
) -> None:
    promoted_heads(models, SPACE)
    promoted_head(models, Task.AGE, OTHER, "v1")
    registry.refresh()
    with pytest.raises(Problem, match=r"other-1 \(8-d\).*test-1 \(16-d\)") as raised:
        registry.heads(OTHER)
    assert (raised.value.slug, raised.value.status) == ("no-head", 409)


def test_space_of_the_same_name_and_another_dimension_has_no_heads(
    registry: HeadRegistry, models: Path
) -> None:
    promoted_heads(models, SPACE)
    registry.refresh()
    with pytest.raises(Problem, match="no heads"):
        registry.heads(Space(id=SPACE.id, dimension=17))


@pytest.mark.parametrize("damage", ["flipped bit", "cut short", "no manifest", "no file", "wrong answer"])
def test_bad_head_leaves_the_old_one_serving_and_reports_it(
    registry: HeadRegistry, models: Path, damage: str
) -> None:
    promoted_heads(models, SPACE)
    registry.refresh()
    directory = made_head(models, Task.AGE, SPACE, "v2", seed=2)
    weights = directory / "head.safetensors"
    content = bytearray(weights.read_bytes())
    match damage:
        case "flipped bit":
            content[-5] ^= 1
            weights.write_bytes(content)
        case "cut short":
            weights.write_bytes(content[:1000])
        case "no manifest":
            (directory / "head.json").unlink()
        case "no file":
            weights.unlink()
        case "wrong answer":
            make_answer_wrongly(directory)
    set_current(directory.parent, "v2")
    registry.refresh()
    assert age_version(registry) == "v1"
    assert len(registry.warnings) == 1 and "v2" in registry.warnings[0]
    assert next(status.problem for status in registry.status() if status.task is Task.AGE)


def test_head_that_was_half_written_is_served_once_it_is_whole(registry: HeadRegistry, models: Path) -> None:
    promoted_heads(models, SPACE)
    registry.refresh()
    directory = made_head(models, Task.AGE, SPACE, "v2", seed=2)
    weights = directory / "head.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    set_current(directory.parent, "v2")
    registry.refresh()
    assert age_version(registry) == "v1"
    weights.write_bytes(content)
    registry.refresh()
    assert age_version(registry) == "v2"
    assert registry.warnings == []


def test_bad_head_at_start_gives_way_to_the_one_before_it(models: Path, registry: HeadRegistry) -> None:
    promoted_heads(models, SPACE)
    directory = made_head(models, Task.AGE, SPACE, "v2", seed=2)
    (directory / "head.safetensors").write_bytes(b"nonsense")
    set_current(directory.parent, "v2")
    registry.refresh()
    assert age_version(registry) == "v1"
    assert "v2" in registry.warnings[0]


def test_head_of_another_space_in_the_directory_is_refused(models: Path, registry: HeadRegistry) -> None:
    foreign = made_head(models, Task.AGE, OTHER, "v1")
    (models / "age" / SPACE.id).mkdir(parents=True)
    foreign.rename(models / "age" / SPACE.id / "v1")
    set_current(models / "age" / SPACE.id, "v1")
    registry.refresh()
    assert "for other-1" in registry.warnings[0]


def test_current_that_climbs_out_of_the_directory_is_refused(models: Path, registry: HeadRegistry) -> None:
    promoted_heads(models, SPACE)
    registry.refresh()
    (models / "age" / SPACE.id / "current.json").write_text('{"version": "../../../etc"}')
    registry.refresh()
    assert age_version(registry) == "v1"
    assert "../../../etc" in registry.warnings[0]


def rollbacks(registry: HeadRegistry) -> list[str]:
    """Roll the age head back until that is refused; return the versions that were served."""
    served = []
    with pytest.raises(Problem) as raised:
        while True:
            registry.rollback(Task.AGE, SPACE.id)
            served.append(age_version(registry))
    assert raised.value.slug == "no-previous-head"
    return served


def test_rollbacks_go_back_version_by_version_and_never_forward(models: Path, registry: HeadRegistry) -> None:
    promoted_heads(models, SPACE)
    for version in ("v2", "v3"):
        promoted_head(models, Task.AGE, SPACE, version, seed=2)
    registry.refresh()
    assert rollbacks(registry) == ["v2", "v1"]
    set_current(models / "age" / SPACE.id, "v3")  # only a promotion serves a newer one
    registry.refresh()
    assert age_version(registry) == "v3"
    assert rollbacks(registry) == ["v1"]


def test_first_promoted_head_rolls_back_to_the_shipped_one(
    models: Path, shipped: Path, registry: HeadRegistry
) -> None:
    promoted_heads(shipped, SPACE, "shipped-1")
    for version in ("v2", "v3"):
        promoted_head(models, Task.AGE, SPACE, version, seed=2)
    registry.refresh()
    assert rollbacks(registry) == ["v2", "shipped-1"]


def test_head_that_was_promoted_again_is_not_served_by_a_rollback_from_it(
    models: Path, registry: HeadRegistry
) -> None:
    promoted_heads(models, SPACE)
    for version in ("v2", "v1"):
        set_current(made_head(models, Task.AGE, SPACE, version).parent, version)
    registry.refresh()
    assert rollbacks(registry) == ["v2"]


def test_rollback_with_nothing_before_is_refused_and_creates_nothing(
    models: Path, registry: HeadRegistry
) -> None:
    with pytest.raises(Problem):
        registry.rollback(Task.AGE, SPACE.id)
    assert not models.exists()
    promoted_heads(models, SPACE)
    registry.refresh()
    assert rollbacks(registry) == []


def test_rollback_that_meets_a_promotion_does_not_undo_it_unseen(
    models: Path, registry: HeadRegistry
) -> None:
    """The rollback waits for the promotion, and goes back from what that serves."""
    promoted_heads(models, SPACE)
    promoted_head(models, Task.AGE, SPACE, "v2", seed=2)
    made_head(models, Task.AGE, SPACE, "v3", seed=3)
    directory = models / "age" / SPACE.id
    registry.refresh()
    rolling = threading.Thread(target=registry.rollback, args=(Task.AGE, SPACE.id))
    with current_lock(directory):
        rolling.start()
        rolling.join(0.4)
        assert rolling.is_alive()
        before = read_current(directory)
        assert before is not None and before.version == "v2"
        write_json(directory / "current.json", {"version": "v3", "previous": "v2", "earlier": ["v1"]})
    rolling.join(20)
    current = read_current(directory)
    assert current is not None and current.versions == ("v2", "v1")


def test_rollback_to_a_damaged_head_is_refused_and_changes_nothing(
    models: Path, registry: HeadRegistry
) -> None:
    promoted_heads(models, SPACE)
    promoted_head(models, Task.AGE, SPACE, "v2", seed=2)
    registry.refresh()
    (models / "age" / SPACE.id / "v1" / "head.safetensors").write_bytes(b"nonsense")
    with pytest.raises(Problem) as raised:
        registry.rollback(Task.AGE, SPACE.id)
    assert raised.value.slug == "bad-head"
    registry.refresh()
    assert age_version(registry) == "v2"
