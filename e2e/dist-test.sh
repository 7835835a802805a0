#!/usr/bin/env bash
# Tests target/dist: the programs of both architectures (the other one under qemu-user), the archives, and the packages installed,
# upgraded and removed in a copy of this machine's files that is gone afterwards. Needs root on Debian, and `make dist` before.
set -euo pipefail
cd "$(dirname "$0")/.."

dist=$PWD/target/dist
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)

fail() { echo "dist-test: $*" >&2; exit 1; }
step() { echo "dist-test: $*"; }

runner() { # ARCH; what runs its programs
    if [ "$1" = "$(uname -m)" ]; then echo; else echo "qemu-$1-static"; fi
}

# Static programs that know their version, their configuration and their protocol.
programs() { # ARCH
    local place=$work/$1 name=podroute-$version-$1 run out
    mkdir -p "$place"
    tar -xzf "$dist/$name.tar.gz" -C "$place"
    run=$(runner "$1")
    for program in podroute podroute-cni podroute-ipam; do
        file "$place/$name/$program" | grep -Eq 'static(ally|-pie) linked' || fail "$1: $program is not static"
    done
    [ "$($run "$place/$name/podroute" --version)" = "podroute $version" ] || fail "$1: --version"
    for example in "$place/$name"/examples/*.yaml; do
        $run "$place/$name/podroute" check "$example" >"$work/out" || fail "$1: check $example: $(cat "$work/out")"
    done
    echo 'apiVersion: podroute/v1' >"$work/bad.yaml"
    if $run "$place/$name/podroute" check "$work/bad.yaml" >"$work/out" 2>&1; then fail "$1: check accepts a file without cluster"; fi
    $run "$place/$name/podroute" schema | python3 -c 'import json,sys; json.load(sys.stdin)["properties"]["peers"]' || fail "$1: schema"
    out=$(CNI_COMMAND=VERSION $run "$place/$name/podroute-cni" </dev/null) || fail "$1: CNI VERSION"
    grep -q supportedVersions <<<"$out" || fail "$1: CNI VERSION: $out"
    # ADD without an agent: the plugin answers with the error of the specification, and fails.
    if out=$(echo '{"cniVersion":"1.0.0","name":"podroute","type":"podroute-cni","runDir":"'"$work"'/none"}' |
        CNI_COMMAND=ADD CNI_CONTAINERID=a CNI_NETNS="$work/no-netns" CNI_IFNAME=eth0 CNI_PATH=/ \
            $run "$place/$name/podroute-cni"); then
        fail "$1: ADD without a network namespace succeeds"
    fi
    python3 -c 'import json,sys; e = json.loads(sys.argv[1]); assert e["code"] and e["msg"], e' "$out" || fail "$1: ADD: $out"
    for file in share/man/podroute.1 share/podroute.bash share/_podroute share/podroute.fish LICENSE CHANGELOG.md; do
        [ -s "$place/$name/$file" ] || fail "$1: no $file in the archive"
    done
    step "$1: programs and archive"
}

# The rest runs in a root of its own: this machine's files below, a tmpfs above, its own mounts and processes.
in_copy() { # FUNCTION
    unshare --mount --pid --fork --propagation private bash -euo pipefail -c "
        mount -t tmpfs none '$work/layer'
        mkdir -p '$work/layer/'{upper,work,root}
        mount -t overlay none -o 'lowerdir=/,upperdir=$work/layer/upper,workdir=$work/layer/work' '$work/layer/root'
        mount -t proc none '$work/layer/root/proc'
        mount -t tmpfs none '$work/layer/root/run'
        mount -t tmpfs none '$work/layer/root/tmp'
        cp '$dist'/*.deb '$dist'/*.rpm '$work/layer/root/tmp/'
        chroot '$work/layer/root' env version=$version arch=$(uname -m) bash -euo pipefail -c '$(declare -f fail step installed removed unit "$1"); $1'
    "
}

files='/usr/bin/podroute /usr/bin/podroute-cni /usr/bin/podroute-ipam /usr/lib/systemd/system/podroute.service
/usr/share/man/man1/podroute.1 /usr/share/bash-completion/completions/podroute /etc/iproute2/rt_protos.d/podroute.conf'

installed() {
    for file in $FILES; do
        [ -e "$file" ] || [ -e "$file.gz" ] || fail "$1: $file is not installed"
    done
    [ "$(podroute --version)" = "podroute $version" ] || fail "$1: --version"
    for page in podroute podroute-show; do
        man --where $page >/dev/null || fail "$1: no man page $page"
    done
    bash -c "source /usr/share/bash-completion/completions/podroute; complete -p podroute" >/dev/null || fail "$1: completion"
    grep -q "245.*podroute" /etc/iproute2/rt_protos.d/podroute.conf || fail "$1: names of route protocols"
}

removed() {
    for file in $FILES; do
        [ "$file" = /etc/iproute2/rt_protos.d/podroute.conf ] || [ ! -e "$file" ] || fail "$1: $file is still there"
    done
    [ ! -e /etc/systemd/system/multi-user.target.wants/podroute.service ] || fail "$1: the unit is still enabled"
}

# Valid, and hardened.
unit() {
    local said
    said=$(systemd-analyze verify --man=no podroute.service 2>&1) || fail "$1: $said"
    if grep podroute <<<"$said"; then fail "$1: the unit"; fi
    systemd-analyze security --offline=true --threshold=45 --no-pager podroute.service >/dev/null || fail "$1: the unit is not hardened"
}

debian() {
    local conf=/etc/iproute2/rt_protos.d/podroute.conf deb
    deb=/tmp/podroute-$version-$arch.deb
    dpkg -i "$deb" >/dev/null
    installed deb
    unit deb
    [ ! -e /etc/systemd/system/multi-user.target.wants/podroute.service ] || fail "deb: the unit is enabled without a configuration"
    systemctl enable podroute.service 2>/dev/null
    echo "# of the operator" >>$conf
    mkdir -p /etc/podroute && touch /etc/podroute/podroute.yaml
    dpkg -i "$deb" >/dev/null
    grep -q "of the operator" $conf || fail "deb: an upgrade overwrites a changed file in /etc"
    [ -e /etc/systemd/system/multi-user.target.wants/podroute.service ] || fail "deb: an upgrade disables the unit"
    dpkg -r podroute >/dev/null
    removed deb
    grep -q "of the operator" $conf || fail "deb: removal takes a changed file in /etc"
    dpkg -P podroute >/dev/null
    [ ! -e $conf ] || fail "deb: purge leaves $conf"
    [ -e /etc/podroute/podroute.yaml ] || fail "deb: purge takes the configuration"
    dpkg --audit
    step "$arch: Debian package installed, upgraded, removed"
}

rpms() {
    local conf=/etc/iproute2/rt_protos.d/podroute.conf rpm
    rpm=/tmp/podroute-$version-$arch.rpm
    rpm --initdb
    rpm --nodeps -i "$rpm"
    installed rpm
    unit rpm
    rpm -V --nodeps podroute || fail "rpm: verification"
    systemctl enable podroute.service 2>/dev/null
    echo "# of the operator" >>$conf
    rpm --nodeps -U --force "$rpm"
    grep -q "of the operator" $conf || fail "rpm: an upgrade overwrites a changed file in /etc"
    [ -e /etc/systemd/system/multi-user.target.wants/podroute.service ] || fail "rpm: an upgrade disables the unit"
    rpm --nodeps -e podroute 2>/dev/null
    removed rpm
    [ -e $conf.rpmsave ] || fail "rpm: removal takes a changed file in /etc"
    step "$arch: RPM installed, upgraded, removed"
}

e2e/packages.sh dist
[ "$(id -u)" -eq 0 ] || fail 'needs root'
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/layer"
export FILES=$files

(cd "$dist" && sha256sum --quiet -c SHA256SUMS) || fail 'checksums'
arches=$(cd "$dist" && ls podroute-"$version"-*.tar.gz | sed "s/podroute-$version-\(.*\).tar.gz/\1/")
for arch in $arches; do
    programs "$arch"
    dpkg-deb --info "$dist/podroute-$version-$arch.deb" >/dev/null
    rpm -qp "$dist/podroute-$version-$arch.rpm" >/dev/null
done
python3 - "$dist/podroute-$version.cdx.json" "$version" <<'PY' || fail SBOM
import json, sys
bom = json.load(open(sys.argv[1]))
assert bom["bomFormat"] == "CycloneDX" and bom["metadata"]["component"]["version"] == sys.argv[2]
names = {component["name"] for component in bom["components"]}
assert {"tokio", "kube", "rustls", "bgp-proto"} <= names, names
assert "/root" not in json.dumps(bom) and "/home" not in json.dumps(bom), "a path of the build machine"
PY
in_copy debian
in_copy rpms
step 'all passed'
