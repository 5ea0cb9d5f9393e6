"""Few frames are searched: more at cuts, fewer while nobody is visible; boxes are those of the video."""

import io
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from agegender.errors import Problem
from agegender.faces import ImageProblem
from agegender.heads.head import Task
from agegender.predictions import AgeGenderAnswer, FaceAnswer, ImageAnswer
from agegender.spaces import Space
from agegender.video.analysis import Analysis, Scenes, video_answer
from agegender.video.decoding import open_video
from agegender.video.persons import Track
from PIL import Image

from tests.support.made_persons import SPACE, looks, made_face
from tests.support.made_videos import BLUE, Pixels, quartered, write_video

FACE = made_face(looks(1, 1)[0], (100, 30), side=40)


def observe(
    images: Sequence[bytes], min_face: float = 0, faces: Sequence[FaceAnswer] = (FACE,)
) -> AgeGenderAnswer:
    """Answer one image with the same faces each time."""
    (image,) = images
    width, height = Image.open(io.BytesIO(image)).size
    found = [ImageAnswer(width=width, height=height, faces=list(faces))]
    return AgeGenderAnswer(space=SPACE, models={Task.AGE: "v1"}, images=found, timings={})


def nobody(images: Sequence[bytes], min_face: float) -> AgeGenderAnswer:
    return observe(images, min_face, ())


def searched(path: Path, analysis: Analysis) -> list[float]:
    with analysis.video:
        return [round(moment.seconds, 2) for moment in analysis.moments()]


def test_frames_without_faces_are_searched_seldom_until_something_changes(tmp_path: Path) -> None:
    grey: list[Pixels] = [np.full((64, 96, 3), 90, np.uint8)] * 50
    path = write_video(tmp_path / "still.mp4", grey)
    times = searched(path, Analysis(open_video(path), nobody))
    assert len(times) <= 6 and times[-1] > 3.5  # of 13
    moving = [np.roll(quartered(), 2 * index, axis=1) for index in range(50)]
    path = write_video(tmp_path / "moving.mp4", moving)
    assert len(searched(path, Analysis(open_video(path), nobody))) > 6


def test_scene_is_searched_soon_but_not_every_frame_of_a_flickering_video(tmp_path: Path) -> None:
    dark, light = np.full((64, 96, 3), 20, np.uint8), np.full((64, 96, 3), 220, np.uint8)
    path = write_video(tmp_path / "scenes.mp4", [dark] * 12 + [light] * 8, rate=20)
    analysis = Analysis(open_video(path), observe)
    assert searched(path, analysis) == [0.0, 0.4, 0.6]
    flicker = [dark, light, light] * 20
    path = write_video(tmp_path / "strobe.mp4", flicker, rate=20)
    assert len(searched(path, Analysis(open_video(path), observe))) <= 3 / 0.1 + 1


def test_first_frame_of_a_scene_is_found(tmp_path: Path) -> None:
    dark, light = np.full((64, 96, 3), 20, np.uint8), quartered(corner=BLUE)
    path = write_video(tmp_path / "cuts.mp4", [dark] * 6 + [light] * 6)
    scenes = Scenes()
    with open_video(path) as video:
        cuts = [scenes.begins_with(frame) for frame in video.frames()]
    assert [index for index, cut in enumerate(cuts) if cut] == [6]


@pytest.mark.parametrize("every", [3.0, 10.0])
def test_person_who_is_searched_seldom_is_visible_all_the_time(tmp_path: Path, every: float) -> None:
    """In a space without a recogniser, so that tracks are not joined."""
    path = write_video(tmp_path / "long.mp4", [quartered()] * 31, rate=1)
    space = Space(id="other-1", dimension=SPACE.dimension)
    tracks: list[Track] = []
    with open_video(path) as video:
        analysis = Analysis(
            video, lambda images, _: observe(images).model_copy(update={"space": space}), every
        )
        for moment in analysis.moments():
            tracks += moment.ended
        tracks += analysis.close()
        answer = video_answer("long.mp4", video.info, analysis.progress, tracks, 0.9, every=every)
    (person,) = answer.persons
    assert (person.first, person.last, person.seconds_visible) == (0, 30, 30)
    assert len(person.appearances) == 1


