//! The looking glass in a headless Chromium. Left out where none is installed. `DOCS_WRITE=1` writes the pictures of the page in docs/.
#![cfg(test)]

mod cdp;
mod fixture;

use std::path::Path;

use cdp::Page;
use fixture::{HOSTILE, Racks};
use podroute_web::Listener;
use serde_json::json;

const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs");

/// What a router says that is restarted.
const PLAIN: &str = "Administrative Reset, maintenance until 16:00";

/// A server over these racks.
async fn serve(racks: Racks) -> (&'static Racks, String) {
    let racks: &'static Racks = Box::leak(Box::new(racks));
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let url = format!("http://{}/", listener.address().unwrap());
    tokio::spawn(listener.serve(racks, None));
    (racks, url)
}

async fn write(page: &mut Page, name: &str) {
    let picture = page.picture().await;
    assert_eq!(picture.get(..8), Some(&b"\x89PNG\r\n\x1a\n"[..]));
    if std::env::var_os("DOCS_WRITE").is_some() {
        std::fs::write(Path::new(DOCS).join(name), picture).unwrap();
    }
}

#[tokio::test]
async fn the_topology_follows_the_sessions() {
    let (racks, url) = serve(Racks::new(4, &[2], PLAIN)).await;
    let Some(mut page) = Page::open(&url, 1100, 800).await else {
        return;
    };
    page.until("document.querySelectorAll('svg a').length === 4")
        .await;
    assert_eq!(
        page.value("document.querySelectorAll('svg line').length").await,
        8,
        "a line for each session"
    );
    assert_eq!(
        page.value("document.querySelectorAll('svg line.down').length")
            .await,
        1
    );
    let text = page.text().await;
    assert!(text.contains("1 of 2 sessions established"), "{text}");
    assert!(text.contains("Live: 4 of 4 nodes answer."), "{text}");
    write(&mut page, "looking-glass-4.png").await;
    racks.repair();
    page.until("document.querySelectorAll('svg line.down').length === 0")
        .await;
}

#[tokio::test]
async fn two_hundred_nodes_are_one_picture() {
    let (_, url) = serve(Racks::new(200, &[3, 77, 78], PLAIN)).await;
    let Some(mut page) = Page::open(&url, 1600, 900).await else {
        return;
    };
    page.until("document.querySelectorAll('svg a').length === 200")
        .await;
    assert_eq!(
        page.value("document.querySelectorAll('svg line').length").await,
        10,
        "one for each rack and router"
    );
    let text = page.text().await;
    assert!(
        text.contains("1 of 40 down") && text.contains("2 of 40 down"),
        "{text}"
    );
    assert_eq!(
        page.value("document.documentElement.scrollWidth <= innerWidth")
            .await,
        true,
        "it fits the window"
    );
    write(&mut page, "looking-glass-200.png").await;
    page.call(
        "Emulation.setEmulatedMedia",
        json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]}),
    )
    .await;
    assert_eq!(
        page.value("getComputedStyle(document.body).backgroundColor")
            .await,
        "rgb(20, 23, 26)"
    );
    write(&mut page, "looking-glass-dark.png").await;
}

/// Every view shows what a neighbor said as text: no element, no script, no change of direction comes of it.
#[tokio::test]
async fn text_of_the_network_stays_text() {
    let (_, url) = serve(Racks::new(4, &[1], HOSTILE)).await;
    let Some(mut page) = Page::open(&url, 1100, 800).await else {
        return;
    };
    for view in [
        "topology", "peers", "routes", "pods", "services", "policies", "events",
    ] {
        page.value(&format!("location.hash = '{view}'")).await;
        page.until("document.querySelectorAll('#view table tbody tr').length > 0")
            .await;
        let found = page
            .value("document.querySelectorAll('#view img, #view script').length")
            .await;
        assert_eq!(found, 0, "{view}");
        assert_ne!(page.value("document.title").await, "owned", "{view}");
        let text = page.text().await;
        assert!(!text.contains('\u{202e}'), "{view}");
        if ["peers", "routes", "events"].contains(&view) {
            let markup = HOSTILE.trim_end_matches('\u{202e}');
            assert!(text.contains(markup), "{view}: {text}");
        }
    }
}

