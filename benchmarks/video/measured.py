"""Analyse a clip, and compare its tracks and persons with the truth."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from agegender.predictions import FaceAnswer
from agegender.spaces import Space
from agegender.video.analysis import Analysis
from agegender.video.decoding import open_video
from agegender.video.persons import Answer, Track, joined
from agegender.video.persons import Person as Answered

from benchmarks.video.clips import read_truth
from benchmarks.video.observing import COVERAGE, Stored
from benchmarks.video.portraits import Box
from benchmarks.video.scenes import Frame, Person, Sighting, Truth

SAME_BOX = 0.3  # overlap (intersection over union) from which a detection is a person's face
LEAST_SHARE = 0.2  # of a track's sightings that show another person, from which the track is mixed


@dataclass(frozen=True)
class Seen:
    """A face that was found. person : whose face it is; None if it is nobody's."""

    seconds: float
    track: int
    person: int | None
    visible: float
    face: FaceAnswer = field(repr=False)
    so_far: Answer = field(repr=False)


@dataclass(frozen=True)
class Measured:
    """A clip with what was found in it."""

    truth: Truth
    space: Space
    seen: list[Seen]
    tracks: list[Track]
    persons: list[Answered]

    def owner(self, tracks: set[int]) -> int | None:
        """Return the person whom most of these tracks' faces show."""
        whose = Counter(one.person for one in self.seen if one.track in tracks and one.person is not None)
        return whose.most_common(1)[0][0] if whose else None

    @property
    def owners(self) -> list[int | None]:
        """Return whom each answered person is."""
        return [self.owner({one.track for one in person.appearances}) for person in self.persons]

    def of_person(self, number: int) -> list[Seen]:
        return [one for one in self.seen if one.person == number]

    def answers(self) -> Iterator[tuple[Person, list[Seen], Answered]]:
        """Yield each person who was answered, with the answer that combines most of the person's faces."""
        owners = self.owners
        for person in self.truth.persons:
            own = [one for one, owner in zip(self.persons, owners, strict=True) if owner == person.person]
            if own:
                yield person, self.of_person(person.person), max(own, key=lambda one: one.faces)


def measure(clip: Path, observe: Stored, every: float) -> Measured:
    """Analyse a clip in steps of `every` seconds."""
    truth = read_truth(clip)
    seen: list[Seen] = []
    tracks: list[Track] = []
    with open_video(clip) as video:
        analysis = Analysis(video, observe, every=every, coverage=COVERAGE)
        for moment in analysis.moments():
            tracks += moment.ended
            frame = min(truth.frames, key=lambda one: abs(one.seconds - moment.seconds))
            for live in moment.live:
                sighting = _matching(live.bbox, frame)
                seen.append(
                    Seen(
                        seconds=moment.seconds,
                        track=live.track,
                        person=None if sighting is None else sighting.person,
                        visible=sighting.visible if sighting else 0.0,
                        face=_face(observe, live.bbox),
                        so_far=live.answer,
                    )
                )
        tracks += analysis.close()
    assert analysis.space is not None
    return Measured(
        truth, analysis.space, seen, tracks, joined(tracks, analysis.space, COVERAGE, gap=analysis.gap)
    )


def _face(observe: Stored, box: Box) -> FaceAnswer:
    """Return the face with this box; frames of clips are sent in their own size."""
    return observe.by_box[box]


def _matching(box: Box, frame: Frame) -> Sighting | None:
    """Return who is in a box, or None: the overlap must be enough, and the person the best for the box."""
    best = max(frame.faces, key=lambda one: overlap(box, one.box) * one.visible, default=None)
    return best if best and overlap(box, best.box) >= SAME_BOX else None


def overlap(one: Box, other: Box) -> float:
    """Return intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (one, other)]
    return both / (sum(areas) - both)


@dataclass
class Following:
    """Counts of how well persons are followed.

    sightings : frames of persons of whom half the face is visible. found : of these, those with a track.
    switches : changes of the track from one sighting of a person to the next, while visible. mixed : tracks
        of more than one person. split : persons answered more than once, counted for each time too many.
        merged : answered persons that combine several. nobody : answered persons who are nobody.
    """

    persons: int = 0
    answered: int = 0
    sightings: int = 0
    found: int = 0
    tracks: int = 0
    switches: int = 0
    mixed: int = 0
    split: int = 0
    merged: int = 0
    nobody: int = 0

    def add(self, one: Measured) -> None:
        moments = sorted({seen.seconds for seen in one.seen})
        by_moment = {
            moment: min(one.truth.frames, key=lambda frame: abs(frame.seconds - moment)) for moment in moments
        }
        self.persons += len(one.truth.persons)
        self.tracks += len(one.tracks)
        for person in one.truth.persons:
            own = one.of_person(person.person)
            at = {seen.seconds: seen.track for seen in own}
            visible = [
                moment
                for moment, frame in by_moment.items()
                if any(face.person == person.person and face.visible >= 0.5 for face in frame.faces)
            ]
            self.sightings += len(visible)
            self.found += sum(moment in at for moment in visible)
            self.switches += sum(
                before.track != after.track and after.seconds - before.seconds <= 2.0
                for before, after in pairwise(own)
            )
        for track in one.tracks:
            whose = Counter(
                seen.person for seen in one.seen if seen.track == track.track and seen.person is not None
            )
            self.mixed += len(whose) > 1 and whose.most_common(2)[1][1] >= LEAST_SHARE * whose.total()
        owners = one.owners
        known = [owner for owner in owners if owner is not None]
        self.nobody += owners.count(None)
        self.answered += len(set(known))
        self.split += len(known) - len(set(known))
        for person_answered in one.persons:
            whose_tracks = {one.owner({appearance.track}) for appearance in person_answered.appearances}
            self.merged += len(whose_tracks - {None}) > 1
