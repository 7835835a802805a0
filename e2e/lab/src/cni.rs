//! Plays the container runtime: executes CNI plugins as libcni does.
//!
//! Makes a pod's namespace, derives each plugin's configuration from the list (name, version,
//! `prevResult`), gives it on standard input with the `CNI_*` variables, inside the node's
//! namespaces. Errors come back as the spec's JSON; [`Reply`] keeps both outcomes for tests.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::str::FromStr;

use serde_json::{Value, json};

use crate::bins;
use crate::failure::{Context, Failure, Result};
use crate::machine::Host;
use crate::netns;
use crate::topology::{Family, Machine};

/// Name of the pod's interface, as every runtime calls it.
pub const IFNAME: &str = "eth0";

/// Which plugin makes the pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    /// `podroute-cni`, which meets the agent in `/run/podroute`.
    Podroute,
    /// The reference `ptp` with `host-local`, for comparison and without an agent.
    Reference,
}

impl FromStr for Plugin {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "podroute" => Ok(Self::Podroute),
            "ptp" => Ok(Self::Reference),
            _ => Err(Failure::new(format!("no such plugin {text:?}: podroute or ptp"))),
        }
    }
}

/// A pod with its addresses.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Name, which is its namespace's and its container id too.
    pub name: String,
    /// The node it runs on.
    pub node: String,
    /// Addresses by family, as the plugin's result gave them.
    pub addresses: BTreeMap<Family, IpAddr>,
}

/// What a plugin answered.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Whether its exit code was zero.
    pub success: bool,
    /// Its standard output as JSON (null if it was empty).
    pub json: Value,
    /// Everything it printed, for evidence.
    pub text: String,
}

impl Reply {
    /// The spec's numeric error code, if it is an error.
    pub fn code(&self) -> Option<u64> {
        (!self.success).then(|| self.json["code"].as_u64()).flatten()
    }
}

/// The runtime of one node.
#[derive(Debug, Clone)]
pub struct Runtime {
    host: Host,
    list: Value,
    plugins: Vec<PathBuf>,
}

impl Runtime {
    /// The runtime of a node with the configuration list of the chosen plugin.
    pub fn new(host: &Host, machine: &Machine, plugin: Plugin) -> Self {
        let plugin = match plugin {
            Plugin::Podroute => json!({"type": "podroute-cni", "runDir": "/run/podroute"}),
            Plugin::Reference => {
                let ranges: Vec<Value> = machine
                    .blocks
                    .iter()
                    .map(|b| json!([{"subnet": b.to_string()}]))
                    .collect();
                json!({"type": "ptp", "ipMasq": false, "ipam": {
                    "type": "host-local", "dataDir": "/run/cni/networks", "ranges": ranges,
                    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}})
            }
        };
        Self::with_list(
            host,
            json!({"cniVersion": "1.0.0", "name": "podroute", "plugins": [plugin]}),
        )
    }

    /// The runtime of a node with a configuration list of the test's own.
    pub fn with_list(host: &Host, list: Value) -> Self {
        Self {
            host: host.clone(),
            list,
            plugins: plugin_dirs(),
        }
    }

