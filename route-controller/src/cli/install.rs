//! Puts the CNI plugins and their configuration list onto the host, each file whole or not at all: the runtime may
//! execute a plugin or read the list at any moment.

use std::fs;
use std::io;
use std::path::Path;

use podroute_config::Cni;

use super::CliError;
use crate::cni_list::{self, Dirs, FileOutcome, LIST, put};

/// Beside this program.
const PLUGINS: [&str; 2] = ["podroute-cni", "podroute-ipam"];

/// Installs; says what changed.
pub(super) fn install(dirs: &Dirs, cni: &Cni) -> Result<(), CliError> {
    let own = std::env::current_exe().map_err(CliError::file("podroute"))?;
    let from = own.parent().unwrap_or(Path::new("/"));
    for name in PLUGINS {
        let content = fs::read(from.join(name)).map_err(|source| CliError::Program {
            name: from.join(name).display().to_string(),
            source,
        })?;
        say(&dirs.bin, name, &put(&dirs.bin, name, &content, 0o755)?);
    }
    // The list last: it is what makes the runtime call the plugins.
    let plan = cni_list::plan_for(cni, dirs)?;
    plan.notes.iter().for_each(|note| eprintln!("{note}"));
    say(&dirs.conf, LIST, &plan.put(dirs)?);
    for other in lists_before_own(&dirs.conf) {
        eprintln!(
            "{other} sorts before {LIST}: the runtime uses it instead; remove it when no pod of that network is left"
        );
    }
    Ok(())
}

fn say(dir: &Path, name: &str, put: &FileOutcome) {
    let what = match put {
        FileOutcome::Unchanged => "as it was",
        FileOutcome::Written => "installed",
    };
    println!("{}: {what}", dir.join(name).display());
}

/// Other networks' files that the runtime would use instead of the own list.
fn lists_before_own(conf_dir: &Path) -> Vec<String> {
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

/// Removes the list, so that the runtime starts no more pods with podroute. The plugins stay: it calls them for the pods that
/// it still has to delete.
pub(super) fn uninstall(conf_dir: &Path) -> Result<(), CliError> {
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
        Err(error) => Err(CliError::file(list.display())(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_come_first_are_reported_and_the_own_one_is_removed_again() {
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
        put(&dir, LIST, b"{}", 0o644).unwrap();
        assert_eq!(
            lists_before_own(&dir),
            ["05-cilium.conflist", "10-calico.conflist"]
        );
        uninstall(&dir).unwrap();
        assert!(!dir.join(LIST).exists());
        uninstall(&dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }
}
