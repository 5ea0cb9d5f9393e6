"""`python -m trainer`: the HTTP API."""

from agegender_service import quick_imports


def main() -> None:
    with quick_imports():
        from agegender_service.app import serve
        from agegender_service.settings import read_settings

        from trainer.app import create_trainer
        from trainer.settings import TrainerSettings

    settings = read_settings(TrainerSettings)
    serve(create_trainer(settings), settings, settings.port)


if __name__ == "__main__":
    main()
