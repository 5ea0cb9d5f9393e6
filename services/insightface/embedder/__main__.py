"""`python -m embedder`"""

from agegender.web.serve import serve

from embedder.app import make_app
from embedder.settings import EmbedderSettings

settings = EmbedderSettings()
serve(make_app(settings), settings, settings.port)
