"""A person's answer is narrower than that of one face, but not because of copies; tracks are joined."""

import csv
import io

import numpy as np
import pytest
from agegender.spaces import Space
from agegender.video.analysis import PERSON_COLUMNS, Progress, persons_csv, timeline, video_answer
from agegender.video.decoding import VideoInfo
from agegender.video.drawing import Paths, summary_svg
from agegender.video.persons import Best, Correlation, Evidence, Pool, Track, joined

from tests.support.made_persons import SPACE, Array, looks, made_face

RHO = Correlation(age=0.5, gender=0.8, different=0.5, same=0.95)
INFO = VideoInfo(width=640, height=480, codec="h264", container="mp4", seconds=20.0)


def unlike(count: int) -> Array:
    """Return embeddings that look different: their cosines are below `RHO.different`."""
    return np.eye(SPACE.dimension, dtype=np.float32)[:count]


def evidence(points: Array, ages: list[float], p_female: float = 0.8) -> list[Evidence]:
    return [
        Evidence.of(made_face(point, age=age, p_female=p_female), float(index))
        for index, (point, age) in enumerate(zip(points, ages, strict=True))
    ]


def width(pool: Pool) -> float:
    low, high = pool.answer(RHO, 0.9).age.interval
    return high - low


def track(
    number: int,
    points: Array,
    first: float,
    last: float,
    quality: float = 0.9,
    *,
    det_score: float = 0.9,
    continues: bool = False,
) -> Track:
    pool = Pool.of(evidence(points, [30.0] * len(points)), RHO)
    best = Best(seconds=first, bbox=(0, 0, 60, 60), quality=quality)
    return Track(
        track=number,
        first=first,
        last=last,
        sightings=len(points),
        continues=continues,
        det_score=det_score,
        first_bbox=best.bbox,
        last_bbox=best.bbox,
        pool=pool,
        best=best,
    )


def test_copies_of_a_face_are_one_face() -> None:
    one, copies = unlike(1), np.repeat(unlike(1), 10, axis=0)
    answer = Pool.of(evidence(copies, [30.0] * 10), RHO).answer(RHO, 0.9)
    assert answer.effective_faces == 1 and answer.faces == 10
    alone = Pool.of(evidence(one, [30.0]), RHO).answer(RHO, 0.9)
    assert answer.age == alone.age and answer.gender == alone.gender
    assert alone.age.interval == (20, 40)


@pytest.mark.parametrize("count", [2, 4, 100])
def test_faces_that_look_different_narrow_the_interval_down_to_the_correlation(count: int) -> None:
    pool = Pool.of(evidence(unlike(count), [30.0] * count), RHO)
    assert width(pool) == pytest.approx(20 * np.sqrt(0.5 + 0.5 / count), abs=0.1)
    assert pool.answer(RHO, 0.9).effective_faces == pytest.approx(1 / (0.5 + 0.5 / count), abs=0.01)


def test_faces_that_disagree_widen_the_interval() -> None:
    agreeing = Pool.of(evidence(unlike(4), [30.0] * 4), RHO)
    differing = Pool.of(evidence(unlike(4), [12.0, 48.0, 20.0, 40.0]), RHO)
    assert differing.mean == pytest.approx(agreeing.mean)
    assert width(agreeing) < width(differing) <= 20


def test_better_faces_count_more() -> None:
    point = unlike(2)
    good = Evidence.of(made_face(point[0], age=20, quality=0.9), 0)
    poor = Evidence.of(made_face(point[1], age=60, quality=0.1), 1)
    assert Pool.of([good, poor], RHO).mean == pytest.approx(24)


def test_gender_grows_more_certain_only_with_other_looks() -> None:
    def female(points: Array) -> float:
        pool = Pool.of(evidence(points, [30.0] * len(points), 0.8), RHO)
        return pool.answer(RHO, 0.9).gender.probability["female"]

    assert female(unlike(1)) == pytest.approx(0.8, abs=1e-4)
    assert female(np.repeat(unlike(1), 9, axis=0)) == pytest.approx(0.8, abs=1e-4)
    assert 0.8 < female(unlike(9)) < 0.86


def test_pool_of_two_tracks_is_that_of_all_their_faces() -> None:
    points, ages = unlike(6), [20.0, 30.0, 40.0, 25.0, 35.0, 31.0]
    whole = Pool.of(evidence(points, ages), RHO)
    two = Pool.of(evidence(points[:2], ages[:2]), RHO).merged(
        Pool.of(evidence(points[2:], ages[2:]), RHO), RHO
    )
    lists = {"centroid", "groups"}
    assert two.model_dump(exclude=lists) == pytest.approx(whole.model_dump(exclude=lists))
    assert two.groups == pytest.approx(whole.groups)
    assert two.mean_embedding == pytest.approx(whole.mean_embedding, abs=2e-3)


