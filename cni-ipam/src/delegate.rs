//! Delegation to another IPAM plugin (CNI spec 1.1.0, section 4).
//!
//! Finds the plugin in `CNI_PATH`, executes it with this process's environment and input, and reads its result. The plugin's
//! error code and message are returned unchanged. Nothing else in this crate starts a process.

use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::netconf::{Netconf, Route};
use crate::request::Request;
use crate::result::CniResult;

const ADDRESS_LIMIT: usize = 16;

/// The result of an IPAM plugin, built-in or delegated.
#[derive(Debug)]
pub(crate) struct IpamResult {
    pub(crate) addresses: Vec<IpAddr>,
    /// None: the plugin names no route.
    pub(crate) routes: Option<Vec<Route>>,
    pub(crate) dns: Value,
}

/// ADD.
pub(crate) fn add(request: &Request, conf: &Netconf) -> Result<IpamResult> {
    let answer = execute(request, conf, "ADD")?;
    let result = CniResult::parse(&answer, "the IPAM plugin's result")?;
    let addresses: Vec<IpAddr> = result.ips.iter().map(|ip| ip.address.addr()).collect();
    if addresses.is_empty() || addresses.len() > ADDRESS_LIMIT {
        let cause = format!("it names {} addresses, not 1 to {ADDRESS_LIMIT}", addresses.len());
        return Err(Error::Decode {
            what: "the IPAM plugin's result",
            cause,
        });
    }
    let routes: Vec<Route> = result
        .routes
        .iter()
        .map(|r| Route { dst: r.dst, gw: r.gw })
        .collect();
    Ok(IpamResult {
        addresses,
        routes: Some(routes).filter(|r| !r.is_empty()),
        dns: result.dns,
    })
}

/// DEL, CHECK, GC or STATUS.
pub(crate) fn call(request: &Request, conf: &Netconf, verb: &'static str) -> Result<()> {
    execute(request, conf, verb).map(drop)
}

fn execute(request: &Request, conf: &Netconf, verb: &str) -> Result<Value> {
    let name = &conf.ipam_kind;
    let path = find(&request.path, name)?;
    let mut child = Command::new(&path)
        .env("CNI_COMMAND", verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|e| Error::io("run", &path, e))?;
    if let Some(mut input) = child.stdin.take() {
        // A plugin that does not read its whole input reports the reason in its answer.
        let _ = input.write_all(&request.input);
    }
    let out = child.wait_with_output().map_err(|e| Error::io("run", &path, e))?;
    let answer: Option<Value> = serde_json::from_slice(&out.stdout).ok();
    if out.status.success() {
        return Ok(answer.unwrap_or(Value::Null));
    }
    let field = |key: &str| answer.as_ref().and_then(|a| a.get(key));
    let code = field("code")
        .and_then(Value::as_u64)
        .and_then(|c| u32::try_from(c).ok());
    let message = field("msg").and_then(Value::as_str).map(str::to_owned);
    Err(Error::Delegate {
        name: name.clone(),
        code: code.filter(|c| *c > 0).unwrap_or(999),
        message: message.unwrap_or_else(|| format!("it ended with {} and no error document", out.status)),
    })
}

fn find(path: &str, name: &str) -> Result<PathBuf> {
    std::env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| Error::DelegateMissing {
            name: name.to_owned(),
            path: path.to_owned(),
        })
}
