//! An API server that lists nodes and pods and runs programs by a function, for tests: the WebSocket protocol is the real one
//! (v4.channel.k8s.io, which cannot close standard input).

use std::net::SocketAddr;
use std::sync::Arc;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

use crate::exec::Output;

const PROTOCOL: &str = "v4.channel.k8s.io";

/// What a program does: the pod, its arguments, its standard input.
type Program = dyn Fn(&str, &[String], &str) -> Output + Send + Sync;

/// Starts it; ends with the test's runtime. `pods` are pairs of node and pod; nodes without a pod are further ones.
pub(crate) async fn start(
    pods: &[(String, String)],
    without_pod: &[&str],
    program: impl Fn(&str, &[String], &str) -> Output + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let program: Arc<Program> = Arc::new(program);
    let names = pods
        .iter()
        .map(|(node, _)| node.as_str())
        .chain(without_pod.iter().copied());
    let nodes: Vec<Value> = names.map(|name| json!({"metadata": {"name": name}})).collect();
    let pods: Vec<Value> = pods.iter().map(|(node, name)| pod(node, name)).collect();
    let lists = Arc::new([
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods}),
        json!({"kind": "NodeList", "apiVersion": "v1", "metadata": {}, "items": nodes}),
    ]);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&lists), Arc::clone(&program)));
        }
    });
    address
}

/// A kubeconfig for it.
pub(crate) fn kubeconfig(address: SocketAddr) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: 'http://{address}'}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\nusers: [{{name: u, user: {{}}}}]\n"
    );
    std::fs::write(file.path(), text).unwrap();
    file
}

fn pod(node: &str, name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"nodeName": node, "containers": [{"name": "podroute", "command": ["/podroute", "run"]}]},
        "status": {"containerStatuses": [{"name": "podroute", "ready": true, "restartCount": 0, "image": "", "imageID": "",
            "state": {"running": {}}}]},
    })
}

async fn serve(mut stream: TcpStream, lists: Arc<[Value; 2]>, program: Arc<Program>) {
    let mut start = vec![0; 4096];
    let length = stream.peek(&mut start).await.unwrap();
    let head = String::from_utf8_lossy(&start[..length]).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    if path.contains("/exec?") {
        return exec(stream, &path, &program).await;
    }
    let list = &lists[usize::from(path.contains("/nodes"))];
    let _ = stream.read(&mut start).await;
    let body = list.to_string();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(answer.as_bytes()).await;
}

async fn exec(stream: TcpStream, path: &str, program: &Arc<Program>) {
    #[expect(clippy::result_large_err, reason = "the type of the callback")]
    let with_protocol = |request: &Request, mut response: Response| {
        let offered = request.headers()["sec-websocket-protocol"].to_str().unwrap();
        assert!(offered.contains(PROTOCOL), "{offered}");
        response
            .headers_mut()
            .insert("sec-websocket-protocol", PROTOCOL.parse().unwrap());
        Ok(response)
    };
    let mut socket = tokio_tungstenite::accept_hdr_async(stream, with_protocol)
        .await
        .unwrap();
    let (path, query) = path.split_once('?').unwrap();
    let pod = path.split('/').nth_back(1).unwrap();
    let values = |name: &str| -> Vec<String> {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let wanted = pairs.filter(|(key, _)| *key == name);
        wanted.map(|(_, value)| value.replace("%2F", "/")).collect()
    };
    let mut input = String::new();
    if values("stdin") == ["true"] {
        while !input.ends_with("\n...\n") {
            let Some(Ok(message)) = socket.next().await else {
                return;
            };
            let data = message.into_data();
            if let Some((0, text)) = data.split_first() {
                input.push_str(std::str::from_utf8(text).unwrap());
            }
        }
    }
    let output = program(pod, &values("command"), &input);
    // A kubelet's program takes its time; a client that has closed by then gets nothing.
    let closed = tokio::time::timeout(std::time::Duration::from_millis(20), socket.next()).await;
    if let Ok(None | Some(Ok(Message::Close(_)) | Err(_))) = closed {
        return;
    }
    let status = match output.exit_code {
        0 => json!({"status": "Success"}),
        code => json!({"status": "Failure", "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}}),
    };
    let text = status.to_string();
    for (channel, text) in [(1, &output.stdout), (2, &output.stderr), (3, &text)] {
        for part in text.as_bytes().chunks(1000) {
            let message = [&[channel], part].concat();
            if socket.send(Message::binary(message)).await.is_err() {
                return;
            }
        }
    }
    let _ = socket.close(None).await;
}
