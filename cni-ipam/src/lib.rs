//! podroute's CNI plugins: `podroute-cni` (main plugin) and `podroute-ipam` (delegated IPAM).
//!
//! One process serves one request, synchronously, and starts no other process. The node's blocks are read from
//! `<runDir>/node.json`, which the agent writes; the agent need not run. Implements CNI 0.3.1, 0.4.0, 1.0.0 and
//! 1.1.0. Only the result or an error document is written to standard output.
//!
//! | module | does |
//! |---|---|
//! | `request`, `netconf` | parse and check the environment and the network configuration |
//! | `plugin`, `ipam_plugin`, `chained`, `gc` | the verbs: main plugin, IPAM plugin, behind another plugin, GC |
//! | `ipam`, `attachment` | an attachment's addresses, its record and its lock |
//! | `allocator`, `store`, `block` | which address, over claims that are files |
//! | `kernel`, `wiring`, `egress` | veth pairs, addresses, routes, nftables; what is missing of them |
//! | `reconcile`, `admin` | for the agent: restore what others remove; list, check, clean up |
//! | `result`, `error` | the answer |

mod admin;
mod allocator;
mod attachment;
mod block;
mod chained;
mod delegate;
mod egress;
mod error;
#[doc(hidden)]
pub mod floor;
mod forwarding;
mod gc;
mod ipam;
mod ipam_plugin;
mod kernel;
mod names;
mod netconf;
mod node;
mod plugin;
mod policy;
mod reconcile;
mod request;
mod result;
mod store;
mod tally;
mod wiring;

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::Value;

use crate::netconf::{Netconf, Version};
use crate::request::{Request, Verb};

pub use crate::admin::{AttachmentInfo, Examination, Finding, Removed, attachments, check, cleanup, examine};
pub use crate::error::{Error, Result};
pub use crate::kernel::link::ROUTE_PROTOCOL;
pub use crate::kernel::netns::NetnsStatus;
pub use crate::names::{ALIAS_PREFIX, IFNAME_PREFIX, Owner};
pub use crate::netconf::RUN_DIR;
pub use crate::policy::{PodInterface, has_policy_file, pod_interfaces, records_dir};
pub use crate::reconcile::{Report, Restored, reconcile};
pub use crate::tally::{VerbTally, tallies};

/// Which of the two binaries this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    /// `podroute-cni`.
    Main,
    /// `podroute-ipam`.
    Ipam,
}

/// Serves the one request of this process.
pub fn run(plugin: Plugin) -> ExitCode {
    let (answer, code) = match Request::from_process() {
        Ok(request) => {
            let served = serve(plugin, &request);
            let version = || netconf::version_of(&request.input);
            served.map_or_else(
                |e| failed(&e, version().as_deref()),
                |value| (value, ExitCode::SUCCESS),
            )
        }
        Err(error) => failed(&error, None),
    };
    let Some(answer) = answer else { return code };
    // If the runtime has closed the pipe there is nobody to report it to.
    let _ = writeln!(std::io::stdout(), "{answer}");
    code
}

fn failed(error: &Error, version: Option<&str>) -> (Option<Value>, ExitCode) {
    (Some(result::render_error(error, version)), ExitCode::FAILURE)
}

fn serve(plugin: Plugin, request: &Request) -> Result<Option<Value>> {
    if request.verb == Verb::Version {
        return Ok(Some(result::render_versions()));
    }
    let conf = Netconf::parse(request).map_err(|error| match (request.verb, error) {
        // STATUS asks whether an ADD would succeed: a wrong configuration is "not ready".
        (Verb::Status, error @ Error::Config { .. }) => Error::NotReady {
            cause: error.to_string(),
        },
        (_, error) => error,
    })?;
    require_version(request.verb, conf.version)?;
    let began = Instant::now();
    let served = perform(plugin, request, &conf);
    // The other plugin is called by this one.
    if plugin == Plugin::Main {
        tally::note(&conf.run_dir, request.verb, began.elapsed(), served.is_err());
    }
    served
}

fn perform(plugin: Plugin, request: &Request, conf: &Netconf) -> Result<Option<Value>> {
    let done = |done: Result<()>| done.map(|()| None);
    match (plugin, request.verb) {
        (Plugin::Main, Verb::Add) => plugin::add(request, conf).map(Some),
        (Plugin::Main, Verb::Del) => done(plugin::del(request, conf)),
        (Plugin::Main, Verb::Check) => done(plugin::check(request, conf)),
        (Plugin::Main, Verb::Gc) => done(plugin::gc(request, conf)),
        (Plugin::Ipam, Verb::Add) => ipam_plugin::add(request, conf).map(Some),
        (Plugin::Ipam, Verb::Del) => done(ipam_plugin::del(conf, &request.owner)),
        (Plugin::Ipam, Verb::Check) => done(ipam_plugin::check(conf, &request.owner)),
        (Plugin::Ipam, Verb::Gc) => done(ipam_plugin::gc(conf)),
        (Plugin::Main, Verb::Status) => done(plugin::status(request, conf)),
        (Plugin::Ipam, Verb::Status) => done(ipam::status(conf)),
        (_, Verb::Version) => Ok(Some(result::render_versions())),
    }
}

/// CHECK exists since 0.4.0, GC and STATUS since 1.1.0.
fn require_version(verb: Verb, version: Version) -> Result<()> {
    let since = match verb {
        Verb::Add | Verb::Del | Verb::Version => return Ok(()),
        Verb::Check => Version::V0_4_0,
        Verb::Gc | Verb::Status => Version::V1_1_0,
    };
    if version < since {
        let version = version.as_str().to_owned();
        return Err(Error::VerbVersion {
            verb: verb.as_str(),
            version,
            since: since.as_str(),
        });
    }
    Ok(())
}
