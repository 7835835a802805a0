//! Files that are made from the declaration of the commands: shell completions and man pages.

use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_complete::Shell;

/// Writes the completion script of a shell to standard output.
pub(super) fn completions(shell: Shell, mut command: Command) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "podroute", &mut script);
    io::stdout().write_all(&script)
}

/// Writes one page for the program and for each command: `podroute.1`, `podroute-show-peers.1`.
pub(super) fn man_pages(directory: &Path, command: Command) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(command.disable_help_subcommand(true), directory)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn each_command_has_a_page() {
        let directory = tempfile::tempdir().unwrap();
        man_pages(directory.path(), Cli::command()).unwrap();
        let page = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(
            page("podroute.1").contains("podroute\\-show"),
            "{}",
            page("podroute.1")
        );
        assert!(page("podroute-show-peers.1").contains("BGP sessions"));
    }

    #[test]
    fn completions_know_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "podroute", &mut script);
            assert!(String::from_utf8(script).unwrap().contains("undrain"), "{shell}");
        }
    }
}
