//! The embedded files.

/// A file with its type.
pub(crate) struct Page {
    pub(crate) path: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// All of them.
pub(crate) const ALL: [Page; 6] = [
    Page {
        path: "/",
        kind: HTML,
        text: include_str!("assets/index.html"),
    },
    Page {
        path: "/style.css",
        kind: STYLE,
        text: include_str!("assets/style.css"),
    },
    Page {
        path: "/app.js",
        kind: SCRIPT,
        text: include_str!("assets/app.js"),
    },
    Page {
        path: "/table.js",
        kind: SCRIPT,
        text: include_str!("assets/table.js"),
    },
    Page {
        path: "/topology.js",
        kind: SCRIPT,
        text: include_str!("assets/topology.js"),
    },
    Page {
        path: "/search.js",
        kind: SCRIPT,
        text: include_str!("assets/search.js"),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The content security policy forbids them; a browser would only ignore them.
    #[test]
    fn nothing_is_inline() {
        for page in ALL {
            for forbidden in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "style=",
                "onclick=",
            ] {
                assert!(!page.text.contains(forbidden), "{}: {forbidden}", page.path);
            }
        }
        let page = ALL[0].text;
        assert!(!page.contains("<script>") && !page.contains("<style"), "{page}");
        assert!(page.contains("lang=\"en\""));
    }

    #[test]
    fn every_file_that_is_named_exists() {
        let names = ALL.iter().flat_map(|page| {
            let quoted = page.text.split('"').skip(1).step_by(2);
            quoted.filter(|text| text.ends_with(".js") || text.ends_with(".css"))
        });
        let names: Vec<&str> = names.collect();
        assert!(names.len() >= 4, "{names:?}");
        for name in names {
            let path = format!("/{}", name.trim_start_matches("./").trim_start_matches('/'));
            assert!(ALL.iter().any(|page| page.path == path), "{name}");
        }
    }
}
