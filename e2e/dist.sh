#!/usr/bin/env bash
# Makes what a release consists of, in target/dist: static programs for x86_64 and aarch64 as archive, Debian package and RPM, the Helm
# chart, an SBOM (CycloneDX) and checksums. The same commit gives the same bytes: times come from the commit, paths are not in the programs.
#   ARCHES='x86_64 aarch64'   architectures; aarch64 needs gcc-aarch64-linux-gnu and libc6-dev-arm64-cross
set -euo pipefail
cd "$(dirname "$0")/.."

ARCHES=${ARCHES:-x86_64 aarch64}
target=${CARGO_TARGET_DIR:-$PWD/target}
dist=$PWD/target/dist
tools=$target/tools
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || date +%s)
export SOURCE_DATE_EPOCH
programs=(podroute podroute-cni podroute-ipam)

# Installs a cargo command from the registry, once.
tool() { # CRATE VERSION PROGRAM
    [ -x "$tools/bin/$3" ] || cargo install --quiet --locked --root "$tools" "$1@$2"
}

build() { # ARCH
    local triple=$1-unknown-linux-gnu
    if [ "$1" != "$(uname -m)" ]; then
        rustup target add "$triple"
        local upper=${triple^^}
        export "CARGO_TARGET_${upper//-/_}_LINKER=$1-linux-gnu-gcc" "CC_${triple//-/_}=$1-linux-gnu-gcc"
    fi
    RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=$PWD=/podroute --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo" \
        cargo build --release --target "$triple" -p route-controller -p cni-ipam --bins
}

# Completions and man pages come from the program itself, of this machine's architecture.
share() {
    local podroute=$target/$(uname -m)-unknown-linux-gnu/release/podroute
    mkdir -p "$dist/share/man"
    "$podroute" man "$dist/share/man"
    "$podroute" completions bash >"$dist/share/podroute.bash"
    "$podroute" completions zsh >"$dist/share/_podroute"
    "$podroute" completions fish >"$dist/share/podroute.fish"
}

# A directory as archive, with the commit's time and root's names.
pack() { # PARENT NAME FILE
    tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode='u+rwX,go+rX,go-w' \
        -C "$1" -cf - "$2" | gzip -n >"$3"
}

archive() { # ARCH
    local name=podroute-$version-$1 place
    place=$(mktemp -d)
    mkdir -p "$place/$name"
    (cd "$target/$1-unknown-linux-gnu/release" && install -m 755 -t "$place/$name" "${programs[@]}")
    cp -r LICENSE README.md CHANGELOG.md examples "$dist/share" "$place/$name/"
    pack "$place" "$name" "$dist/$name.tar.gz"
    rm -r "$place"
}

packages() { # ARCH
    local triple=$1-unknown-linux-gnu
    CARGO_TARGET_DIR=$target "$tools/bin/cargo-deb" deb --no-build --no-strip -p route-controller --target "$triple" \
        --deb-version "$version-1" --output "$dist/podroute-$version-$1.deb"
    CARGO_TARGET_DIR=$target "$tools/bin/cargo-generate-rpm" generate-rpm -p route-controller --target "$triple" \
        --output "$dist/podroute-$version-$1.rpm"
}

e2e/packages.sh dist
rm -rf "$dist"
mkdir -p "$dist"
tool cargo-deb 3.8.0 cargo-deb
tool cargo-generate-rpm 0.21.1 cargo-generate-rpm
tool cargo-cyclonedx 0.5.9 cargo-cyclonedx
for arch in $ARCHES; do build "$arch"; done
case " $ARCHES " in *" $(uname -m) "*) ;; *) build "$(uname -m)" ;; esac
share
for arch in $ARCHES; do
    archive "$arch"
    packages "$arch"
done
pack examples/helm podroute "$dist/podroute-chart-$version.tgz"
"$tools/bin/cargo-cyclonedx" cyclonedx --quiet --format json --manifest-path route-controller/Cargo.toml \
    --override-filename "podroute-$version.cdx"
mv "route-controller/podroute-$version.cdx.json" "$dist/"
find . -name "podroute-$version.cdx.json" -not -path './target/*' -delete
rm -r "$dist/share"
# What whoever builds it again needs to know.
printf '%s\n' "commit $(git rev-parse HEAD 2>/dev/null || echo unknown)" "SOURCE_DATE_EPOCH $SOURCE_DATE_EPOCH" "$(rustc -V)" "$(cargo -V)" \
    >"$dist/podroute-$version.buildinfo"
(cd "$dist" && sha256sum -- * >SHA256SUMS)
ls -l "$dist"
