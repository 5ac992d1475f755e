FROM python:3.11-slim-bookworm AS python
FROM nvidia/cuda:12.1.1-cudnn8-devel-ubuntu22.04
ENV DEBIAN_FRONTEND=noninteractive PYTHONUNBUFFERED=1 NVIDIA_DRIVER_CAPABILITIES=all LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/usr/lib/x86_64-linux-gnu:/usr/local/nvidia/lib64:/usr/local/nvidia/bin" LANG=C.UTF-8 PIP_BREAK_SYSTEM_PACKAGES=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_SRC="/usr/local/src"
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked apt-get update -qq && apt-get install -qqy ca-certificates curl git libexpat1 libpython3-stdlib wget xz-utils zlib1g && rm -rf /var/lib/apt/lists/*
COPY --from=python /usr/local/ /usr/local/
RUN ldconfig && python -c "import bz2, ctypes, lzma, sqlite3, ssl, zlib"
COPY .cog/build/requirements.txt /tmp/cog/requirements.txt
COPY .cog/build/constraints.txt /tmp/cog/constraints.txt
RUN --mount=type=cache,target=/root/.cache/pip python -m pip install --cache-dir /root/.cache/pip -r /tmp/cog/requirements.txt
RUN find / -xdev -type f -name "*python*.so" -printf "%h\n" | sort -u > /etc/ld.so.conf.d/cog.conf && ldconfig
RUN --mount=type=cache,target=/root/.cache/pip python -m pip install --cache-dir /root/.cache/pip cog
WORKDIR /src
EXPOSE 5000
ENV COG_PREDICT_TYPE_STUB="predict.py:Predictor"
CMD ["python","-m","cog.server.http"]
COPY . /src
RUN rm -rf /src/.cog/build && { rmdir /src/.cog 2>/dev/null || true; }
