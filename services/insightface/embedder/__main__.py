"""`python -m embedder`"""

from agegender.settings import read_settings
from agegender.web.serve import serve

from embedder.app import make_app
from embedder.settings import EmbedderSettings

settings = read_settings(EmbedderSettings)
serve(make_app(settings), settings, settings.port)
