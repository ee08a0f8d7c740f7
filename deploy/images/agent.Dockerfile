# The node agent: agent, node proxy, CNI plugin and eBPF programs. Build it with `make images`, which makes the wheel first.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS install
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv
COPY dist/nodemesh-*.whl /tmp/
RUN python3 -m venv /opt/nodemesh \
 && /opt/nodemesh/bin/pip install --no-cache-dir --disable-pip-version-check /tmp/nodemesh-*.whl \
 && /opt/nodemesh/bin/pip uninstall --yes --disable-pip-version-check pip setuptools

FROM ${BASE}
# What the captures are made with: libbpf, libnftables, and iptables for nodes without nftables.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates iptables libbpf1 libnftables1 python3 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=install /opt/nodemesh /opt/nodemesh
ENV PATH=/opt/nodemesh/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1
# It enters the namespaces of pods, which only root may; the capabilities that it needs are named in the DaemonSet.
USER 0
ENTRYPOINT ["nodeagent"]
CMD ["run"]
