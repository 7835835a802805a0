//! Containers of a pod's manifest, as a kubelet starts them: the image built from our Containerfile, the manifest turned
//! into a runtime's configuration (OCI runtime-spec 1.0), `runc` run with it.
//!
//! What a kubelet adds by itself is added here too: the container's own `/proc` with `/proc/sys` read-only, the token of
//! the service account, the API server's address in the environment. The host's network is the one of the machine
//! that starts it; the root of the machine's files, for `hostPath`, is `MACHINE/host`, but for `/proc` and `/run`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::failure::{Context, Failure, Result};
use crate::machine::{self, Host};
use crate::process::{self, Daemon};
use crate::sandbox;

/// An image, unpacked.
#[derive(Debug)]
pub struct Image {
    rootfs: PathBuf,
    config: Value,
}

impl Image {
    /// Builds the project's image below `dir`; `make image-files` made what goes into it.
    pub fn build(dir: &Path) -> Result<Self> {
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let podman = |args: &[&str]| {
            let mut command = Command::new("podman");
            command.arg("--root").arg(dir.join("storage"));
            command.arg("--runroot").arg(dir.join("runroot"));
            command.args(["--storage-driver", "vfs"]).args(args);
            process::finish(command.current_dir(&project).env("TMPDIR", dir))
        };
        std::fs::create_dir_all(dir).context(dir.display())?;
        podman(&[
            "build",
            "--quiet",
            "--tag",
            "podroute",
            "--file",
            "Containerfile",
            ".",
        ])?;
        let config = podman(&["image", "inspect", "podroute"])?;
        let config: Value = serde_json::from_str(&config).context("podman image inspect")?;
        let mounted = podman(&["image", "mount", "podroute"])?;
        Ok(Self {
            rootfs: PathBuf::from(mounted.trim()),
            config: config[0]["Config"].clone(),
        })
    }

    /// Runs a program of it to its end, without any rights; answers what it printed.
    pub fn run(&self, host: &Host, command: &[&str]) -> Result<String> {
        let nobody = Kubelet {
            host,
            node: host.name(),
            config_maps: BTreeMap::new(),
            account: host.dir().join("etc"),
            api: (String::new(), 0),
        };
        let container = json!({
            "name": "once", "command": command,
            "securityContext": {"capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true},
        });
        nobody.init(self, &json!({"initContainers": [container]}), 0)
    }

    /// Its files, from its root.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let list = process::run("find", &[&self.rootfs.display().to_string(), "-type", "f"])?;
        let files = list
            .lines()
            .filter_map(|file| Path::new(file).strip_prefix(&self.rootfs).ok());
        let mut files: Vec<PathBuf> = files.map(|file| Path::new("/").join(file)).collect();
        files.sort();
        Ok(files)
    }
}

/// What a kubelet knows beside the manifest.
#[derive(Debug)]
pub struct Kubelet<'a> {
    /// The node.
    pub host: &'a Host,
    /// Its name in the cluster.
    pub node: &'a str,
    /// Directories of ConfigMaps, by name.
    pub config_maps: BTreeMap<String, PathBuf>,
    /// `token`, `ca.crt` and `namespace` of the service account.
    pub account: PathBuf,
    /// `KUBERNETES_SERVICE_HOST` and `_PORT`.
    pub api: (String, u16),
}

