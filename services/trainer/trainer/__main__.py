"""`python -m trainer`: the HTTP API."""

from agegender.settings import read_settings
from agegender.web.serve import serve

from trainer.app import create_trainer
from trainer.settings import TrainerSettings

settings = read_settings(TrainerSettings)
serve(create_trainer(settings), settings, settings.port)
