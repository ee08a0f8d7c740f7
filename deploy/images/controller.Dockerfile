# The controller. Runs as nobody in particular, on a file system that it can't write to. Build it with `make images`.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS install
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv
COPY dist/nodemesh-*.whl /tmp/
RUN python3 -m venv /opt/nodemesh \
 && /opt/nodemesh/bin/pip install --no-cache-dir --disable-pip-version-check "$(ls /tmp/nodemesh-*.whl)[redis]" \
 && /opt/nodemesh/bin/pip uninstall --yes --disable-pip-version-check pip setuptools \
 && rm -rf /opt/nodemesh/lib/python3.*/site-packages/nodeagent /opt/nodemesh/bin/nodeagent

FROM ${BASE}
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=install /opt/nodemesh /opt/nodemesh
ENV PATH=/opt/nodemesh/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
ENTRYPOINT ["meshctl"]
CMD ["serve"]