#[tokio::test]
async fn who_has_an_address() {
    let (_, url) = serve(Racks::new(4, &[], PLAIN)).await;
    let Some(mut page) = Page::open(&url, 1100, 800).await else {
        return;
    };
    page.until("document.querySelectorAll('svg a').length === 4")
        .await;
    for (query, answer) in [
        ("10.244.2.7", "10.244.2.7 is the pod default/web-2 on node-3."),
        (
            "10.244.2.9",
            "10.244.2.9 is in the block 10.244.2.0/24 of node-3; no pod has it.",
        ),
        (
            "203.0.113.80",
            "203.0.113.80 is the Service default/web, announced by node-1.",
        ),
        (
            "198.51.100.1",
            "No pod, Service, block or route has 198.51.100.1.",
        ),
        ("2001:db8::1", "No pod, Service, block or route has 2001:db8::1."),
    ] {
        page.value(&format!(
            "location.hash = 'search/' + encodeURIComponent('{query}')"
        ))
        .await;
        page.until(&format!(
            "document.getElementById('answer')?.textContent === '{answer}'"
        ))
        .await;
    }
}

/// Without a mouse: the views, the search and a node of the drawing are reached by Tab, in the order of the page, and Enter follows.
#[tokio::test]
async fn the_keyboard_reaches_everything() {
    let (_, url) = serve(Racks::new(4, &[], PLAIN)).await;
    let Some(mut page) = Page::open(&url, 1100, 800).await else {
        return;
    };
    page.until("document.querySelectorAll('svg a').length === 4")
        .await;
    let mut reached = Vec::new();
    for _ in 0..13 {
        page.press("Tab", 9, None).await;
        let name = page
            .value("document.activeElement.id || document.activeElement.getAttribute('href')")
            .await;
        reached.push(name.as_str().unwrap_or_default().to_owned());
    }
    let expected = [
        "#content",
        "#topology",
        "#peers",
        "#routes",
        "#pods",
        "#services",
        "#policies",
        "#events",
        "query",
        "#peers/node-1",
        "#peers/node-2",
        "#peers/node-3",
        "#peers/node-4",
    ];
    assert_eq!(reached, expected);
    page.press("Enter", 13, Some("\r")).await;
    page.until("document.getElementById('title').textContent === 'Peers: node-4'")
        .await;
    page.until("document.querySelectorAll('#view tbody tr').length === 2")
        .await;
}

/// What a screen reader is given: landmarks, a heading, names of links, tables with captions and headers.
#[tokio::test]
async fn the_page_has_names_for_a_screen_reader() {
    let (_, url) = serve(Racks::new(4, &[1], PLAIN)).await;
    let Some(mut page) = Page::open(&url, 1100, 800).await else {
        return;
    };
    page.until("document.querySelectorAll('svg a').length === 4")
        .await;
    let tree = page.call("Accessibility.getFullAXTree", json!({})).await;
    let nodes: Vec<(String, String)> = tree["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|node| node["ignored"] == json!(false))
        .map(|node| {
            let value = |key: &str| node[key]["value"].as_str().unwrap_or_default().to_owned();
            (value("role"), value("name"))
        })
        .collect();
    let has = |role: &str, name: &str| nodes.iter().any(|(r, n)| r == role && n.starts_with(name));
    for (role, name) in [
        ("navigation", "Views"),
        ("search", ""),
        ("main", ""),
        ("heading", "Topology"),
        ("status", ""),
        ("searchbox", "Address, prefix or name"),
        ("link", "node-2: 1 of 2 sessions established"),
        ("table", "Nodes: 4"),
        ("columnheader", "Sessions"),
        ("rowheader", "node-3"),
    ] {
        assert!(has(role, name), "{role} '{name}': {nodes:?}");
    }
    let unnamed: Vec<_> = nodes
        .iter()
        .filter(|(role, name)| ["link", "button", "searchbox"].contains(&role.as_str()) && name.is_empty())
        .collect();
    assert!(unnamed.is_empty(), "{unnamed:?}");
}

/// Texts have a contrast of at least 4.5 to 1 (WCAG 2.2, 1.4.3) in both schemes.
#[tokio::test]
async fn colours_have_contrast() {
    let (_, url) = serve(Racks::new(4, &[1], PLAIN)).await;
    let Some(mut page) = Page::open(&url, 1100, 800).await else {
        return;
    };
    page.until("document.querySelectorAll('svg a').length === 4")
        .await;
    for scheme in ["light", "dark"] {
        page.call(
            "Emulation.setEmulatedMedia",
            json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]}),
        )
        .await;
        let worst = page
            .value(
                "(() => {
                    const style = getComputedStyle(document.documentElement);
                    const light = (name) => {
                        const hex = style.getPropertyValue(name).trim().slice(1);
                        const [r, g, b] = [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255)
                            .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
                        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
                    };
                    const ratio = (one, other) => { const [a, b] = [light(one), light(other)]; return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); };
                    return Math.min(...['--text', '--weak', '--up', '--down', '--mark'].flatMap((c) => [ratio(c, '--back'), ratio(c, '--raised')]));
                })()",
            )
            .await;
        assert!(worst.as_f64().unwrap() >= 4.5, "{scheme}: {worst}");
    }
}
