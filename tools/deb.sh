#!/usr/bin/env bash
# Builds the Debian package from the wheel in DIST (dist/), and puts it there. VERSION: another than the wheel's; PYTHON: an interpreter of
# the version that the target has.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
wheel_version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
version=${VERSION:-$wheel_version}
dist=${DIST:-dist}
wheel=$(ls "$dist"/nodemesh-"$wheel_version"-*.whl 2>/dev/null) || { echo "no wheel of version $wheel_version in $dist: make wheel" >&2; exit 1; }
architecture=$(dpkg --print-architecture)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
lib=$root/usr/lib/nodemesh
mkdir -p "$root"/DEBIAN "$root"/usr/bin "$lib"/bin "$root"/lib/systemd/system "$root"/etc/default "$root"/etc/nodemesh/mesh "$root"/usr/share/doc/nodemesh

echo "deb: Python's packages"
"$python" -m pip install --quiet --disable-pip-version-check --no-compile --only-binary :all: --target "$lib/python" "$wheel"
# Their own commands and tests are not ours to install.
rm -rf "$lib/python/bin" "$lib"/python/*/tests
# Checked against no source: dates differ on the target, and nobody but this package writes there.
"$python" -m compileall -q -j0 --invalidation-mode unchecked-hash -s "$root" -p / "$lib/python"
ln -s ../python/nodeagent/ztunnel/bin/nodemesh-proxy "$lib/bin/nodemesh-proxy"
ln -s ../python/nodeagent/cni/bin/nodemesh-cni "$lib/bin/nodemesh-cni"
for program in nodeagent:nodeagent.cli.main meshctl:control.cli.main; do
  sed "s/@PROGRAM@/${program%%:*}/; s/@MODULE@/${program##*:}/" deploy/debian/launcher >"$root/usr/bin/${program%%:*}"
  chmod 755 "$root/usr/bin/${program%%:*}"
done

# By the programs that are in the package, not by those of this tree.
ours() { PYTHONPATH=$lib/python PYTHONDONTWRITEBYTECODE=1 "$python" -s "$@"; }
share=$root/usr/share
ours tools/man.py "$share/man/man1" >/dev/null
gzip -9n "$share"/man/man1/*.1
mkdir -p "$share"/{bash-completion/completions,zsh/vendor-completions,fish/vendor_completions.d}
for program in nodeagent:nodeagent.cli.main meshctl:control.cli.main; do
  name=${program%%:*}
  completion() { ours -c "import sys; from ${program##*:} import main; main(sys.argv[1:], prog_name='$name')" completion "$1"; }
  completion bash >"$share/bash-completion/completions/$name"
  completion zsh >"$share/zsh/vendor-completions/_$name"
  completion fish >"$share/fish/vendor_completions.d/$name.fish"
done

install -m 644 deploy/systemd/*.service deploy/systemd/*.slice "$root/lib/systemd/system/"
for part in agent controller; do
  install -m 644 "deploy/debian/nodemesh-$part.default" "$root/etc/default/nodemesh-$part"
done
install -m 644 LICENSE "$root/usr/share/doc/nodemesh/copyright"
install -m 644 deploy/systemd/README.md CHANGELOG.md "$root/usr/share/doc/nodemesh/"
install -D -m 644 deploy/systemd/agent.yaml "$root/usr/share/doc/nodemesh/examples/agent.yaml"
chmod -R u=rwX,go=rX "$root"

tag=$("$python" -c 'import sys; print("{}.{}".format(*sys.version_info))')
next=$("$python" -c 'import sys; print("{}.{}".format(sys.version_info[0], sys.version_info[1] + 1))')
sed "s/@VERSION@/$version/; s/@ARCHITECTURE@/$architecture/; s/@SIZE_KIB@/$(du -sk "$root" | cut -f1)/; s/@PYTHON@/$tag/; s/@NEXT_PYTHON@/$next/" \
  deploy/debian/control >"$root/DEBIAN/control"
install -m 644 deploy/debian/conffiles "$root/DEBIAN/"
install -m 755 deploy/debian/{postinst,prerm,postrm} "$root/DEBIAN/"
package=$dist/nodemesh_${version}_$architecture.deb
dpkg-deb --root-owner-group ${DEB_OPTIONS:--Zxz} --build "$root" "$package" >/dev/null
echo "deb: $package"
