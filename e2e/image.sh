#!/usr/bin/env bash
# Makes the image of a release from the archives in target/dist, for every architecture there, and prints its digest: the same
# archives give the same digest. Usage: image.sh [REGISTRY/NAME]; with a name the image is pushed as NAME:vVERSION.
# The image is left in target/dist-image (OCI layout), with its digest in target/dist-image/digest.
set -euo pipefail
cd "$(dirname "$0")/.."

name=${1:-}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
epoch=$(git log -1 --format=%ct 2>/dev/null || date +%s)
out=$PWD/target/dist-image
rm -rf "$out"
mkdir -p "$out/storage" "$out/run"
podman() { command podman --root "$out/storage" --runroot "$out/run" --storage-driver vfs "$@"; }
cleanup() { rm -rf "$out/storage" "$out/run" "$out/programs"; }
trap cleanup EXIT

platform_of() {
    case $1 in
        x86_64) echo linux/amd64 ;;
        aarch64) echo linux/arm64 ;;
        *) echo "image.sh: no platform for $1" >&2; exit 1 ;;
    esac
}

podman manifest create podroute >/dev/null
for archive in target/dist/podroute-"$version"-*.tar.gz; do
    arch=${archive#target/dist/podroute-"$version"-}
    arch=${arch%.tar.gz}
    programs=target/dist-image/programs/$arch
    mkdir -p "$programs"
    tar -xzf "$archive" --strip-components=1 -C "$programs"
    podman build --quiet --platform "$(platform_of "$arch")" --timestamp "$epoch" --build-arg "PROGRAMS=$programs" \
        --label "org.opencontainers.image.version=$version" --label "org.opencontainers.image.revision=$(git rev-parse HEAD)" \
        --manifest podroute --file Containerfile . >/dev/null
done
if [ -n "$name" ]; then
    podman manifest push --all --digestfile "$out/digest" podroute "docker://$name:v$version"
fi
podman manifest push --quiet --all podroute "oci:$out/oci:v$version" >/dev/null
digest=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["manifests"][0]["digest"])' "$out/oci/index.json")
[ -s "$out/digest" ] || printf '%s\n' "$digest" >"$out/digest"
echo "${name:-podroute}@$(cat "$out/digest")"