    /// ADD for a pod of Kubernetes; its container is called as the pod. Gives its first address.
    pub fn add_kubernetes_pod(&self, namespace: &str, name: &str) -> Result<IpAddr> {
        netns::create(name)?;
        let plugin = self.plugins().remove(0);
        let netns = netns::path(name).to_string_lossy().into_owned();
        let args = format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};IgnoreUnknown=1");
        let env = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", name),
            ("CNI_NETNS", &netns),
            ("CNI_IFNAME", IFNAME),
            ("CNI_ARGS", &args),
        ];
        let config = self.config_of(&plugin).to_string();
        let reply = self.exec_with(&plugin_type(&plugin), &env, &config)?;
        let address = reply.json["ips"][0]["address"].as_str().unwrap_or_default();
        let address = address.split('/').next().unwrap_or_default().parse();
        address.map_err(|_| {
            Failure::new(format!("CNI ADD of {namespace}/{name} failed")).evidence("answer", reply.text)
        })
    }

    /// Looks for plugins in this directory only.
    pub fn with_plugins(mut self, dir: PathBuf) -> Self {
        self.plugins = vec![dir];
        self
    }

    /// Creates a pod of both families: namespace, then ADD of each plugin in the list.
    pub fn add_pod(&self, name: &str) -> Result<Pod> {
        self.add_pod_with(name, &Family::BOTH)
    }

    /// Creates a pod that must get addresses of these families.
    pub fn add_pod_with(&self, name: &str, families: &[Family]) -> Result<Pod> {
        netns::create(name)?;
        let reply = self.add(name)?;
        if !reply.success {
            return Err(Failure::new(format!("CNI ADD of {name} failed")).evidence("answer", reply.text));
        }
        let mut addresses = BTreeMap::new();
        for ip in reply.json["ips"].as_array().into_iter().flatten() {
            let text = ip["address"].as_str().unwrap_or_default();
            let address = text.split('/').next().unwrap_or_default().parse::<IpAddr>();
            let address = address.context(format!("address {text:?} in the result of ADD for {name}"))?;
            addresses.insert(Family::of(address), address);
        }
        for family in families {
            if !addresses.contains_key(family) {
                let failure = Failure::new(format!("CNI ADD of {name} gave no {} address", family.label()));
                return Err(failure.evidence("answer", reply.text));
            }
        }
        Ok(Pod {
            name: name.to_owned(),
            node: self.host.name().to_owned(),
            addresses,
        })
    }

    /// Removes a pod: DEL of each plugin in reverse order, then the namespace.
    pub fn delete_pod(&self, name: &str) -> Result<()> {
        let reply = self.del(name)?;
        if !reply.success {
            return Err(Failure::new(format!("CNI DEL of {name} failed")).evidence("answer", reply.text));
        }
        netns::delete(name)
    }

    /// ADD of the whole list; stops at the first error.
    pub fn add(&self, container: &str) -> Result<Reply> {
        let mut previous = Value::Null;
        let mut last = None;
        for plugin in self.plugins() {
            let mut config = self.config_of(&plugin);
            if !previous.is_null() {
                config["prevResult"] = previous;
            }
            let reply = self.exec(&plugin_type(&plugin), "ADD", container, &config.to_string())?;
            if !reply.success {
                return Ok(reply);
            }
            previous = reply.json.clone();
            last = Some(reply);
        }
        last.ok_or_else(|| Failure::new("the CNI configuration list has no plugin"))
    }

    /// DEL of the whole list, last plugin first; stops at the first error.
    pub fn del(&self, container: &str) -> Result<Reply> {
        let mut last = None;
        for plugin in self.plugins().iter().rev() {
            let config = self.config_of(plugin).to_string();
            let reply = self.exec(&plugin_type(plugin), "DEL", container, &config)?;
            if !reply.success {
                return Ok(reply);
            }
            last = Some(reply);
        }
        last.ok_or_else(|| Failure::new("the CNI configuration list has no plugin"))
    }

    /// Executes one plugin with exactly this standard input.
    pub fn exec(&self, plugin: &str, verb: &str, container: &str, stdin: &str) -> Result<Reply> {
        let netns = netns::path(container).to_string_lossy().into_owned();
        let env = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", container),
            ("CNI_NETNS", &netns),
            ("CNI_IFNAME", IFNAME),
        ];
        self.exec_with(plugin, &env, stdin)
    }

    /// Executes one plugin with exactly these variables (and `CNI_PATH`) and standard input.
    pub fn exec_with(&self, plugin: &str, env: &[(&str, &str)], stdin: &str) -> Result<Reply> {
        let dirs = &self.plugins;
        let found = dirs
            .iter()
            .map(|dir| dir.join(plugin))
            .find(|file| file.is_file());
        let program = found.ok_or_else(|| {
            Failure::new(format!(
                "CNI plugin {plugin} not found in {dirs:?}: is it built or installed?"
            ))
        })?;
        let path = std::env::join_paths(dirs).context("CNI_PATH")?;
        let output = netns::in_thread(|| {
            self.host.enter()?;
            let mut command = Command::new(&program);
            command.env("CNI_PATH", &path).envs(env.iter().copied());
            let mut child = command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .context(format!("executing {plugin}"))?;
            if let Some(mut pipe) = child.stdin.take() {
                // A plugin may answer without reading its input.
                let _ = pipe.write_all(stdin.as_bytes());
            }
            child.wait_with_output().context(plugin)
        })
        .map_err(|f| f.during(format_args!("CNI plugin {plugin} on {}", self.host.name())))?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(Reply {
            success: output.status.success(),
            json: serde_json::from_str(&stdout).unwrap_or(Value::Null),
            text: format!("{stdout}{}", String::from_utf8_lossy(&output.stderr)),
        })
    }

    /// A plugin's own configuration as libcni derives it from the list.
    pub fn config_of(&self, plugin: &Value) -> Value {
        let mut config = plugin.clone();
        config["name"] = self.list["name"].clone();
        config["cniVersion"] = self.list["cniVersion"].clone();
        config
    }

    /// The plugins of the list.
    pub fn plugins(&self) -> Vec<Value> {
        self.list["plugins"].as_array().cloned().unwrap_or_default()
    }
}

fn plugin_type(plugin: &Value) -> String {
    plugin["type"].as_str().unwrap_or_default().to_owned()
}

/// Where plugins are: our own, then those of the distribution.
pub fn plugin_dirs() -> Vec<PathBuf> {
    let own = ["podroute-cni", "podroute-ipam"]
        .iter()
        .filter_map(|name| bins::find(name).ok());
    let own = own.filter_map(|file| file.parent().map(PathBuf::from));
    own.chain(["/usr/lib/cni", "/opt/cni/bin"].map(PathBuf::from))
        .collect()
}

/// Fails with the package that brings the reference plugins.
pub fn reference_plugins_available() -> Result<()> {
    let there = |name: &str| plugin_dirs().iter().any(|dir| dir.join(name).is_file());
    for name in ["ptp", "bridge", "host-local"] {
        if !there(name) {
            let text =
                format!("CNI plugin {name} is not installed: apt-get install containernetworking-plugins");
            return Err(Failure::new(text));
        }
    }
    Ok(())
}