def test_tracks_of_one_person_are_joined_and_those_of_others_are_not() -> None:
    ada, bob = looks(1, 12), looks(2, 4)
    tracks = [
        track(1, ada[:4], 2, 5),
        track(2, bob, 3, 6),
        track(3, ada[4:8], 9, 11),
        track(4, ada[8:], 15, 16),
    ]
    persons = joined(tracks, SPACE, 0.9)
    assert [[one.track for one in person.appearances] for person in persons] == [[1, 3, 4], [2]]
    assert [person.person for person in persons] == [1, 2]
    assert (persons[0].first, persons[0].last, persons[0].seconds_visible) == (2, 16, 6)
    assert persons[0].faces == 12 and persons[0].embedding is None
    (with_embedding, _) = joined(tracks, SPACE, 0.9, embeddings=True)
    assert with_embedding.embedding is not None and len(with_embedding.embedding) == SPACE.dimension


def test_track_that_continues_another_is_the_same_person_in_any_space() -> None:
    """A space without a recogniser, and a face that stays longer than a track or a part of the video."""
    space = Space(id="other-1", dimension=SPACE.dimension)
    open_end, points = track(1, unlike(2), 0, 60, continues=True), unlike(2)
    assert len(joined([open_end, track(2, points, 60.4, 90)], space, 0.9)) == 1
    assert len(joined([open_end, track(2, points, 66, 90)], space, 0.9, gap=6.5)) == 1
    elsewhere = track(2, points, 60.4, 90).model_copy(update={"first_bbox": (300, 0, 360, 60)})
    for other in (elsewhere, track(2, points, 70, 90), track(2, points, 60, 90)):
        assert len(joined([open_end, other], space, 0.9)) == 2
    assert len(joined([track(1, unlike(2), 0, 60), track(2, points, 60.4, 90)], space, 0.9)) == 2


def test_faces_visible_at_the_same_time_are_never_one_person() -> None:
    """A twin, or a mirror."""
    ada = looks(1, 8)
    persons = joined([track(1, ada[:4], 0, 5), track(2, ada[4:], 4, 9)], SPACE, 0.9)
    assert len(persons) == 2


@pytest.mark.parametrize(
    ("sightings", "quality", "det_score", "person"),
    [
        (1, 0.2, 0.95, False),
        (1, 0.8, 0.7, True),
        (4, 0.41, 0.76, False),  # a hand or a pattern that the detector takes for a face for seconds
        (2, 0.3, 0.85, True),  # in profile
        (8, 0.16, 0.9, True),  # small
        (3, 0.6, 0.7, True),
    ],
)
def test_track_is_a_person_if_it_has_a_good_face_or_several_certain_ones(
    sightings: int, quality: float, det_score: float, person: bool
) -> None:
    one = track(1, looks(1, sightings), 0, 0.4 * (sightings - 1), quality, det_score=det_score)
    answer = video_answer("a.mp4", INFO, Progress(space=SPACE, seconds=1, complete=True), [one], 0.9)
    assert (len(answer.persons), answer.omitted) == ((1, 0) if person else (0, 1))


def test_timeline_counts_persons_and_has_few_bins() -> None:
    persons = joined([track(1, looks(1, 3), 0, 3), track(2, looks(2, 3), 2.5, 7_000)], SPACE, 0.9)
    bin_width, bins = timeline(persons, 7_200)
    assert bin_width == 120 and len(bins) == 61
    assert [one.persons for one in bins[:2]] == [2, 1] and bins[-1].persons == 0
    assert bins[0].groups["25-32"] == 2 and bins[0].genders == {"female": 2, "male": 0}


def test_table_and_plot_have_every_person() -> None:
    tracks = [track(1, looks(1, 3), 0, 3), track(2, looks(2, 3), 2.5, 8)]
    progress = Progress(space=SPACE, seconds=20, frames=50, complete=True)
    answer = video_answer("<a & b>.mp4", INFO, progress, tracks, 0.9)
    first, second = csv.DictReader(io.StringIO(persons_csv(answer.persons)))
    assert tuple(first) == PERSON_COLUMNS
    assert (first["person"], first["mean"], second["first"]) == ("1", "30.0", "2.5")
    plot = summary_svg(answer)
    assert "&lt;a &amp; b&gt;.mp4: 2 persons in 20 s" in plot and plot.count("<rect") > 10
    empty = video_answer("a.mp4", INFO, Progress(), [], 0.9)
    assert "0 persons in 0 s, incomplete" in summary_svg(empty)


def test_box_between_two_sightings_is_interpolated() -> None:
    path = [(1.0, 0.0, 0.0, 10.0, 10.0), (2.0, 10.0, 20.0, 20.0, 30.0), (9.0, 0.0, 0.0, 1.0, 1.0)]
    paths = Paths([track(7, looks(1, 1), 1, 9).model_copy(update={"path": path})])
    assert paths.box(7, 1.5) == pytest.approx((5, 10, 15, 20))
    assert paths.box(7, 1.0) == (0, 0, 10, 10) and paths.box(7, 9.0) is not None
    for seconds in (0.5, 5.0, 9.5):
        assert paths.box(7, seconds) is None, seconds
    assert paths.box(8, 1.5) is None
    seldom = Paths([track(7, looks(1, 1), 1, 9).model_copy(update={"path": path})], gap=8.5)
    assert seldom.box(7, 5.5) == pytest.approx((5, 10, 10.5, 15.5))
