//! Asking the running agent over its socket.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::status::{Reply, Request};

const PATIENCE: Duration = Duration::from_secs(60);

/// The agent's answer is none to this question.
pub(super) const OTHER_VERSION: &str =
    "unexpected answer from the agent; are podroute and the agent of one version?";

/// Asks one thing. The error names the socket and the remedy, or is the agent's own.
pub(super) fn ask(run_dir: &Path, request: &Request) -> Result<Reply, String> {
    question(run_dir, request).map(|(reply, _)| reply)
}

/// Asks for something that follows the answer on the same connection, and copies it.
pub(super) fn copy(run_dir: &Path, request: &Request, out: &mut impl Write) -> Result<u64, String> {
    let (_, mut rest) = question(run_dir, request)?;
    std::io::copy(&mut rest, out).map_err(|error| error.to_string())
}

fn question(run_dir: &Path, request: &Request) -> Result<(Reply, BufReader<UnixStream>), String> {
    let path = run_dir.join("podroute.sock");
    let fail = |error: std::io::Error| no_answer(&path, &error);
    let mut stream = UnixStream::connect(&path).map_err(fail)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(fail)?;
    let mut question = serde_json::to_vec(request).map_err(|error| error.to_string())?;
    question.push(b'\n');
    stream.write_all(&question).map_err(fail)?;
    let mut line = String::new();
    let mut rest = BufReader::new(stream);
    rest.read_line(&mut line).map_err(fail)?;
    let reply = serde_json::from_str(&line).map_err(|error| {
        format!("cannot parse the agent's answer: {error}; are podroute and the agent of one version?")
    })?;
    match reply {
        Reply::Error(error) => Err(error),
        reply => Ok((reply, rest)),
    }
}

fn no_answer(path: &Path, error: &std::io::Error) -> String {
    let remedy = match error.kind() {
        ErrorKind::PermissionDenied => "only root may connect: run the command with sudo",
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "it runs but does not answer: see its log",
        _ => "is it running (podroute run), and with this --run-dir?",
    };
    format!(
        "no answer from the agent at {}: {error}; {remedy}",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_ask_is_told_so() {
        let path = Path::new("/run/podroute/podroute.sock");
        let said = |kind: ErrorKind| no_answer(path, &kind.into());
        assert!(said(ErrorKind::PermissionDenied).ends_with("run the command with sudo"));
        assert!(said(ErrorKind::NotFound).contains("is it running"));
        assert!(said(ErrorKind::WouldBlock).contains("see its log"));
    }
}
