//! A program in a pod, over the API server's WebSocket: what `kubectl exec` does.

use k8s_openapi::api::core::v1::Pod;
use kube::api::AttachParams;
use kube::{Api, Client};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::error::{NodeError, with_causes};
use crate::target::Agent;

/// A node's answer is at most this long.
const MAX_OUTPUT: u64 = 256 << 20;
/// Of standard error only the start is of use.
const MAX_ERRORS: u64 = 16 << 10;
/// What is read at a time.
const BUFFER: usize = 64 << 10;
/// After this line the program reads no further: the WebSocket protocol before v5 cannot close standard input.
const END_OF_INPUT: &str = "\n...\n";

/// What a program printed, and how it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Output {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// 0 for success, 3 for an answer that something is not in order.
    pub(crate) exit_code: i32,
}

/// The program has answered, and something is not in order.
pub(crate) const NOT_IN_ORDER: i32 = 3;

impl Output {
    /// Standard output of an answer; of a failure what it said.
    pub(crate) fn success(self) -> Result<String, NodeError> {
        if matches!(self.exit_code, 0 | NOT_IN_ORDER) {
            return Ok(self.stdout);
        }
        let said = self.stderr.trim();
        let said = said.strip_prefix("podroute: ").unwrap_or(said);
        let first = said.lines().next().unwrap_or_default();
        Err(NodeError::Exit {
            status: self.exit_code,
            message: first.to_owned(),
        })
    }
}

/// Runs the agent's program with these arguments. `input` is its standard input.
pub(crate) async fn run(
    client: Client,
    namespace: &str,
    agent: &Agent,
    args: &[String],
    input: Option<&str>,
) -> Result<Output, NodeError> {
    let api: Api<Pod> = Api::namespaced(client, namespace);
    let params = AttachParams::default()
        .container(agent.container.clone())
        .stdin(input.is_some())
        .stdout(true)
        .stderr(true)
        .max_stdin_buf_size(BUFFER)
        .max_stdout_buf_size(BUFFER)
        .max_stderr_buf_size(BUFFER);
    let command = std::iter::once(&agent.program).chain(args).cloned();
    let command: Vec<String> = command.collect();
    let started = api.exec(&agent.pod, command, &params).await;
    let mut process = started.map_err(|error| refused(&error))?;
    let (stdin, status) = (process.stdin(), process.take_status());
    let stdout = process.stdout().ok_or(NodeError::Interrupted)?;
    let stderr = process.stderr().ok_or(NodeError::Interrupted)?;
    let write = async {
        let mut stdin = stdin?;
        if let Some(input) = input {
            // A program that ends without reading all of it says why by its status.
            let _ = stdin.write_all(input.as_bytes()).await;
            let _ = stdin.write_all(END_OF_INPUT.as_bytes()).await;
        }
        Some(stdin)
    };
    let (stdin, stdout, stderr) =
        tokio::join!(write, limited(stdout, MAX_OUTPUT), limited(stderr, MAX_ERRORS));
    let stdout = stdout?;
    let stdout = String::from_utf8(stdout).map_err(|_| NodeError::NotText)?;
    let status = match status {
        Some(status) => status.await,
        None => None,
    };
    // Before protocol v5, closing standard input closes the connection.
    drop(stdin);
    let status = status.ok_or(NodeError::Interrupted)?;
    Ok(Output {
        stdout,
        stderr: String::from_utf8_lossy(&stderr?).into_owned(),
        exit_code: exit_code(&status)?,
    })
}

/// Everything; more than the limit is an error.
async fn limited(from: impl AsyncRead + Unpin, limit: u64) -> Result<Vec<u8>, NodeError> {
    let mut out = Vec::new();
    let read = from.take(limit + 1).read_to_end(&mut out).await;
    read.map_err(|error| NodeError::Api(error.to_string()))?;
    if out.len() as u64 > limit {
        return Err(NodeError::TooLong(limit >> 10));
    }
    Ok(out)
}

/// The exit status as the kubelet reports it.
fn exit_code(status: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Status) -> Result<i32, NodeError> {
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status
        .details
        .iter()
        .flat_map(|details| &details.causes)
        .flatten();
    let code = causes
        .filter(|cause| cause.reason.as_deref() == Some("ExitCode"))
        .find_map(|cause| cause.message.as_deref()?.parse().ok());
    code.ok_or_else(|| {
        let message = status.message.clone();
        NodeError::Api(message.unwrap_or_else(|| "the program could not be started".to_owned()))
    })
}

/// Why the API server does not run it.
fn refused(error: &kube::Error) -> NodeError {
    let text = with_causes(error);
    if ["403", "Forbidden", "forbidden"]
        .iter()
        .any(|word| text.contains(word))
    {
        return NodeError::Forbidden(text);
    }
    NodeError::Api(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_exit_status_is_in_the_causes() {
        let of = |status| exit_code(&serde_json::from_value(status).unwrap());
        assert_eq!(of(json!({"status": "Success"})), Ok(0));
        let failed = json!({"status": "Failure", "reason": "NonZeroExitCode", "message": "command terminated with exit code 2",
            "details": {"causes": [{"reason": "ExitCode", "message": "2"}]}});
        assert_eq!(of(failed), Ok(2));
        let other = json!({"status": "Failure", "message": "container not found"});
        assert_eq!(of(other), Err(NodeError::Api("container not found".to_owned())));
    }

    #[test]
    fn a_failure_is_its_first_line() {
        let output = Output {
            stdout: String::new(),
            stderr: "podroute: no answer from the agent\nmore\n".to_owned(),
            exit_code: 1,
        };
        assert_eq!(
            output.success().map_err(|error| error.to_string()),
            Err("exit status 1: no answer from the agent".to_owned())
        );
        let down = Output {
            stdout: "{}".to_owned(),
            stderr: String::new(),
            exit_code: NOT_IN_ORDER,
        };
        assert_eq!(
            down.success(),
            Ok("{}".to_owned()),
            "an answer although a session is down"
        );
    }

    #[tokio::test]
    async fn a_longer_answer_than_allowed_is_an_error() {
        assert_eq!(limited(&b"abc"[..], 3).await, Ok(b"abc".to_vec()));
        assert!(limited(&b"abcd"[..], 3).await.is_err());
    }
}
