FROM python:3.12-slim
ENV DEBIAN_FRONTEND=noninteractive PYTHONUNBUFFERED=1 NVIDIA_DRIVER_CAPABILITIES=all LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/usr/lib/x86_64-linux-gnu:/usr/local/nvidia/lib64:/usr/local/nvidia/bin" PIP_BREAK_SYSTEM_PACKAGES=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_SRC="/usr/local/src"
COPY .cog/build/certificates/ /usr/local/share/ca-certificates/
RUN if command -v update-ca-certificates >/dev/null; then old=$(cat /etc/ssl/certs/ca-certificates.crt); update-ca-certificates; printf '%s\n' "$old" >> /etc/ssl/certs/ca-certificates.crt; else mkdir -p /etc/ssl/certs && cat /usr/local/share/ca-certificates/cog-ca-cert*.crt >> /etc/ssl/certs/ca-certificates.crt; fi
ENV SSL_CERT_FILE="/etc/ssl/certs/ca-certificates.crt" REQUESTS_CA_BUNDLE="/etc/ssl/certs/ca-certificates.crt" PIP_CERT="/etc/ssl/certs/ca-certificates.crt"
COPY .cog/build/requirements.txt /tmp/cog/requirements.txt
COPY .cog/build/artifacts/ /tmp/cog/artifacts/
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip.conf,target=/etc/pip.conf python -m pip install --cache-dir /root/.cache/pip -r /tmp/cog/requirements.txt
RUN find / -xdev -type f -name "*python*.so" -printf "%h\n" | sort -u > /etc/ld.so.conf.d/cog.conf && ldconfig
COPY .cog/build/runtime/ /tmp/cog/runtime/
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip.conf,target=/etc/pip.conf python -m pip install --cache-dir /root/.cache/pip /tmp/cog/runtime/cog-0.16.12-py3-none-any.whl coglet==0.1.0
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=token,target=/run/token pip install b
WORKDIR /src
EXPOSE 5000
ENV COG_PREDICT_TYPE_STUB="predict.py:Predictor" COG_TRAIN_TYPE_STUB="train.py:train" COG_MAX_CONCURRENCY=4
CMD ["python","-m","cog.server.http"]
COPY .cog/weights/ /src/
COPY .cog/project/ /src/
RUN rm -rf /src/.cog/build && { rmdir /src/.cog 2>/dev/null || true; }
