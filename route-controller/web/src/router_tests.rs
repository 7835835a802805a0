use std::sync::Mutex;
use std::time::Duration;

use axum::body::Body;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;

/// Says the next of these at each question, and then the last again.
struct Script(Mutex<Vec<Result<Value, String>>>);

impl Source for Script {
    type Error = String;

    async fn document(&self, _: View) -> Result<Value, String> {
        let mut answers = self.0.lock().unwrap();
        if answers.len() > 1 {
            answers.remove(0)
        } else {
            answers[0].clone()
        }
    }

    fn max_age(&self) -> Duration {
        Duration::from_secs(2)
    }
}

fn site(answers: &[Result<Value, String>]) -> Router {
    router(Script(Mutex::new(answers.to_vec())), None)
}

async fn ask(router: &Router, method: &str, path: &str, host: &str) -> Response {
    let request = Request::builder().method(method).uri(path).header("host", host);
    router
        .clone()
        .oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap()
}

async fn text(response: Response) -> String {
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn files_and_documents_with_the_headers_that_protect_them() {
    let site = site(&[Ok(json!({"items": ["<script>"]}))]);
    for (path, kind) in [
        ("/", "text/html"),
        ("/app.js", "text/javascript"),
        ("/api/v1/peers", "application/json"),
    ] {
        let response = ask(&site, "GET", path, "localhost:1").await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert!(header("content-type").starts_with(kind), "{path}");
        assert!(header("content-security-policy").starts_with("default-src 'none'; script-src 'self'"));
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert!(!response.headers().contains_key("access-control-allow-origin"));
    }
}

#[tokio::test]
async fn nothing_for_other_names_methods_and_paths() {
    let site = site(&[Ok(json!({}))]);
    let status = async |method: &str, path: &str, host: &str| ask(&site, method, path, host).await.status();
    assert_eq!(
        status("GET", "/api/v1/peers", "rebound.example").await,
        StatusCode::MISDIRECTED_REQUEST
    );
    assert_eq!(
        status("GET", "/", "rebound.example").await,
        StatusCode::MISDIRECTED_REQUEST
    );
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        assert_eq!(
            status(method, "/api/v1/peers", "localhost").await,
            StatusCode::METHOD_NOT_ALLOWED
        );
    }
    assert_eq!(
        status("GET", "/api/v1/secrets", "localhost").await,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        status("GET", "/../Cargo.toml", "localhost").await,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn a_failure_is_shown_as_text() {
    let site = site(&[Err("no answer from <b>".to_owned())]);
    let response = ask(&site, "GET", "/api/v1/peers", "localhost").await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert!(
        response.headers()["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/plain")
    );
}

#[tokio::test(start_paused = true)]
async fn the_stream_has_each_view_at_once_and_then_what_changed() {
    let answers = [
        Ok(json!({"n": 1})),
        Ok(json!({"n": 1})),
        Ok(json!({"n": 2})),
        Err("gone".to_owned()),
    ];
    let site = site(&answers);
    let response = ask(&site, "GET", "/api/v1/stream?view=peers", "localhost").await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body().into_data_stream();
    let mut said = String::new();
    while !said.contains("gone") {
        said.push_str(std::str::from_utf8(&body.next().await.unwrap().unwrap()).unwrap());
    }
    let events: Vec<&str> = said
        .split("\n\n")
        .filter(|event| event.starts_with("event:"))
        .collect();
    assert_eq!(
        events,
        [
            "event: peers\ndata: {\"n\":1}",
            "event: peers\ndata: {\"n\":2}",
            "event: failure\ndata: {\"error\":\"gone\",\"view\":\"peers\"}"
        ]
    );
}

#[tokio::test]
async fn streams_are_bounded_and_a_closed_page_gives_its_place_back() {
    let site = site(&[Ok(json!({}))]);
    let mut open = Vec::new();
    for _ in 0..STREAMS {
        open.push(ask(&site, "GET", "/api/v1/stream?view=peers", "localhost").await);
    }
    let next = || ask(&site, "GET", "/api/v1/stream?view=peers", "localhost");
    assert_eq!(next().await.status(), StatusCode::SERVICE_UNAVAILABLE);
    open.pop();
    assert_eq!(next().await.status(), StatusCode::OK);
}

#[tokio::test]
async fn the_token_opens_the_page() {
    let token = Token::random().unwrap();
    let site = router(Script(Mutex::new(vec![Ok(json!({}))])), Some(token.clone()));
    assert_eq!(
        ask(&site, "GET", "/", "localhost").await.status(),
        StatusCode::UNAUTHORIZED
    );
    let response = ask(&site, "GET", &format!("/?token={}", token.as_str()), "localhost").await;
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    assert_eq!(response.headers()["location"], "/");
    let said = text(ask(&site, "GET", "/?token=wrong", "localhost").await).await;
    assert!(said.contains("the address that the command printed"));
}
