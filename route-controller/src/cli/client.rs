//! Requests to the running agent over its socket.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::status::{Reply, Request};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Why the agent did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("no answer from the agent at {}: {source}; {}", path.display(), remedy(source))]
    NoAnswer { path: PathBuf, source: std::io::Error },
    #[error("cannot write the request: {0}")]
    Request(serde_json::Error),
    #[error("cannot parse the agent's answer: {0}; are podroute and the agent of one version?")]
    Answer(serde_json::Error),
    #[error("unexpected answer from the agent; are podroute and the agent of one version?")]
    Unexpected,
    /// The agent's own error.
    #[error("{0}")]
    Refused(String),
    #[error("cannot copy the agent's answer: {0}")]
    Copy(std::io::Error),
}

/// Asks one thing.
pub(super) fn ask(run_dir: &Path, request: &Request) -> Result<Reply, ClientError> {
    question(run_dir, request).map(|(reply, _)| reply)
}

/// Asks for something that follows the answer on the same connection, and copies it.
pub(super) fn copy(run_dir: &Path, request: &Request, out: &mut impl Write) -> Result<u64, ClientError> {
    let (_, mut rest) = question(run_dir, request)?;
    std::io::copy(&mut rest, out).map_err(ClientError::Copy)
}

fn question(run_dir: &Path, request: &Request) -> Result<(Reply, BufReader<UnixStream>), ClientError> {
    let path = run_dir.join("podroute.sock");
    let fail = |source| ClientError::NoAnswer {
        path: path.clone(),
        source,
    };
    let mut stream = UnixStream::connect(&path).map_err(fail)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(fail)?;
    let mut question = serde_json::to_vec(request).map_err(ClientError::Request)?;
    question.push(b'\n');
    stream.write_all(&question).map_err(fail)?;
    let mut line = String::new();
    let mut rest = BufReader::new(stream);
    rest.read_line(&mut line).map_err(fail)?;
    let reply = serde_json::from_str(&line).map_err(ClientError::Answer)?;
    match reply {
        Reply::Error(error) => Err(ClientError::Refused(error)),
        reply => Ok((reply, rest)),
    }
}

fn remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => "only root may connect: run the command with sudo",
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "it runs but does not answer: see its log",
        _ => "is it running (podroute run), and with this --run-dir?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_connection_names_the_remedy() {
        let said = |kind: ErrorKind| {
            let (path, source) = (PathBuf::from("/run/podroute/podroute.sock"), kind.into());
            ClientError::NoAnswer { path, source }.to_string()
        };
        assert!(said(ErrorKind::PermissionDenied).ends_with("run the command with sudo"));
        assert!(said(ErrorKind::NotFound).contains("is it running"));
        assert!(said(ErrorKind::WouldBlock).contains("see its log"));
    }
}
