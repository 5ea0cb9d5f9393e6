"""Videos of real codecs are decoded upright and in time; hostile ones are rejected in plain words."""

import io
import socket
from pathlib import Path

import av
import numpy as np
import pytest
from agegender.errors import Problem
from agegender.video import Clock, decoding
from agegender.video.decoding import Frame, open_video
from PIL import Image

from tests.support.made_videos import GREEN, add_sound, quartered, write_sound, write_video


def frames_of(path: Path) -> tuple[list[Frame], Problem | None]:
    with open_video(path) as video:
        return list(video.frames()), video.problem


def is_red(pixel: np.ndarray) -> bool:
    return int(pixel[0]) > 150 and int(pixel[1]) < 100 and int(pixel[2]) < 100


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "size"),
    [
        ("h264.mp4", "libx264", "yuv420p", (96, 64)),
        ("h264-10-bit.mkv", "libx264", "yuv420p10le", (96, 64)),
        ("vp9.webm", "libvpx-vp9", "yuv420p", (97, 63)),
        ("motion-jpeg.avi", "mjpeg", "yuvj420p", (95, 61)),
        ("mpeg4.ts", "mpeg4", "yuv420p", (96, 64)),
        ("lossless.mkv", "ffv1", "yuv444p16le", (33, 17)),
    ],
)
def test_codec_is_decoded(tmp_path: Path, name: str, codec: str, pix_fmt: str, size: tuple[int, int]) -> None:
    path = write_video(tmp_path / name, [quartered(size)] * 5, codec, pix_fmt)
    frames, problem = frames_of(path)
    assert problem is None and len(frames) == 5
    assert [round(frame.seconds, 2) for frame in frames] == [0.0, 0.1, 0.2, 0.3, 0.4]
    pixels = frames[-1].rgb()
    assert frames[-1].size == size and pixels.shape == (size[1], size[0], 3)
    assert is_red(pixels[3, 3]) and not is_red(pixels[-3, -3])
    assert Image.open(io.BytesIO(frames[0].jpeg(max_side=24))).width == 24


@pytest.mark.parametrize(("turn", "red"), [(90, (-3, 3)), (180, (-3, -3)), (-90, (3, -3))])
def test_rotation_of_the_metadata_is_applied(tmp_path: Path, turn: int, red: tuple[int, int]) -> None:
    """`turn` is counterclockwise: by 90 degrees, the top left corner becomes the bottom left one."""
    path = write_video(tmp_path / "phone.mp4", [quartered()] * 2, turn=turn)
    with open_video(path) as video:
        frame = list(video.frames())[1]
        assert (video.info.width, video.info.height) == frame.size
    assert frame.size == ((96, 64) if turn == 180 else (64, 96))
    assert is_red(frame.rgb()[red]) and frame.rgb().shape[:2] == frame.size[::-1]


def test_frame_of_wide_pixels_is_shown_with_square_ones(tmp_path: Path) -> None:
    """Scale pixels to squares, as for DVDs and recordings of television."""
    path = write_video(tmp_path / "anamorphic.mkv", [quartered()] * 2, options={"aspect": "3:1"})
    (frame, _), _ = frames_of(path)
    assert frame.size == (288, 64) and frame.rgb().shape == (64, 288, 3)


def test_times_of_a_variable_frame_rate_are_those_of_the_file(tmp_path: Path) -> None:
    times = [0.0, 0.05, 0.5, 2.0, 2.04]
    path = write_video(tmp_path / "vfr.mp4", [quartered()] * 5, times=times)
    frames, problem = frames_of(path)
    assert problem is None
    assert [frame.seconds for frame in frames] == pytest.approx(times, abs=0.002)


