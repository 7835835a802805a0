//! The CNI configuration list: its content, and writing it into the container runtime's directory.
//!
//! What stands in it is pure: it follows from the section `cni` and from what the runtime's directory of plugins has. The file is
//! replaced whole, and only when it differs: the runtime may read it at any moment, and reads it again at each change.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use podroute_config::{Cni, Portmap};
use serde_json::{Value, json};

/// Early in the alphabet: the runtime takes the first list.
pub(crate) const LIST: &str = "10-podroute.conflist";
/// With STATUS and GC.
const NEWEST: &str = "1.1.0";
/// A plugin answers VERSION within this time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How often plugins are asked again.
const PLUGINS_INTERVAL: Duration = Duration::from_secs(60);

/// The container runtime's directories.
#[derive(Clone, Debug)]
pub(crate) struct Dirs {
    /// Of configuration lists.
    pub(crate) conf: PathBuf,
    /// Of plugins.
    pub(crate) bin: PathBuf,
}

/// What is known of a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
enum PluginVersion {
    /// It speaks [`NEWEST`].
    Newest,
    Older,
    /// It is not there.
    Missing,
    /// It did not say.
    Unknown(String),
}

/// What is to be written, and what the operator should know.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    list: Value,
    pub(crate) notes: Vec<String>,
}

/// The outcome of writing a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FileOutcome {
    Unchanged,
    Written,
}

/// A plugin that the configuration chains is not installed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}, which the section cni chains, is not in {}; install it there, or remove it from the section", dir.display())]
pub(crate) struct MissingPlugin {
    name: String,
    dir: PathBuf,
}

/// A file that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}; check that the directory exists and is writable", path.display())]
pub(crate) struct WriteError {
    path: PathBuf,
    source: io::Error,
}

/// The list for this configuration and these plugins.
fn plan(cni: &Cni, bin: &Path, look: impl Fn(&str) -> PluginVersion) -> Result<Plan, MissingPlugin> {
    let mut notes = Vec::new();
    let mut chained: Vec<(String, Value)> = Vec::new();
    let portmap = match cni.portmap {
        Portmap::Off => false,
        Portmap::On => true,
        Portmap::Auto => {
            let is_there = look("portmap") != PluginVersion::Missing;
            if !is_there {
                notes.push(format!(
                    "portmap is not in {}: hostPort of pods does nothing; install the containernetworking plugins there",
                    bin.display()
                ));
            }
            is_there
        }
    };
    if portmap {
        let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": true});
        chained.push(("portmap".to_owned(), portmap));
    }
    if cni.bandwidth {
        let bandwidth = json!({"type": "bandwidth", "capabilities": {"bandwidth": true}});
        chained.push(("bandwidth".to_owned(), bandwidth));
    }
    for plugin in &cni.plugins {
        let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
        chained.push((kind.to_owned(), plugin.clone()));
    }
    let mut newest = true;
    for (name, _) in &chained {
        let why = match look(name) {
            PluginVersion::Newest => continue,
            PluginVersion::Missing => {
                return Err(MissingPlugin {
                    name: name.clone(),
                    dir: bin.to_owned(),
                });
            }
            PluginVersion::Older => {
                "does not support CNI 1.1.0 (containernetworking plugins do from 1.9 on)".to_owned()
            }
            PluginVersion::Unknown(why) => {
                format!("does not report the CNI versions that it supports ({why})")
            }
        };
        newest = false;
        notes.push(format!(
            "{name} in {} {why}: the list uses CNI 1.0.0, without STATUS",
            bin.display()
        ));
    }
    if look("loopback") == PluginVersion::Missing {
        notes.push(format!(
            "loopback is not in {}: containerd before 2.0 starts no pods without it; install the containernetworking plugins there",
            bin.display()
        ));
    }
    let plugins: Vec<Value> = std::iter::once(own(cni))
        .chain(chained.into_iter().map(|(_, plugin)| plugin))
        .collect();
    let mut list = json!({"cniVersion": "1.0.0", "name": cni.name, "plugins": plugins});
    if newest && let Some(fields) = list.as_object_mut() {
        fields.insert("cniVersions".to_owned(), json!(["1.0.0", NEWEST]));
    }
    Ok(Plan { list, notes })
}

/// podroute-cni with its configuration; what differs from node to node it reads from node.json.
fn own(cni: &Cni) -> Value {
    let masquerade = cni.masquerade.as_ref().map(|exempt| {
        let exempt: Vec<String> = exempt.iter().map(ToString::to_string).collect();
        json!({"enabled": true, "exempt": exempt})
    });
    let ipam = (!cni.reserved.is_empty()).then(|| json!({"type": "podroute-ipam", "reserved": cni.reserved}));
    let fields = [
        ("type", Some(json!("podroute-cni"))),
        ("mtu", cni.mtu.map(Value::from)),
        ("mark", cni.mark.map(Value::from)),
        ("masquerade", masquerade),
        ("ipam", ipam),
    ];
    let given = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(given.collect())
}

