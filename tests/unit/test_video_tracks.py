"""Faces are followed through motion, crossings, gaps and cuts, and each track keeps little."""

import json

import numpy as np
import pytest
from agegender.spaces import Space
from agegender.video.persons import MAX_GAP, Correlation, Evidence, Track
from agegender.video.tracks import MAX_EVIDENCE, MAX_LIVE, MAX_TRACK, Tracker, keep, longest_gap

from tests.support.made_persons import SPACE, looks, made_face

Position = tuple[float, float]


def followed(paths: dict[int, list[Position | None]], step: float = 0.4) -> list[Track]:
    """Track persons along their positions, one for each searched frame; None if the face is hidden."""
    tracker, ended = Tracker(SPACE), []
    embeddings = {person: looks(person, len(path), 0.3) for person, path in paths.items()}
    for index in range(len(next(iter(paths.values())))):
        faces = [
            made_face(embeddings[person][index], position)
            for person, path in paths.items()
            if (position := path[index]) is not None
        ]
        ended += tracker.update(index * step, faces)
    return ended + tracker.close()


def sightings(tracks: list[Track]) -> list[int]:
    return [track.sightings for track in tracks]


def test_persons_who_cross_keep_their_tracks() -> None:
    """Their faces are nearer to each other's last position than to their own when they meet."""
    across: list[Position | None] = [(100 + 80 * step, 200) for step in range(20)]
    tracks = followed({1: across, 2: across[::-1]})
    assert sightings(tracks) == [20, 20]
    first, last = tracks[0].path[0], tracks[0].path[-1]
    assert (first[1] + first[3]) / 2 == 100 and (last[1] + last[3]) / 2 == 100 + 80 * 19


def test_person_who_is_hidden_for_a_moment_keeps_the_track() -> None:
    path: list[Position | None] = [(100 + 50 * step, 100) for step in range(12)]
    path[4] = path[5] = path[6] = None
    assert sightings(followed({1: path})) == [9]


def test_person_who_leaves_and_another_who_comes_have_two_tracks() -> None:
    stays, hidden = (200.0, 100.0), None
    tracks = followed({1: [stays] * 4 + [hidden] * 4, 2: [hidden] * 4 + [stays] * 4})
    assert sightings(tracks) == [4, 4] and [track.track for track in tracks] == [1, 2]


def test_track_ends_after_a_gap_and_at_a_cut() -> None:
    tracker, points = Tracker(SPACE), looks(1, 3)
    assert tracker.update(0.0, [made_face(points[0])]) == []
    (ended,) = tracker.update(MAX_GAP + 0.1, [made_face(points[1])])
    assert (ended.first, ended.last, ended.continues) == (0, 0, False)
    (ended,) = tracker.update(MAX_GAP + 0.5, [made_face(points[2])], cut=True)
    assert ended.track == 2
    assert [track.track for track in tracker.close()] == [3] and tracker.close() == []


@pytest.mark.parametrize(
    ("every", "frame_rate", "gap"),
    [
        (0.4, None, 2.0),
        (0.4, 25.0, 2.0),
        (3.0, 25.0, 6.5),
        (10.0, None, 20.5),
        (0.4, 0.25, 8.5),
        (0.4, 1e-3, 20.5),
    ],
)
def test_one_missed_face_ends_no_track_however_seldom_frames_are(
    every: float, frame_rate: float | None, gap: float
) -> None:
    assert longest_gap(every, frame_rate) == gap
    interval = max(every, min(10.0, 1 / (frame_rate or 25.0)))
    tracker, point = Tracker(SPACE, gap=gap), looks(1, 1)[0]
    for step in (0, 1, 3):
        assert tracker.update(step * interval, [made_face(point)]) == []
    assert sightings(tracker.close()) == [3]


def test_track_of_a_face_that_stays_is_divided_and_its_size_is_bounded() -> None:
    """Two hours of one face need as much memory as ten minutes."""
    tracker, ended = Tracker(SPACE), []
    points = looks(1, 40, 0.5)
    for step in range(int(2 * MAX_TRACK / 2) + 2):
        ended += tracker.update(2.0 * step, [made_face(points[step % 40])])
    assert len(ended) == 1
    track = ended[0]
    assert track.continues
    assert track.pool.faces <= MAX_EVIDENCE and len(track.path) <= MAX_TRACK / 2 + 1
    kept = len(track.model_copy(update={"path": []}).model_dump_json())
    assert kept < 4 * SPACE.dimension


def test_more_faces_than_tracks_are_ignored() -> None:
    tracker = Tracker(SPACE)
    faces = [made_face(point, (100.0 * n, 100)) for n, point in enumerate(looks(1, MAX_LIVE + 5))]
    tracker.update(0, faces)
    assert len(tracker.close()) == MAX_LIVE


def test_live_faces_have_the_answer_of_their_track() -> None:
    tracker, points = Tracker(SPACE), looks(1, 6, 0.5)
    for step, point in enumerate(points):
        tracker.update(0.4 * step, [made_face(point, age=20 + 4 * step)])
    (live,) = tracker.live(0.9)
    assert live.track == 1 and live.answer.faces == 6 and live.answer.age.mean == pytest.approx(30)
    tracker.update(2.8, [])
    assert tracker.live(0.9) == []


def test_faces_of_a_space_without_a_recogniser_are_followed_by_position() -> None:
    space = Space(id="other-1", dimension=8)
    tracker = Tracker(space)
    point = np.eye(8, dtype=np.float32)[0]
    for step in range(5):
        tracker.update(0.4 * step, [made_face(point, (100 + 20 * step, 100)), made_face(point, (600, 100))])
    assert sightings(tracker.close()) == [5, 5]


def test_evidence_of_faces_that_look_the_same_is_the_better_one() -> None:
    correlation = Correlation(same=0.95, different=0.5)
    point, other = looks(1, 1)[0], looks(2, 1)[0]
    evidence: list[Evidence] = []
    assert keep(evidence, Evidence.of(made_face(point, quality=0.5), 0.0), correlation)
    assert not keep(evidence, Evidence.of(made_face(point, quality=0.4), 1.0), correlation)
    assert keep(evidence, Evidence.of(made_face(point, quality=0.9), 2.0), correlation)
    assert [one.seconds for one in evidence] == [2.0]
    assert keep(evidence, Evidence.of(made_face(other, quality=0.1), 3.0), correlation)
    assert len(evidence) == 2
    for number, look in enumerate(looks(3, MAX_EVIDENCE + 5, 0.9)):
        keep(evidence, Evidence.of(made_face(look, quality=0.8), 4.0 + number), correlation)
    assert len(evidence) == MAX_EVIDENCE and 3.0 not in [one.seconds for one in evidence]


def test_face_without_an_embedding_is_rejected() -> None:
    face = made_face(looks(1, 1)[0]).model_copy(update={"embedding": None})
    with pytest.raises(ValueError, match="no embedding"):
        Tracker(SPACE).update(0, [face])


def test_track_survives_json() -> None:
    (track,) = followed({1: [(100, 100)] * 3})
    assert Track.model_validate(json.loads(track.model_dump_json())) == track
