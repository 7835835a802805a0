//! The benchmark's floor as a process: `floor noop`, `floor add <netns> <id> <address>…`, `floor del <id>`.

use std::process::ExitCode;

use cni_ipam::{Owner, floor};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let owner = |id: &str| Owner {
        container: id.to_owned(),
        ifname: "eth0".to_owned(),
    };
    let done = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["noop"] => Ok(()),
        ["add", netns, id, addresses @ ..] => {
            let addresses: Vec<_> = addresses.iter().filter_map(|a| a.parse().ok()).collect();
            floor::add(netns, &owner(id), &addresses, &[])
        }
        ["del", id] => floor::del(&owner(id)),
        _ => return ExitCode::from(2),
    };
    done.map_or_else(
        |error| {
            eprintln!("{error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}
