# SGLang's image with the plugin, for NVIDIA GPUs. Never built or run by us: see docs/deploy.md.
#   docker build -t sglang-multiverse:0.1.0-sglang0.5.23 .
#   docker run --gpus all --ipc=host -p 127.0.0.1:30000:30000 \
#       -v ~/.cache/huggingface:/root/.cache/huggingface \
#       sglang-multiverse:0.1.0-sglang0.5.23 --model-path Multiverse4FM/Multiverse-32B --tp-size 4

FROM python:3.12-slim-bookworm AS wheel
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM lmsysorg/sglang:v0.5.23
COPY --from=wheel /wheels /wheels
# SGLang, torch and CUDA are the image's own, so the extra `serve` is left out. A server refuses to
# start on another SGLang than the plugin was made for.
ENV PIP_BREAK_SYSTEM_PACKAGES=1
RUN python3 -m pip install --no-cache-dir /wheels/*.whl && multiverse --help > /dev/null
# Not where the image keeps sources: a folder of that name would be imported in a package's place.
WORKDIR /root

EXPOSE 30000
# /health answers after a second at the earliest, and after 20 if nothing moves.
HEALTHCHECK --start-period=30m --interval=30s --timeout=25s \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:30000/health')"]
# Flags given to `docker run` come after these and win.
ENTRYPOINT ["multiverse", "serve", "--host", "0.0.0.0", "--port", "30000"]
