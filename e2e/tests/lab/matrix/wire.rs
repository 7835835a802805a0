//! The messages that podroute sent in a cell, read by Wireshark's dissector.

use std::path::PathBuf;

use lab::capture::Capture;
use lab::ensure;
use lab::failure::Result;
use lab::machine::{Host, command};
use lab::process::{find_program, finish};

/// A recording of one interface.
pub(super) struct Wire {
    recorder: Capture,
    file: PathBuf,
}

impl Wire {
    pub(super) fn tap(host: &Host, link: &str) -> Result<Self> {
        let file = host.dir().join("log/wire.pcap");
        Ok(Self {
            recorder: Capture::into_file(host.name(), link, &file)?,
            file,
        })
    }

    /// podroute sent no malformed message, and there were some of each of these types; where tshark is installed.
    pub(super) fn judged(self, wanted: [&str; 3]) -> Result<()> {
        let Self { recorder, file } = self;
        recorder.finish()?;
        if find_program("tshark").is_none() {
            return Ok(());
        }
        let ours = "(ip.src == 192.0.2.1 || ipv6.src == 2001:db8::1)";
        let faults = tshark(
            &file,
            &format!("{ours} && bgp && (_ws.malformed || _ws.expert.severity >= 6291456)"),
        )?;
        ensure!(faults.trim().is_empty(), "tshark finds fault with {faults}");
        let types = tshark(&file, &format!("{ours} && bgp"))?;
        for kind in wanted {
            let seen = types.lines().any(|line| {
                line.split('\t')
                    .nth(1)
                    .is_some_and(|kinds| kinds.split(',').any(|one| one == kind))
            });
            ensure!(seen, "tshark sees no message of type {kind} from us:\n{types}");
        }
        Ok(())
    }
}

fn tshark(file: &std::path::Path, filter: &str) -> Result<String> {
    let mut tshark = command("tshark");
    tshark.arg("-r").arg(file).args(["-Y", filter, "-T", "fields"]);
    for field in ["frame.number", "bgp.type", "_ws.expert.message"] {
        tshark.args(["-e", field]);
    }
    finish(&mut tshark)
}
