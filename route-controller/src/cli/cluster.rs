//! `podroute cluster`, and the same commands as kubectl's plugin.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use podroute_kubectl::ClusterArgs;

use super::CliError;

/// BGP sessions, routes, Services and policies of all nodes.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl podroute",
    bin_name = "kubectl podroute",
    version,
    max_term_width = 100
)]
struct Plugin {
    #[command(flatten)]
    args: ClusterArgs,
}

/// The command line of the plugin, without the program's name.
pub(super) fn parse_plugin(args: impl Iterator<Item = OsString>) -> ClusterArgs {
    let name = std::iter::once(OsString::from("kubectl podroute"));
    Plugin::parse_from(name.chain(args)).args
}

/// The exit status says whether something is not in order (3) or a node did not answer (4).
pub(super) fn run(args: &ClusterArgs) -> Result<ExitCode, CliError> {
    let outcome = podroute_kubectl::run(args)?;
    Ok(ExitCode::from(outcome.exit_status()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::{Cli, read_document};

    #[test]
    fn the_plugin_has_the_commands_of_cluster() {
        let names = |command: &clap::Command| -> Vec<String> {
            command
                .get_subcommands()
                .map(|inner| inner.get_name().to_owned())
                .collect()
        };
        let program = Cli::command();
        let cluster = program.find_subcommand("cluster").unwrap();
        assert_eq!(names(&Plugin::command()), names(cluster));
        let args = ["routes", "-n", "net", "10.0.0.0/8"].map(OsString::from);
        parse_plugin(args.into_iter());
    }

    #[test]
    fn a_document_ends_at_its_marker_or_with_the_input() {
        for (input, document) in [
            ("a: 1\nb: 2\n", "a: 1\nb: 2\n"),
            ("a: 1\n...\nb: 2\n", "a: 1\n"),
            ("a: 1\r\n...\r\n", "a: 1\r\n"),
            ("text: ...\n  ...\n", "text: ...\n  ...\n"),
            ("", ""),
        ] {
            assert_eq!(read_document(input.as_bytes()).unwrap(), document, "{input:?}");
        }
    }
}