/// What the directories have to have for this configuration.
pub(crate) fn plan_for(cni: &Cni, dirs: &Dirs) -> Result<Plan, MissingPlugin> {
    plan(cni, &dirs.bin, |name| ask(&dirs.bin.join(name)))
}

impl Plan {
    /// Puts the list into the directory, if something else is there.
    pub(crate) fn put(&self, dirs: &Dirs) -> Result<FileOutcome, WriteError> {
        put(&dirs.conf, LIST, format!("{:#}\n", self.list).as_bytes(), 0o644)
    }
}

/// Keeps the list as the section `cni` says, whoever changes it. What is said of it is said once.
#[derive(Debug)]
pub(crate) struct ListKeeper {
    /// None: another program keeps the list.
    dirs: Option<Dirs>,
    planned: Option<(Cni, Instant, Result<Plan, MissingPlugin>)>,
    error: Option<String>,
}

impl ListKeeper {
    pub(crate) fn new(dirs: Option<Dirs>) -> Self {
        Self {
            dirs,
            planned: None,
            error: None,
        }
    }

    /// Puts right what differs. Plugins are looked at again once a minute: they come and change without a word.
    pub(crate) fn look(&mut self, cni: &Cni) {
        let Some(dirs) = &self.dirs else { return };
        let is_good = |(of, at, _): &(Cni, Instant, _)| of == cni && at.elapsed() < PLUGINS_INTERVAL;
        if !self.planned.as_ref().is_some_and(is_good) {
            let plan = tokio::task::block_in_place(|| plan_for(cni, dirs));
            let before = self.planned.replace((cni.clone(), Instant::now(), plan.clone()));
            let notes = |plan: &Result<Plan, MissingPlugin>| {
                plan.as_ref().map(|plan| plan.notes.clone()).unwrap_or_default()
            };
            let said = before.map(|(_, _, plan)| notes(&plan)).unwrap_or_default();
            for note in notes(&plan).iter().filter(|note| !said.contains(note)) {
                tracing::warn!(event = "cni_list_note", "{note}");
            }
        }
        let Some((_, _, plan)) = &self.planned else { return };
        let outcome = match plan {
            Ok(plan) => plan.put(dirs).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if outcome == Ok(FileOutcome::Written) {
            tracing::info!(event = "cni_list_written", directory = %dirs.conf.display(), "CNI configuration list written");
        }
        let error = outcome.err();
        if let Some(error) = error.as_ref().filter(|error| self.error.as_ref() != Some(error)) {
            tracing::error!(
                event = "cni_list_failed",
                "cannot install the CNI configuration list of the section cni: {error}"
            );
        }
        self.error = error;
    }
}

/// Asks a plugin for the versions that it speaks (CNI specification, VERSION).
fn ask(program: &Path) -> PluginVersion {
    if !program.exists() {
        return PluginVersion::Missing;
    }
    match version(program) {
        Ok(true) => PluginVersion::Newest,
        Ok(false) => PluginVersion::Older,
        // It is there, and what it needs to run is not: a dynamic program in a container without its libraries.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            PluginVersion::Unknown("it is no static program and cannot be run in this container".to_owned())
        }
        Err(error) => PluginVersion::Unknown(error.to_string()),
    }
}

fn version(program: &Path) -> io::Result<bool> {
    let mut plugin = Command::new(program)
        .env_clear()
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(mut input) = plugin.stdin.take() {
        // One that reads nothing has said so by its answer.
        let _ = input.write_all(b"{\"cniVersion\":\"1.0.0\"}");
    }
    wait(&mut plugin)?;
    let answer: Value = serde_json::from_slice(&plugin.wait_with_output()?.stdout)?;
    let versions = answer.get("supportedVersions").and_then(Value::as_array);
    let versions = versions.ok_or_else(|| io::Error::other("its answer to VERSION contains no versions"))?;
    Ok(versions.iter().any(|version| version == NEWEST))
}