def test_tracks_end_at_a_cut_even_if_its_first_frame_is_not_searched(tmp_path: Path) -> None:
    dark, light = np.full((64, 96, 3), 20, np.uint8), np.full((64, 96, 3), 220, np.uint8)
    path = write_video(tmp_path / "scenes.mp4", [dark] * 9 + [light] * 8, rate=20)
    tracks: list[Track] = []
    with open_video(path) as video:
        analysis = Analysis(video, observe)
        for moment in analysis.moments():
            tracks += moment.ended
        tracks += analysis.close()
    assert [(track.first, track.last) for track in tracks] == [(0.0, 0.4), (0.5, 0.5)]


def test_boxes_are_in_pixels_of_the_video(tmp_path: Path) -> None:
    """A frame of 2,560 pixels is searched in 1,280."""
    path = write_video(tmp_path / "wide.mp4", [quartered((2560, 128))] * 2)
    with open_video(path) as video:
        analysis = Analysis(video, observe)
        (moment,) = analysis.moments()
        answer = video_answer("wide.mp4", video.info, analysis.progress, analysis.close(), 0.9)
    assert moment.live[0].bbox == pytest.approx((160, 20, 240, 100))
    (person,) = answer.persons
    assert person.best.bbox == moment.live[0].bbox and answer.complete and answer.models == {"age": "v1"}


@pytest.mark.parametrize("missed", [{5}, {5, 6, 7}])
def test_face_that_is_missed_in_a_still_scene_keeps_its_track(tmp_path: Path, missed: set[int]) -> None:
    """Nothing else changes, so the next searches are as soon as before."""
    path = write_video(tmp_path / "still.mp4", [quartered()] * 80)
    with open_video(path) as video:
        numbers = itertools.count()
        analysis = Analysis(
            video, lambda images, _: observe(images, faces=() if next(numbers) in missed else (FACE,))
        )
        assert not [track for moment in analysis.moments() for track in moment.ended]
        (track,) = analysis.close()
    assert (track.first, track.last, track.sightings) == (0, 7.6, 20 - len(missed))


def test_still_scene_is_searched_seldom_after_the_last_person_left(tmp_path: Path) -> None:
    path = write_video(tmp_path / "still.mp4", [quartered()] * 100)
    numbers = itertools.count()
    analysis = Analysis(
        open_video(path), lambda images, _: observe(images, faces=(FACE,) * (next(numbers) < 2))
    )
    times = searched(path, analysis)
    assert times[:5] == pytest.approx([0, 0.4, 0.8, 1.2, 1.6]) and len([one for one in times if one > 4]) <= 4


@pytest.mark.parametrize(("width", "least"), [(2560, 50.0), (3840, 100 / 3), (640, 100.0)])
def test_smallest_face_is_in_pixels_of_the_video(tmp_path: Path, width: int, least: float) -> None:
    requested: list[float] = []

    def noting(images: Sequence[bytes], min_face: float) -> AgeGenderAnswer:
        requested.append(min_face)
        return observe(images)

    path = write_video(tmp_path / "wide.mp4", [quartered((width, 128))] * 2)
    with open_video(path) as video:
        list(Analysis(video, noting, min_face=100).moments())
    assert requested == pytest.approx([least])


def test_part_of_a_video_is_analysed_with_its_own_numbers(tmp_path: Path) -> None:
    path = write_video(tmp_path / "long.mp4", [quartered()] * 40)
    with open_video(path) as video:
        analysis = Analysis(video, observe, start=1.0, end=2.0, first_track=1001)
        times = [round(moment.seconds, 2) for moment in analysis.moments()]
        (track,) = analysis.close()
    assert times == [1.0, 1.4, 1.8] and track.track == 1001 and track.continues
    assert analysis.progress.complete


def test_frame_that_the_predictor_rejects_ends_the_analysis(tmp_path: Path) -> None:
    problem = Problem("image-too-large", 413, "It is too large.")

    def rejecting(images: Sequence[bytes], min_face: float) -> AgeGenderAnswer:
        answer = observe(images)
        return answer.model_copy(update={"images": [ImageProblem(problem=problem.document())]})

    path = write_video(tmp_path / "film.mp4", [quartered()] * 2)
    with open_video(path) as video, pytest.raises(Problem) as raised:
        list(Analysis(video, rejecting).moments())
    assert raised.value.slug == "image-too-large"
