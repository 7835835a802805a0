# A lab of a page: machines with their own mounts, host name and network. Reads `MACHINE ID` and runs $WORK/cmd-ID there; answers
# its status, the output is in $WORK/out-ID. Everything ends with this process.
set -e
mount --make-rprivate /
mount -t tmpfs none /run
mkdir /run/netns
# FRR's daemons want their user in the group frrvty; they run as root here.
sed -E 's/^(frrvty:.*:)$/\1root/; s/^(frrvty:.*[^:])$/\1,root/' /etc/group >/run/group
mount --bind /run/group /etc/group

machine() {
    ip netns add "$1"
    ip netns exec "$1" unshare --mount --uts sh -ec '
        hostname "$1"
        mount -t tmpfs none /run
        mkdir -p /run/netns /run/etc /run/bird /run/frr
        cp -a /etc/. /run/etc
        rm -rf /run/etc/podroute /run/etc/cni
        mkdir -p /run/etc/podroute /run/etc/bird
        mount --bind /run/etc /etc
        mount -t tmpfs none /opt
        mkdir -p /opt/cni/bin
        cp "$WORK"/bin/podroute-cni "$WORK"/bin/podroute-ipam /opt/cni/bin
        ip link set lo up
        sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.ping_group_range="0 2147483647"
        echo $$ >"$WORK/$1.pid"
        exec sleep infinity' machine "$1" &
    until [ -s "$WORK/$1.pid" ]; do sleep 0.05; done
}

# address MACHINE INTERFACE ADDRESS…
address() {
    local machine=$1 interface=$2 address
    shift 2
    for address in "$@"; do
        case $address in
            *:*) ip -n "$machine" address add "$address" dev "$interface" nodad ;;
            *) ip -n "$machine" address add "$address" dev "$interface" ;;
        esac
    done
    ip -n "$machine" link set "$interface" up
}

# switch NAME, then port SWITCH MACHINE INTERFACE: a bridge with a cable to each machine.
switch() {
    ip link add "$1" type bridge
    ip link set "$1" up
}

ports=0
# The next hardware address: link-local addresses are the same in every run.
hardware() {
    ports=$((ports + 1))
    printf -v hardware '02:00:00:00:00:%02x' "$ports"
}

port() {
    hardware
    ip link add "port$ports" master "$1" type veth peer name "$3" address "$hardware" netns "$2"
}

cable() {
    hardware
    local first=$hardware
    hardware
    ip link add "$2" address "$first" netns "$1" type veth peer name "$4" address "$hardware" netns "$3"
}

. "$WORK/topology.sh"
for port in $(ip -o link show type veth | sed -E 's/^[0-9]+: ([^@:]+).*/\1/'); do ip link set "$port" up; done
ip link set lo up
echo ready
while read -r machine id; do
    status=0
    nsenter -t "$(cat "$WORK/$machine.pid")" --mount --net --uts --wd=/ \
        timeout 60 sh "$WORK/cmd-$id" >"$WORK/out-$id" 2>&1 </dev/null || status=$?
    echo "$status"
done
