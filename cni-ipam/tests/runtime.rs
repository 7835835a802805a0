//! A real container runtime on our network: podman starts a container from a scratch image made here.
//!
//! All of podman's storage and state is in the lab's own /run. Where podman cannot start containers on
//! this machine at all, the test says so and why.

#![cfg(test)]

mod lab;

use std::path::Path;

use lab::{sh, try_sh};
use serde_json::{Value, json};

const PODMAN: &str = "CONTAINERS_CONF=/run/containers.conf podman --root /run/store --runroot /run/podman \
                      --storage-driver vfs";

fn build_image() {
    // `sleep` and what it is linked with, at the same paths.
    sh(
        "mkdir -p /run/rootfs && cp --parents -L $(which sleep) $(ldd $(which sleep) | grep -o '/[^ ]*') /run/rootfs",
    );
    // podman's cache is the machine's; this one is the lab's. crun wants one cgroup tree.
    sh("mkdir -p /var/lib/containers && mount -t tmpfs none /var/lib/containers");
    try_sh("umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup");
}

#[test]
fn podman_runs_a_container_on_our_network() {
    let needs = ["/usr/bin/podman", "/usr/bin/crun", "/usr/lib/cni/tuning"];
    lab::run("podman_runs_a_container_on_our_network", &needs, |lab| {
        let ours = Path::new(env!("CARGO_BIN_EXE_podroute-cni")).parent().unwrap();
        let list = json!({ "cniVersion": "0.4.0", "name": "pods",
            "plugins": [{ "type": "podroute-cni" }, { "type": "tuning" }] });
        std::fs::create_dir("/run/net.d").unwrap();
        std::fs::write("/run/net.d/10-pods.conflist", list.to_string()).unwrap();
        let conf = format!(
            "[network]\nnetwork_backend=\"cni\"\nnetwork_config_dir=\"/run/net.d\"\n\
             cni_plugin_dirs=[\"{}\", \"{}\"]\n\
             [engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"none\"\nruntime=\"crun\"\n",
            ours.display(),
            lab::REFERENCE
        );
        std::fs::write("/run/containers.conf", conf).unwrap();
        build_image();
        sh(&format!("tar -C /run/rootfs -c . | {PODMAN} import - scratch"));
        let options = "--cgroups=disabled --security-opt seccomp=unconfined";
        let alone = try_sh(&format!(
            "{PODMAN} run --rm --network none {options} scratch $(which sleep) 0"
        ));
        if !alone.status.success() {
            let why = String::from_utf8_lossy(&alone.stderr).into_owned();
            println!("LEFT OUT: podman cannot start a container here, even without a network: {why}");
            return;
        }
        for name in ["one", "two"] {
            sh(&format!(
                "{PODMAN} run -d --name {name} --network pods {options} scratch $(which sleep) 300"
            ));
        }
        let inspect = sh(&format!("{PODMAN} inspect one two"));
        let inspect: Value = serde_json::from_str(&inspect).unwrap();
        for index in 0..2 {
            let network = &inspect[index]["NetworkSettings"]["Networks"]["pods"];
            for field in ["IPAddress", "GlobalIPv6Address"] {
                let address = network[field].as_str().unwrap();
                assert!(
                    try_sh(&format!("ping -q -c1 -W2 {address}")).status.success(),
                    "{field} {address}"
                );
            }
        }
        let shown = cni_ipam::attachments(&lab.run_dir.join("ipam")).unwrap();
        assert_eq!(shown.len(), 2);
        assert_eq!(inspect[0]["Id"], shown[0].container.as_str());
        sh(&format!("{PODMAN} rm -f -t 0 one two"));
        lab.assert_clean();
    });
}
