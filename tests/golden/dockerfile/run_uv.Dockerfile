FROM python:3.12-slim
ENV DEBIAN_FRONTEND=noninteractive PYTHONUNBUFFERED=1 NVIDIA_DRIVER_CAPABILITIES=all LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/usr/lib/x86_64-linux-gnu:/usr/local/nvidia/lib64:/usr/local/nvidia/bin" PIP_BREAK_SYSTEM_PACKAGES=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_SRC="/usr/local/src"
RUN --mount=type=cache,target=/root/.cache/pip python -m pip install --cache-dir /root/.cache/pip cog
ENV UV_SYSTEM_PYTHON=true
RUN --mount=type=cache,target=/root/.cache/pip python -m pip install --cache-dir /root/.cache/pip uv
RUN echo before
RUN mkdir /opt/more && UV_LINK_MODE=copy uv pip install --break-system-packages six
WORKDIR /src
EXPOSE 5000
ENV COG_PREDICT_TYPE_STUB="predict.py:Predictor"
CMD ["python","-m","cog.server.http"]
COPY . /src
RUN rm -rf /src/.cog/build && { rmdir /src/.cog 2>/dev/null || true; }