fn wait(plugin: &mut Child) -> io::Result<()> {
    let end = Instant::now() + ANSWER_TIMEOUT;
    while plugin.try_wait()?.is_none() {
        if Instant::now() > end {
            plugin.kill()?;
            plugin.wait()?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer to VERSION"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Writes beside the place and renames. A file that is the same stays.
pub(crate) fn put(dir: &Path, name: &str, content: &[u8], mode: u32) -> Result<FileOutcome, WriteError> {
    let path = dir.join(name);
    let fail = |source: io::Error| WriteError {
        path: path.clone(),
        source,
    };
    if fs::read(&path).is_ok_and(|old| old == content) {
        return Ok(FileOutcome::Unchanged);
    }
    // Not with the list's own ending: the runtime would read it.
    let beside = dir.join(format!(".{name}.new"));
    fs::write(&beside, content).map_err(fail)?;
    fs::set_permissions(&beside, Permissions::from_mode(mode)).map_err(fail)?;
    fs::rename(&beside, &path).map_err(fail)?;
    Ok(FileOutcome::Written)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cni(yaml: &str) -> Cni {
        let text = format!("apiVersion: podroute/v1\ncluster: {{asn: 64512}}\npeers: []\ncni: {yaml}\n");
        podroute_config::load(&text).unwrap().cni
    }

    /// With these plugins installed; `-` before a name: an old one, `?`: one that does not say.
    fn planned(yaml: &str, installed: &str) -> Result<Plan, MissingPlugin> {
        plan(&cni(yaml), Path::new("/opt/cni/bin"), |name| {
            let found = installed
                .split(' ')
                .find(|one| one.trim_start_matches(['-', '?']) == name);
            match found.map(|one| one.chars().next()) {
                None => PluginVersion::Missing,
                Some(Some('-')) => PluginVersion::Older,
                Some(Some('?')) => PluginVersion::Unknown("no loader".to_owned()),
                Some(_) => PluginVersion::Newest,
            }
        })
    }

    #[test]
    fn the_section_is_what_the_plugins_read() {
        let all = "{name: net, mtu: 1400, masquerade: {exempt: [192.0.2.0/24]}, mark: 256, reserved: [10.244.1.9], \
                   bandwidth: true, plugins: [{type: tuning, sysctl: {net.core.somaxconn: \"500\"}}]}";
        let plan = planned(all, "portmap bandwidth tuning loopback").unwrap();
        assert_eq!(plan.notes, [""; 0]);
        assert_eq!(
            plan.list,
            json!({
                "cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.1.0"], "name": "net",
                "plugins": [
                    {"type": "podroute-cni", "mtu": 1400, "mark": 256,
                     "masquerade": {"enabled": true, "exempt": ["192.0.2.0/24"]},
                     "ipam": {"type": "podroute-ipam", "reserved": ["10.244.1.9"]}},
                    {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
                    {"type": "bandwidth", "capabilities": {"bandwidth": true}},
                    {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}},
                ],
            })
        );
        let plain = planned("{portmap: false, masquerade: {enabled: false}}", "loopback").unwrap();
        assert_eq!(plain.list["plugins"], json!([{"type": "podroute-cni"}]));
    }

    #[test]
    fn plugins_that_are_missing_or_old_are_reported() {
        let has_status = |plan: &Plan| plan.list.get("cniVersions").is_some();
        let auto = planned("{}", "loopback").unwrap();
        assert!(
            has_status(&auto) && auto.notes[0].contains("hostPort of pods does nothing"),
            "{auto:?}"
        );
        for (installed, word) in [
            ("-portmap loopback", "from 1.9 on"),
            ("?portmap loopback", "no loader"),
        ] {
            let old = planned("{}", installed).unwrap();
            assert!(!has_status(&old) && old.notes[0].contains(word), "{old:?}");
            assert_eq!(old.list["plugins"][1]["type"], "portmap");
        }
        let without = planned("{}", "portmap").unwrap();
        assert!(
            has_status(&without) && without.notes[0].contains("loopback"),
            "{without:?}"
        );
        for yaml in ["{portmap: true}", "{bandwidth: true}", "{plugins: [{type: sbr}]}"] {
            let error = planned(yaml, "loopback").unwrap_err().to_string();
            assert!(error.contains("is not in /opt/cni/bin"), "{error}");
        }
    }

    #[test]
    fn a_plugin_is_asked_for_its_versions() {
        let dir = tempfile::tempdir().unwrap();
        let plugin = |name: &str, script: &str| {
            let path = dir.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
            ask(&path)
        };
        let answer = |versions: &str| {
            format!("echo '{{\"cniVersion\":\"1.0.0\",\"supportedVersions\":[{versions}]}}'")
        };
        let of_command = format!(
            "[ \"$CNI_COMMAND\" = VERSION ] && {}",
            answer("\"1.0.0\",\"1.1.0\"")
        );
        assert_eq!(plugin("new", &of_command), PluginVersion::Newest);
        assert_eq!(plugin("old", &answer("\"1.0.0\"")), PluginVersion::Older);
        assert!(matches!(plugin("broken", "exit 3"), PluginVersion::Unknown(_)));
        assert_eq!(ask(&dir.path().join("none")), PluginVersion::Missing);
    }

    #[test]
    fn files_are_replaced_whole_and_only_when_they_differ() {
        let dir = tempfile::tempdir().unwrap();
        for (content, wanted) in [
            ("one", FileOutcome::Written),
            ("two", FileOutcome::Written),
            ("two", FileOutcome::Unchanged),
        ] {
            assert_eq!(
                put(dir.path(), "plugin", content.as_bytes(), 0o755).unwrap(),
                wanted
            );
            assert_eq!(fs::read_to_string(dir.path().join("plugin")).unwrap(), content);
        }
        let mode = fs::metadata(dir.path().join("plugin"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o755);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
        let missing = put(&dir.path().join("none"), "plugin", b"", 0o644)
            .unwrap_err()
            .to_string();
        assert!(missing.contains("none/plugin"), "{missing}");
    }
}
