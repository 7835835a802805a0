//! Puts the CNI plugins and their configuration list onto the host, each file whole or not at all: the runtime may
//! execute a plugin or read the list at any moment.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Beside our own program.
const PLUGINS: [&str; 2] = ["podroute-cni", "podroute-ipam"];
/// Early in the alphabet: the runtime takes the first list.
const LIST: &str = "10-podroute.conflist";

/// Installs; says what changed.
pub(super) fn install(bin_dir: &Path, conf_dir: &Path, portmap: bool) -> Result<(), String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let from = own.parent().unwrap_or(Path::new("/"));
    for name in PLUGINS {
        let content = fs::read(from.join(name)).map_err(|error| {
            format!(
                "{}: {error}; it must lie beside podroute",
                from.join(name).display()
            )
        })?;
        put(bin_dir, name, &content, 0o755)?;
    }
    // The list last: it is what makes the runtime call the plugins.
    put(conf_dir, LIST, list(portmap).as_bytes(), 0o644)?;
    for other in before_ours(conf_dir) {
        eprintln!(
            "{other} comes before {LIST}: the runtime takes it instead; remove it once no pod of that network is left"
        );
    }
    Ok(())
}

/// Other networks' files that the runtime would take instead of our list.
fn before_ours(conf_dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(conf_dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let is_list = |name: &String| {
        [".conf", ".conflist", ".json"]
            .iter()
            .any(|end| name.ends_with(end))
    };
    let mut names: Vec<String> = names
        .filter(|name| is_list(name) && name.as_str() < LIST)
        .collect();
    names.sort();
    names
}

/// Takes the list away, so that the runtime makes no more pods with us. The plugins stay: it calls them for the pods that
/// it still has to delete.
pub(super) fn uninstall(conf_dir: &Path) -> Result<(), String> {
    let list = conf_dir.join(LIST);
    match fs::remove_file(&list) {
        Ok(()) => {
            println!(
                "removed {}; {} stay where they are until the runtime has deleted its pods",
                list.display(),
                PLUGINS.join(" and ")
            );
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("{}: {error}", list.display())),
    }
}

fn list(portmap: bool) -> String {
    let mut plugins = vec![serde_json::json!({"type": "podroute-cni"})];
    if portmap {
        plugins.push(
            serde_json::json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}),
        );
    }
    let list = serde_json::json!({"cniVersion": "1.0.0", "name": "pods", "plugins": plugins});
    format!("{list:#}\n")
}

/// Writes beside the place and renames. A file that is the same stays.
fn put(dir: &Path, name: &str, content: &[u8], mode: u32) -> Result<(), String> {
    let path = dir.join(name);
    let fail = |error: io::Error| {
        format!(
            "{}: {error}; is the directory there, and writable?",
            path.display()
        )
    };
    if fs::read(&path).is_ok_and(|old| old == content) {
        println!("{}: as it was", path.display());
        return Ok(());
    }
    // Not with the list's own ending: the runtime would read it.
    let beside = dir.join(format!(".{name}.new"));
    fs::write(&beside, content).map_err(fail)?;
    fs::set_permissions(&beside, Permissions::from_mode(mode)).map_err(fail)?;
    fs::rename(&beside, &path).map_err(fail)?;
    println!("{}: installed", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_whole_and_keep_their_mode() {
        let dir = std::env::temp_dir().join(format!("podroute-install-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        for content in ["one", "two", "two"] {
            put(&dir, "plugin", content.as_bytes(), 0o755).unwrap();
            assert_eq!(fs::read_to_string(dir.join("plugin")).unwrap(), content);
        }
        assert_eq!(
            fs::metadata(dir.join("plugin")).unwrap().permissions().mode() & 0o777,
            0o755
        );
        assert_eq!(
            fs::read_dir(&dir).unwrap().count(),
            1,
            "nothing is left beside it"
        );
        let missing = put(&dir.join("none"), "plugin", b"", 0o644).unwrap_err();
        assert!(missing.contains("none/plugin"), "{missing}");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn lists_that_come_first_are_told_and_ours_goes_again() {
        let dir = std::env::temp_dir().join(format!("podroute-lists-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        for name in [
            "05-cilium.conflist",
            "10-calico.conflist",
            "99-loopback.conf",
            "00-readme.txt",
        ] {
            fs::write(dir.join(name), "{}").unwrap();
        }
        put(&dir, LIST, list(false).as_bytes(), 0o644).unwrap();
        assert_eq!(before_ours(&dir), ["05-cilium.conflist", "10-calico.conflist"]);
        uninstall(&dir).unwrap();
        assert!(!dir.join(LIST).exists());
        uninstall(&dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_list_is_what_the_plugin_reads() {
        let list: serde_json::Value = serde_json::from_str(&list(true)).unwrap();
        assert_eq!(list["plugins"][0]["type"], "podroute-cni");
        assert_eq!(list["plugins"][1]["type"], "portmap");
    }
}