impl Kubelet<'_> {
    /// Runs an init container of the pod's specification to its end.
    pub fn init(&self, image: &Image, pod: &Value, index: usize) -> Result<String> {
        let args = self.prepare(image, pod, &pod["initContainers"][index])?;
        self.host.run("bash", &[&args[0], &args[1]])
    }

    /// Starts a container of the pod's specification.
    pub fn start(&self, image: &Image, pod: &Value, index: usize) -> Result<Daemon> {
        let args = self.prepare(image, pod, &pod["containers"][index])?;
        self.host.spawn("podroute", machine::command("bash").args(args))
    }

    /// Runs a command in a container that runs, as `kubectl exec` does.
    pub fn exec(&self, pod: &Value, index: usize, command: &[&str]) -> Result<std::process::Output> {
        let name = format!(
            "{}-{}",
            self.host.name(),
            text(&pod["containers"][index]["name"])?
        );
        let line = format!(
            "mount --rbind {} /sys/fs/cgroup && exec runc --root /run/runc exec {name} \"$@\"",
            sandbox::CGROUPS
        );
        let args = [&["-c", &line, "runc"], command].concat();
        self.host.output("bash", &args)
    }

    /// The file of the machine that a `hostPath` means.
    pub fn on_host(&self, path: &str) -> PathBuf {
        match path {
            _ if path.starts_with("/proc/") => PathBuf::from(path),
            // Of the machine that the runtime runs on, as it sees it.
            "/var/run/netns" => PathBuf::from("/run/netns"),
            _ if path.starts_with("/run/") => self.host.dir().join(path.trim_start_matches('/')),
            _ => self.host.dir().join("host").join(path.trim_start_matches('/')),
        }
    }

    /// Lays the container out; answers the arguments of a shell that becomes its runtime.
    fn prepare(&self, image: &Image, pod: &Value, container: &Value) -> Result<[String; 2]> {
        let name = format!("{}-{}", self.host.name(), text(&container["name"])?);
        let bundle = self.host.dir().join("containers").join(&name);
        std::fs::create_dir_all(&bundle).context(bundle.display())?;
        let rootfs = bundle.join("rootfs").display().to_string();
        // Each container has a writable copy below its read-only view: mount points are made in it.
        process::run("rm", &["-rf", &rootfs])?;
        process::run("cp", &["-a", &image.rootfs.display().to_string(), &rootfs])?;
        let config = self.runtime_config(image, pod, container)?;
        std::fs::write(bundle.join("config.json"), config.to_string()).context(bundle.display())?;
        let line = format!(
            "mount --rbind {} /sys/fs/cgroup && exec runc --root /run/runc run --bundle {} {name}",
            sandbox::CGROUPS,
            bundle.display()
        );
        Ok(["-c".to_owned(), line])
    }

    fn runtime_config(&self, image: &Image, pod: &Value, container: &Value) -> Result<Value> {
        let security = &container["securityContext"];
        let add = array(&security["capabilities"]["add"]);
        let capabilities: Vec<String> = add
            .filter_map(Value::as_str)
            .map(|name| format!("CAP_{name}"))
            .collect();
        let drops_all = array(&security["capabilities"]["drop"]).any(|name| name == "ALL");
        if !drops_all {
            return Err(Failure::new(
                "a container that keeps a runtime's default capabilities is not foreseen",
            ));
        }
        let escalates = security["allowPrivilegeEscalation"].as_bool().unwrap_or(true);
        Ok(json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0}, "cwd": "/", "terminal": false,
                "args": container["command"], "env": self.environment(image, container),
                "noNewPrivileges": !escalates,
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                },
            },
            "root": {"path": "rootfs", "readonly": security["readOnlyRootFilesystem"].as_bool().unwrap_or(false)},
            "mounts": self.mounts(pod, container)?,
            "linux": {
                "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}],
                "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger"],
            },
        }))
    }

    fn environment(&self, image: &Image, container: &Value) -> Vec<String> {
        let of_image = array(&image.config["Env"])
            .filter_map(Value::as_str)
            .map(str::to_owned);
        let given = array(&container["env"]).filter_map(|variable| {
            let field = &variable["valueFrom"]["fieldRef"]["fieldPath"];
            let value = match field.as_str() {
                Some("spec.nodeName") => Some(self.node),
                _ => variable["value"].as_str(),
            };
            Some(format!("{}={}", variable["name"].as_str()?, value?))
        });
        let (host, port) = &self.api;
        let api = [
            format!("KUBERNETES_SERVICE_HOST={host}"),
            format!("KUBERNETES_SERVICE_PORT={port}"),
        ];
        of_image.chain(given).chain(api).collect()
    }

    fn mounts(&self, pod: &Value, container: &Value) -> Result<Vec<Value>> {
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}),
            bind(
                &self.account,
                "/var/run/secrets/kubernetes.io/serviceaccount",
                true,
            ),
        ];
        for wanted in array(&container["volumeMounts"]) {
            let volume = array(&pod["volumes"]).find(|volume| volume["name"] == wanted["name"]);
            let volume = volume.ok_or_else(|| Failure::new(format!("no volume {}", wanted["name"])))?;
            let read_only = wanted["readOnly"].as_bool().unwrap_or(false);
            let mut mount = bind(&self.source(volume)?, text(&wanted["mountPath"])?, read_only);
            if wanted["mountPropagation"] == "HostToContainer" {
                mount["options"] = json!(["rbind", "rslave", if read_only { "ro" } else { "rw" }]);
            }
            mounts.push(mount);
        }
        Ok(mounts)
    }

    fn source(&self, volume: &Value) -> Result<PathBuf> {
        if let Some(name) = volume["configMap"]["name"].as_str() {
            let found = self.config_maps.get(name).cloned();
            return found.ok_or_else(|| Failure::new(format!("no ConfigMap {name}")));
        }
        let path = self.on_host(text(&volume["hostPath"]["path"])?);
        if volume["hostPath"]["type"] == "DirectoryOrCreate" {
            std::fs::create_dir_all(&path).context(path.display())?;
        }
        Ok(path)
    }
}

fn bind(source: &Path, destination: &str, read_only: bool) -> Value {
    let access = if read_only { "ro" } else { "rw" };
    json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind", access]})
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> Result<&str> {
    value
        .as_str()
        .ok_or_else(|| Failure::new(format!("{value} is not a string")))
}
