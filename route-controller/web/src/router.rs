//! Requests: the files, a document, a stream of documents that changed.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::{Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::guard::{self, Token, Verdict};
use crate::hub::{Gathered, Hub};
use crate::{Source, View, pages};

/// Pages that are open at a time.
const STREAMS: usize = 32;

struct Shared<S> {
    hub: Hub<S>,
    token: Option<Token>,
    streams: Arc<Semaphore>,
}

pub(crate) fn router<S: Source>(source: S, token: Option<Token>) -> Router {
    let shared = Arc::new(Shared {
        hub: Hub::new(source),
        token,
        streams: Arc::new(Semaphore::new(STREAMS)),
    });
    let mut router = Router::new()
        .route("/api/v1/stream", get(stream::<S>))
        .route("/api/v1/{view}", get(document::<S>));
    for page in pages::ALL {
        let file = move || async move { ([(header::CONTENT_TYPE, page.kind)], page.text) };
        router = router.route(page.path, get(file));
    }
    router
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), guarded::<S>))
        .with_state(shared)
}

/// Before everything else, and with the headers of every answer.
async fn guarded<S: Source>(State(shared): State<Arc<Shared<S>>>, request: Request, next: Next) -> Response {
    let mut response = match guard::judge(request.uri(), request.headers(), shared.token.as_ref()) {
        _ if request.method() != Method::GET && request.method() != Method::HEAD => {
            StatusCode::METHOD_NOT_ALLOWED.into_response()
        }
        Verdict::Serve => next.run(request).await,
        Verdict::SetCookie(cookie) => {
            let headers = [
                (header::SET_COOKIE, cookie),
                (header::LOCATION, HeaderValue::from_static("/")),
            ];
            (StatusCode::SEE_OTHER, headers).into_response()
        }
        Verdict::Refuse(status, why) => (status, why).into_response(),
    };
    for (name, value) in guard::HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn document<S: Source>(State(shared): State<Arc<Shared<S>>>, Path(view): Path<String>) -> Response {
    let Some(view) = View::named(&view) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    match shared.hub.get(view).await.0 {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text.to_string()).into_response(),
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

/// The views of `?view=peers&view=blocks`: each at once, and again when it changed.
async fn stream<S: Source>(State(shared): State<Arc<Shared<S>>>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let names = query.split('&').filter_map(|pair| pair.strip_prefix("view="));
    let mut views: Vec<View> = names.filter_map(View::named).collect();
    views.sort();
    views.dedup();
    if views.is_empty() {
        return (StatusCode::BAD_REQUEST, "no view is named").into_response();
    }
    let Ok(place) = Arc::clone(&shared.streams).try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many pages are open").into_response();
    };
    Sse::new(changes(shared, views, place).map(Ok::<_, Infallible>))
        .keep_alive(KeepAlive::default())
        .into_response()
}

/// What a page was sent.
struct Reader<S> {
    shared: Arc<Shared<S>>,
    views: Vec<View>,
    sent: BTreeMap<View, Gathered>,
    /// The next of the views to look at.
    next: usize,
    _place: OwnedSemaphorePermit,
}

fn changes<S: Source>(
    shared: Arc<Shared<S>>,
    views: Vec<View>,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Event> {
    let reader = Reader {
        shared,
        views,
        sent: BTreeMap::new(),
        next: 0,
        _place: place,
    };
    futures::stream::unfold(reader, |mut reader| async move {
        let event = reader.change().await;
        Some((event, reader))
    })
}

impl<S: Source> Reader<S> {
    /// The next change; waits for it.
    async fn change(&mut self) -> Event {
        loop {
            let Some(&view) = self.views.get(self.next) else {
                self.next = 0;
                tokio::time::sleep(self.shared.hub.max_age()).await;
                continue;
            };
            self.next += 1;
            let gathered = self.shared.hub.get(view).await;
            if self.sent.get(&view) == Some(&gathered) {
                continue;
            }
            self.sent.insert(view, gathered.clone());
            return match gathered.0 {
                Ok(text) => Event::default().event(view.name()).data(text),
                // `error` is the name of the browser's own event.
                Err(error) => Event::default()
                    .event("failure")
                    .data(serde_json::json!({"view": view.name(), "error": &*error}).to_string()),
            };
        }
    }
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
