"""`agegender predict --webcam`: frame by frame, one in flight."""

from typing import Any

import typer
from rich.live import Live

from agegender_client import Client
from agegender_client.cli.output import console, print_json, table
from agegender_client.cli.prediction import cells


def predict_live(source: str, options: dict[str, Any], *, as_json: bool) -> None:
    """Until Ctrl-C, or the end of a video file. `source` is a webcam's number, or a file."""
    try:
        import cv2
    except ImportError as error:
        raise typer.BadParameter("--webcam needs OpenCV: pip install opencv-python-headless") from error
    capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not capture.isOpened():
        raise typer.BadParameter(f"there is no webcam or video {source!r}; try 0, or 1")
    try:
        with Client() as client, Live(console=console, auto_refresh=False) as live:
            while True:
                seen, frame = capture.read()
                if not seen:
                    return
                _, jpeg = cv2.imencode(".jpg", frame)
                image = client.predict(jpeg.tobytes(), **options)
                if as_json:
                    print_json(image)
                    continue
                shown = table("face", "age", "interval", "gender", "quality")
                for number, face in enumerate(image.faces, 1):
                    shown.add_row(str(number), *cells(face))
                live.update(shown, refresh=True)
    except KeyboardInterrupt:
        return
    finally:
        capture.release()