def test_part_of_a_video_is_read_from_the_middle(tmp_path: Path) -> None:
    path = write_video(tmp_path / "long.mp4", [quartered()] * 60, options={"g": "10"})
    with open_video(path) as video:
        seconds = [round(frame.seconds, 2) for frame in video.frames(start=2.0, end=3.0)]
    assert seconds == pytest.approx(np.arange(2.0, 3.0, 0.1).round(2).tolist())


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("h264.ts", "libx264"),
        ("mpeg2.ts", "mpeg2video"),
        ("mpeg2.mpg", "mpeg2video"),
        ("h264.mp4", "libx264"),
        ("h264.h264", "libx264"),
    ],
)
def test_parts_of_a_video_have_every_frame_once(tmp_path: Path, name: str, codec: str) -> None:
    """Containers without an index are sought by time, which may lead to behind a key frame."""
    options = {"g": "60", "sc_threshold": "0" if codec == "libx264" else "1000000000"}
    path = write_video(tmp_path / name, [quartered()] * 150, codec, rate=25, options=options)
    whole, _ = frames_of(path)
    parts: list[Frame] = []
    for start, end in ((0.0, 1.0), (1.0, 3.0), (3.0, 4.0), (4.0, 5.8), (5.8, None)):
        with open_video(path) as video:
            parts += video.frames(start, end)
            assert video.problem is None, start
    seconds = [one.seconds for one in whole]
    assert len(seconds) == 150
    # Few packets of a program stream have a time stamp: FFmpeg's may differ by half a frame after a seek.
    assert [one.seconds for one in parts] == pytest.approx(seconds, abs=0.021)


