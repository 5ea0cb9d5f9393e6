"""`python -m embedder`"""

from agegender_service.serve import serve
from agegender_service.settings import read_settings

from embedder.app import make_app
from embedder.settings import EmbedderSettings

settings = read_settings(EmbedderSettings)
serve(make_app(settings), settings, settings.port)
