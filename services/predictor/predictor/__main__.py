"""Serve the predictor: `python -m predictor`."""

from agegender_service import quick_imports


def main() -> None:
    with quick_imports():
        from agegender_service.app import return_large_blocks, serve
        from agegender_service.settings import read_settings

        from predictor.app import create_predictor
        from predictor.settings import PredictorSettings

    return_large_blocks()
    settings = read_settings(PredictorSettings)
    serve(create_predictor(settings), settings, settings.port)


if __name__ == "__main__":
    main()