def test_parts_after_the_end_of_a_truncated_file_are_empty_and_reported(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (100, 64, 96, 3), dtype=np.uint8)
    path = write_video(tmp_path / "cut-off.mkv", noise, options={"g": "10"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for start in (4.0, 8.0):
        with open_video(path) as video:
            assert all(frame.seconds < 6 for frame in video.frames(start))
            assert video.problem is not None and video.problem.slug == "video-incomplete"


@pytest.mark.parametrize(
    ("name", "codec"), [("a.ts", "libx264"), ("a.mpg", "mpeg2video"), ("a.mkv", "libx264")]
)
def test_time_continues_where_a_recorder_began_again(tmp_path: Path, name: str, codec: str) -> None:
    path = write_video(tmp_path / name, [quartered()] * 50, codec, rate=25)
    path.write_bytes(path.read_bytes() * 2)
    frames, problem = frames_of(path)
    assert problem is None
    assert [frame.seconds for frame in frames] == pytest.approx(np.arange(0, 4, 0.04).tolist())


@pytest.mark.parametrize(
    ("stamps", "seconds"),
    [
        ([5.0, 5.1, 0.0, 0.1, 0.2], [0, 0.1, 0.2, 0.3, 0.4]),  # began again
        ([0.0, 0.1, 900.0, 900.1, 0.4, 0.5], [0, 0.1, 0.2, 0.3, 0.4, 0.5]),  # two are damaged
        ([0.0, 0.1, 15.0, 15.1], [0, 0.1, 15, 15.1]),  # a gap that fits into the duration
        ([0.0, 0.1, 0.3, 0.2, 0.4], [0, 0.1, 0.3, 0.3, 0.4]),  # a little out of order
        ([0.0, None, 0.2, None, None], [0, 0.1, 0.2, 0.3, 0.4]),
        ([None, 7.1, 7.2], [0, 0.1, 0.2]),
        ([3.0] * 10, [0, 0, 0, 0, 0, 0, 0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_clock_continues_whatever_the_time_stamps_are(
    stamps: list[float | None], seconds: list[float]
) -> None:
    clock = Clock(step=0.1, origin=None, farthest=20.0)
    assert [clock.of(stamp) for stamp in stamps] == pytest.approx(seconds)


def test_repeated_time_stamp_of_a_slow_video_is_no_restart() -> None:
    clock = Clock(step=2.0, origin=None, farthest=100.0)
    assert [clock.of(stamp) for stamp in (0, 2, 4, 4, 6, 8)] == pytest.approx([0, 2, 4, 4, 6, 8])
    assert clock.restarts == 0


def test_interlaced_frame_shows_one_moment(tmp_path: Path) -> None:
    woven = np.full((64, 96, 3), 0, np.uint8)
    woven[::2, 20:40], woven[1::2, 50:70] = 255, 255  # an object that moved between the two fields
    path = write_video(
        tmp_path / "camcorder.mkv",
        [woven] * 3,
        "mpeg2video",
        rate=25,
        options={"flags": "+ildct+ilme", "b": "4M"},
    )
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).interlaced_frame
    pixels = frames_of(path)[0][0].rgb()[8:-8].mean(axis=2)
    assert pixels[:, 30].min() > 200 and pixels[:, 60].max() < 60


def test_truncated_file_is_read_to_its_end_and_reported(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (40, 64, 96, 3), dtype=np.uint8)
    path = write_video(tmp_path / "cut-off.mkv", noise, rate=10)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames, problem = frames_of(path)
    assert 5 < len(frames) < 35
    assert problem is not None and problem.slug == "video-incomplete" and "cut-off.mkv" in problem.detail


@pytest.mark.parametrize("tags", [True, False], ids=["tags", "no tags"])
@pytest.mark.parametrize("delay", [0.0, 3.0])
def test_sound_that_is_longer_than_the_images_is_no_damage(tmp_path: Path, tags: bool, delay: float) -> None:
    silent = write_video(tmp_path / "silent.mkv", [quartered()] * 20, options={"bf": "0"})
    path = add_sound(tmp_path / "long-sound.mkv", silent, 9, tags, delay)
    with open_video(path) as video:
        assert len(list(video.frames())) == 20 and video.problem is None
        assert video.info.seconds == (2.0 if tags else 9 - delay)
    with open_video(path) as video:
        assert not list(video.frames(start=4.0)) and video.problem is None


@pytest.mark.parametrize("tags", [True, False], ids=["tags", "no tags"])
def test_truncated_file_with_sound_is_reported(tmp_path: Path, tags: bool) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (60, 64, 96, 3), dtype=np.uint8)
    silent = write_video(tmp_path / "silent.mkv", noise, options={"bf": "0"})
    path = add_sound(tmp_path / "cut-off.mkv", silent, 6, tags)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert (problem := frames_of(path)[1]) is not None and problem.slug == "video-incomplete"


def test_damaged_frames_are_skipped(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (40, 64, 96, 3), dtype=np.uint8)
    path = write_video(tmp_path / "damaged.ts", noise, "mpeg2video", rate=25)
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 2000] = bytes(2000)
    path.write_bytes(content)
    frames, _ = frames_of(path)
    assert len(frames) > 20 and frames[-1].seconds > 1.4


@pytest.mark.parametrize(
    ("name", "content", "slug"),
    [
        ("empty.mp4", b"", "bad-video"),
        ("text.mp4", b"this is no video" * 100, "bad-video"),
        ("missing.mp4", None, "no-such-video"),
    ],
    ids=["empty", "text", "missing"],
)
def test_file_that_is_no_video_is_rejected(
    tmp_path: Path, name: str, content: bytes | None, slug: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(Problem) as raised:
        open_video(tmp_path / name)
    assert raised.value.slug == slug and name in raised.value.detail


def test_file_with_sound_alone_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(Problem) as raised:
        open_video(write_sound(tmp_path / "song.m4a"))
    assert raised.value.slug == "no-video" and "audio" in raised.value.detail


def test_playlists_open_neither_addresses_nor_other_files(tmp_path: Path) -> None:
    write_video(tmp_path / "secret.ts", [quartered(corner=GREEN)] * 3, "mpeg4")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/x.ts"
        lists = {
            "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n",
            "local.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n",
            "list.ffconcat": "ffconcat version 1.0\nfile secret.ts\n",
            "list.sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video {0} RTP/AVP 96\n",
            "list.mpd": f"<MPD><Period><BaseURL>{address}</BaseURL></Period></MPD>",
            "disguised.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n",
        }
        for name, text in lists.items():
            (tmp_path / name).write_text(text)
            with pytest.raises(Problem) as raised:
                open_video(tmp_path / name)
            assert raised.value.slug == "bad-video", name
        for source in (address, "concat:secret.ts|secret.ts", "subfile,,start,0,end,9,,:secret.ts"):
            with pytest.raises(Problem):
                open_video(source)
        with pytest.raises(BlockingIOError):
            server.accept()  # nothing has connected


def test_frames_that_are_too_large_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "wall.mp4", [quartered((320, 200))])
    monkeypatch.setattr(decoding, "MAX_PIXELS", 320 * 200 - 1)
    with pytest.raises(Problem) as raised:
        open_video(path)
    assert raised.value.slug == "video-too-large" and "320 x 200" in raised.value.detail


def test_video_that_is_too_long_ends_with_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "endless.mkv", [quartered()] * 4, times=[0, 1, 2, 900])
    monkeypatch.setattr(decoding, "MAX_SECONDS", 100.0)
    frames, problem = frames_of(path)
    assert len(frames) == 3 and problem is not None and problem.slug == "video-too-large"


def test_address_is_reported_without_its_password() -> None:
    with pytest.raises(Problem) as raised:
        open_video("rtsp://user:hush@127.0.0.1:1/stream")
    assert raised.value.slug == "bad-video" and "hush" not in raised.value.detail
