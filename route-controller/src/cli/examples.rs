//! The examples at the end of `--help` of each command.

/// Commands with the lines that show how they are used. A command that has subcommands has none of its own.
const EXAMPLES: &[(&str, &[&str])] = &[
    ("run", &["podroute run --config /etc/podroute/podroute.yaml"]),
    (
        "check",
        &[
            "podroute check podroute.yaml",
            "podroute check --explain --node node-1 podroute.yaml",
            "podroute check podroute.yaml --against frr.conf --nodes 192.0.2.0/24",
        ],
    ),
    (
        "router-config",
        &[
            "podroute router-config --for frr --nodes 192.0.2.0/24 podroute.yaml",
            "podroute router-config --for junos --peer tor-a,tor-a-v6 podroute.yaml",
        ],
    ),
    (
        "cluster peers",
        &["podroute cluster peers", "podroute cluster peers --node node-1"],
    ),
    ("cluster routes", &["podroute cluster routes 10.244.2.0/24"]),
    ("cluster services", &["podroute cluster services"]),
    ("cluster policies", &["podroute cluster policies"]),
    ("cluster events", &["podroute cluster events --since 10m"]),
    ("cluster web", &["podroute cluster web"]),
    (
        "cluster explain",
        &["podroute cluster explain default/web-1 default/db-0 --port 5432"],
    ),
    ("cluster diff", &["podroute cluster diff podroute.yaml"]),
    ("cluster check", &["podroute cluster check podroute.yaml"]),
    ("schema", &["podroute schema >podroute.schema.json"]),
    (
        "policy test",
        &["podroute policy test --peer tor-a --import podroute.yaml 10.244.7.0/24"],
    ),
    (
        "show peers",
        &["podroute show peers", "podroute show peers -o json"],
    ),
    ("show peer", &["podroute show peer tor-a"]),
    (
        "show routes",
        &["podroute show routes", "podroute show routes 10.244.2.0/24"],
    ),
    ("show policies", &["podroute show policies"]),
    ("show fib", &["podroute show fib"]),
    ("show blocks", &["podroute show blocks"]),
    ("show bfd", &["podroute show bfd"]),
    ("show cluster", &["podroute show cluster"]),
    (
        "show services",
        &["podroute show services", "podroute show services default/web"],
    ),
    ("show pods", &["podroute show pods"]),
    (
        "peer disable",
        &["podroute peer disable tor-a --message \"cable test\""],
    ),
    ("peer enable", &["podroute peer enable tor-a"]),
    (
        "peer clear",
        &["podroute peer clear tor-a", "podroute peer clear tor-a --soft in"],
    ),
    ("reload", &["podroute reload"]),
    (
        "log-level",
        &[
            "podroute log-level",
            "podroute log-level warn,bgp_speaker=debug",
            "podroute log-level default",
        ],
    ),
    ("diff", &["podroute diff new.yaml"]),
    ("drain", &["podroute drain", "podroute drain --wait 30"]),
    ("undrain", &["podroute undrain"]),
    (
        "dump",
        &["podroute dump rib.mrt", "podroute dump - | bgpdump -m -"],
    ),
    (
        "install-cni",
        &["podroute install-cni --bin-dir /host/opt/cni/bin --conf-dir /host/etc/cni/net.d"],
    ),
    ("network-policy show", &["podroute network-policy show"]),
    (
        "network-policy explain",
        &["podroute network-policy explain default/client default/web 80"],
    ),
    ("network-policy diff", &["podroute network-policy diff new.yaml"]),
    (
        "ipam check",
        &["podroute ipam check", "podroute ipam check --fix"],
    ),
    (
        "completions",
        &["podroute completions bash >/etc/bash_completion.d/podroute"],
    ),
    ("man", &["podroute man /usr/local/share/man/man1"]),
    ("cleanup", &["podroute cleanup"]),
];

/// The command with examples in its help and that of all below it.
pub(super) fn add(command: clap::Command) -> clap::Command {
    add_below(command, "")
}

fn add_below(command: clap::Command, path: &str) -> clap::Command {
    let names: Vec<String> = command
        .get_subcommands()
        .map(|one| one.get_name().to_owned())
        .collect();
    let mut command = command;
    for name in names {
        let path = format!("{path} {name}").trim_start().to_owned();
        command = command.mut_subcommand(&name, |inner| add_below(inner, &path));
    }
    match EXAMPLES.iter().find(|(known, _)| *known == path) {
        Some((_, lines)) => command.after_help(format!("Examples:\n  {}", lines.join("\n  "))),
        None => command,
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches};

    use super::*;
    use crate::cli::Cli;

    /// Commands without subcommands, with their paths.
    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        let below: Vec<&clap::Command> = command.get_subcommands().collect();
        if below.is_empty() {
            found.push(path.to_owned());
        }
        for inner in below {
            leaves(inner, format!("{path} {}", inner.get_name()).trim_start(), found);
        }
    }

    #[test]
    fn every_command_has_examples_that_it_takes() {
        let mut commands = Vec::new();
        leaves(&Cli::command(), "", &mut commands);
        for command in &commands {
            let known = EXAMPLES.iter().find(|(known, _)| known == command);
            assert!(known.is_some(), "add examples of '{command}' to cli/examples.rs");
        }
        for (path, lines) in EXAMPLES {
            assert!(
                commands.iter().any(|command| command == path),
                "no command '{path}'"
            );
            for line in *lines {
                let line = line
                    .split(['>', '|'])
                    .next()
                    .unwrap()
                    .replace("\"cable test\"", "cable-test");
                let words: Vec<&str> = line.split_whitespace().collect();
                let matches = add(Cli::command()).try_get_matches_from(&words);
                let matches = matches.unwrap_or_else(|error| panic!("{line}: {error}"));
                Cli::from_arg_matches(&matches).unwrap();
                assert!(
                    line.starts_with(&format!("podroute {path}")),
                    "{line} is no example of {path}"
                );
            }
        }
    }

    #[test]
    fn help_shows_them() {
        let mut command = add(Cli::command());
        let drain = command.find_subcommand_mut("drain").unwrap();
        let help = drain.render_help().to_string();
        assert!(help.contains("Examples:\n  podroute drain\n"), "{help}");
    }
}
