#!/usr/bin/env bash
# Installs what the lab needs from Debian's packages, and says what. Usage:
#   packages.sh demo TOR NODE     what the demo needs with these daemons
#   packages.sh test              what the tests need
# Without root or on another distribution it only says what is missing: the demo names a missing
# program itself, the tests say which of them they leave out. No daemon is started on this machine:
# starting is forbidden during the installation, and units that it enabled are disabled again.
set -euo pipefail

package_of() {
    case $1 in
        bird) echo bird2:/usr/sbin/bird ;;
        frr) echo frr:/usr/lib/frr/bgpd ;;
        gobgp) echo gobgpd:/usr/bin/gobgpd ;;
        openbgpd) echo openbgpd:/usr/sbin/bgpd ;;
        podroute) ;;
        *) echo "no such daemon: $1 (podroute, bird, frr, gobgp, openbgpd)" >&2; exit 2 ;;
    esac
}

wanted() {
    echo iproute2:/sbin/ip
    case ${1:-} in
        demo)
            package_of "${2:-podroute}"
            package_of "${3:-podroute}"
            # Nodes without our agent get their pods from the reference plugin.
            if [ "${3:-podroute}" != podroute ]; then echo containernetworking-plugins:/usr/lib/cni/ptp; fi
            ;;
        test)
            for daemon in bird frr gobgp openbgpd; do package_of "$daemon"; done
            echo nftables:/usr/sbin/nft
            echo iptables:/usr/sbin/iptables-nft
            echo iputils-ping:/usr/bin/ping
            echo tshark:/usr/bin/tshark
            echo etcd-server:/usr/bin/etcd
            echo curl:/usr/bin/curl
            echo prometheus:/usr/bin/promtool
            echo kubernetes-client:/usr/bin/kubectl
            echo openssl:/usr/bin/openssl
            echo xz-utils:/usr/bin/xz
            echo exabgp:/usr/sbin/exabgp
            echo valgrind:/usr/bin/valgrind
            echo bgpdump:/usr/bin/bgpdump
            echo podman:/usr/bin/podman
            echo runc:/usr/sbin/runc
            echo containernetworking-plugins:/usr/lib/cni/ptp
            ;;
        *) echo "usage: $0 demo TOR NODE | test" >&2; exit 2 ;;
    esac
}

missing=()
list=$(wanted "$@")
for entry in $list; do
    [ -e "${entry#*:}" ] || missing+=("${entry%%:*}")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" -ne 0 ] || [ ! -e /etc/debian_version ] || ! command -v apt-get >/dev/null; then
    echo "not installed (only root on Debian gets it done): ${missing[*]}"
    exit 0
fi

echo "installing from Debian's packages (no service is started): ${missing[*]}"

policy=/usr/sbin/policy-rc.d
ours=
cleanup() {
    if [ -n "$ours" ]; then rm -f "$policy"; fi
}
trap cleanup EXIT
if [ ! -e "$policy" ]; then
    ours=1
    printf '#!/bin/sh\n# Put here by podroute for the time of one installation.\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi

units=(bird frr gobgpd openbgpd exabgp etcd podman.socket podman podman-restart podman-auto-update.timer)
unit_state() {
    command -v systemctl >/dev/null || return 0
    for unit in "${units[@]}"; do
        if systemctl is-enabled --quiet "$unit" 2>/dev/null; then echo "$unit"; fi
    done
}
enabled_before=" $(unit_state | tr '\n' ' ') "

export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
if ! { apt-get update -q && apt-get install -q -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "the installation failed; the whole log is in $log" >&2
    exit 1
fi
rm -f "$log"

for unit in $(unit_state); do
    case $enabled_before in
        *" $unit "*) ;;
        *) systemctl disable --now "$unit" >/dev/null 2>&1 || systemctl disable "$unit" >/dev/null 2>&1 || true ;;
    esac
done
