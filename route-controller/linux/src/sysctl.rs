//! Kernel settings (sysctl(8)), named by their path below `/proc/sys`: `net/ipv4/conf/eth0.100/rp_filter`.
//!
//! Paths and not dotted names: an interface's name may have a dot.

use std::io;
use std::path::Path;

/// Where the kernel shows its settings.
pub const PROC_SYS: &str = "/proc/sys";

/// The value of a setting, without white space around it.
pub fn read(key: &str) -> io::Result<String> {
    std::fs::read_to_string(Path::new(PROC_SYS).join(key)).map(|text| text.trim().to_owned())
}

/// Sets a value.
pub fn write(key: &str, value: &str) -> io::Result<()> {
    write_below(Path::new(PROC_SYS), key, value)
}

/// Sets a value below another directory than `/proc/sys`: in a container that is read-only, and the host's settings are
/// mounted elsewhere.
pub fn write_below(tree: &Path, key: &str, value: &str) -> io::Result<()> {
    std::fs::write(tree.join(key), value)
}

/// The directories below a key, sorted: `net/ipv4/conf` has one for each interface.
pub fn children(key: &str) -> Vec<String> {
    let entries = std::fs::read_dir(Path::new(PROC_SYS).join(key));
    let mut names: Vec<String> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names
}

/// A key as sysctl(8) takes and prints it: dots and slashes are exchanged.
pub fn dotted(key: &str) -> String {
    key.chars()
        .map(|c| match c {
            '/' => '.',
            '.' => '/',
            other => other,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_without_its_newline() {
        assert!(!read("kernel/ostype").unwrap().ends_with('\n'));
        assert!(read("kernel/no-such-setting").is_err());
        assert!(children("net/ipv4/conf").iter().any(|name| name == "lo"));
    }

    #[test]
    fn an_interface_with_a_dot_keeps_it() {
        let key = "net/ipv4/conf/eth0.100/rp_filter";
        assert_eq!(dotted(key), "net.ipv4.conf.eth0/100.rp_filter");
    }
}
