"""`agegender predict` and `models` against a predictor that runs."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agegender.cli.app import main
from PIL import Image
from predictor.app import create_predictor
from predictor.settings import PredictorSettings

from tests.support.embedder_double import SPACE, EmbedderDouble
from tests.support.made_heads import promoted_heads
from tests.support.serving import serving

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    for name in ("one.png", "inner/two.PNG"):
        Image.new("RGB", (100, 100), "grey").save(folder / name, "PNG")
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def proxy() -> Iterator[EmbedderDouble]:
    with EmbedderDouble(faces=2).served() as double:
        yield double


@pytest.fixture
def run(
    tmp_path: Path,
    proxy: EmbedderDouble,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Run]:
    promoted_heads(tmp_path / "models", SPACE)
    settings = PredictorSettings(data_dir=tmp_path, heads_dir=tmp_path / "none", proxy_url=proxy.url)
    with serving(create_predictor(settings)) as url:
        monkeypatch.setenv("AGEGENDER_PREDICTOR_URL", url)
        monkeypatch.setenv("COLUMNS", "200")

        def ran(*arguments: str) -> tuple[int, str, str]:
            monkeypatch.setattr("sys.argv", ["agegender", *arguments])
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                main()
            told = capsys.readouterr()
            return int(ended.value.code or 0), told.out, told.err

        yield ran


def printed(out: str) -> list[Any]:
    """The JSON lines; the predictor, which runs in this process, logs between them."""
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def test_folder_is_answered_picture_by_picture(run: Run, pictures: Path) -> None:
    code, out, _ = run("predict", str(pictures))
    assert code == 0 and "one.png" in out and "two.PNG" in out and "notes" not in out
    code, out, _ = run("predict", str(pictures), "--json", "--max-faces", "1", "--coverage", "0.5")
    lines = printed(out)
    assert [Path(line["file"]).name for line in lines] == ["two.PNG", "one.png"]
    assert [len(line["faces"]) for line in lines] == [1, 1]
    assert lines[0]["faces"][0]["age"]["coverage"] == 0.5


def test_turned_pictures_are_shown_with_their_rotation(
    run: Run, pictures: Path, proxy: EmbedderDouble
) -> None:
    proxy.rotation = 270
    _, out, _ = run("predict", str(pictures / "one.png"))
    assert "one.png turned 270°" in out
    _, out, _ = run("predict", str(pictures / "one.png"), "--json")
    assert '"rotation": 270' in out


def test_annotated_pictures_are_written(run: Run, pictures: Path, tmp_path: Path) -> None:
    code, _, _ = run("predict", str(pictures / "one.png"), "--annotate", str(tmp_path / "out"))
    assert code == 0
    assert Image.open(tmp_path / "out" / "one-annotated.png").size == (100, 100)


def test_bad_picture_is_told_beside_the_good_ones_and_ends_with_one(
    run: Run, pictures: Path, proxy: EmbedderDouble
) -> None:
    (pictures / "bad.jpg").write_bytes(b"bad")
    proxy.broken = lambda image: image == b"bad"
    code, out, _ = run("predict", str(pictures), "--json")
    told = {Path(line["file"]).name: line for line in printed(out)}
    assert code == 1
    assert told["bad.jpg"]["problem"]["status"] == 422 and len(told["one.png"]["faces"]) == 2


def test_video_is_answered_frame_by_frame(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="OpenCV, which reads webcams, is not installed")
    frame = io.BytesIO()
    Image.new("RGB", (64, 48), "grey").save(frame, "JPEG")
    video = tmp_path / "video.mjpeg"
    video.write_bytes(frame.getvalue() * 3)
    code, out, _ = run("predict", "--webcam", str(video), "--json")
    assert code == 0 and [len(image["faces"]) for image in printed(out)] == [2, 2, 2]
    assert run("predict", "--webcam", str(tmp_path / "nothing.mp4"))[0] == 2


def test_models_are_listed_and_rolled_back(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("models")
    assert code == 0 and SPACE.id in out and "v1" in out
    promoted_heads(tmp_path / "models", SPACE, "v2")
    code, out, _ = run("rollback", "gender", "--json")
    (told,) = printed(out)
    assert {head["task"]: head["version"] for head in told["models"]}["gender"] == "v1"
    code, _, err = run("rollback", "gender", "--space", "nowhere-1")
    assert code == 1 and "nowhere-1" in err
