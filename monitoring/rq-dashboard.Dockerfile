# Build context: the repository's root. RQ's own dashboard, reading jobs as JSON and deleting none.
FROM python:3.11-slim-bookworm
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
COPY constraints.txt /src/
# it imports six, and does not say so
RUN python -m venv /venv && /venv/bin/pip install -c /src/constraints.txt rq-dashboard six \
 && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin agegender
USER 10001
EXPOSE 10006
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=6 \
  CMD ["/venv/bin/python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:10006/', timeout=2)"]
CMD ["/bin/sh", "-c", "RQ_DASHBOARD_REDIS_URL=redis://:${REDIS_PASSWORD:-$(cat /run/age-gender/redis-password)}@redis:6379/0 \
  exec /venv/bin/rq-dashboard --bind 0.0.0.0 --port 10006 --json --disable-delete"]
