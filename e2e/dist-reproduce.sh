#!/usr/bin/env bash
# Builds the release of this commit again, in a fresh clone in another directory, and compares every file with target/dist.
#   ARCHES='x86_64 aarch64'   architectures, as they were for `make dist`
set -euo pipefail
cd "$(dirname "$0")/.."

[ -s target/dist/SHA256SUMS ] || { echo 'dist-reproduce: run `make dist` first' >&2; exit 1; }
[ -z "$(git status --porcelain --untracked-files=no)" ] || { echo 'dist-reproduce: there are uncommitted changes' >&2; exit 1; }
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
git clone --quiet . "$place/another-name"
mkdir -p "$place/another-name/target"
ln -s "$PWD/target/tools" "$place/another-name/target/tools"
(cd "$place/another-name" && env -u CARGO_TARGET_DIR e2e/dist.sh >/dev/null)
diff target/dist/SHA256SUMS "$place/another-name/target/dist/SHA256SUMS"
echo "dist-reproduce: $(wc -l <target/dist/SHA256SUMS) files are the same, byte by byte"
