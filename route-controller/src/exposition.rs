//! The forms of /metrics: OpenMetrics 1.0 for who asks for it, else the text format 0.0.4 of Prometheus.
//!
//! The two differ in what a counter is called in its HELP and TYPE lines (the name without `_total` in OpenMetrics, with it in the text
//! format), in `# UNIT`, and in the `# EOF` at the end.

use std::collections::BTreeSet;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The content type and the text for a request's `Accept`, of a text in OpenMetrics.
pub(crate) fn negotiated(accept: &str, text: String) -> (&'static str, String) {
    if accept.contains("application/openmetrics-text") {
        (OPEN_METRICS, text)
    } else {
        (TEXT, plain(&text))
    }
}

/// OpenMetrics as the text format 0.0.4.
fn plain(text: &str) -> String {
    let counters: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let comment = line.strip_prefix("# ").and_then(|rest| rest.split_once(' '));
        match comment {
            Some((kind @ ("HELP" | "TYPE"), rest)) => {
                let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                let total = if counters.contains(name) { "_total" } else { "" };
                out.push_str(&format!("# {kind} {name}{total} {rest}\n"));
            }
            Some(("UNIT", _)) => {}
            None if line == "# EOF" => {}
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: &str = "# HELP podroute_ready Ready.\n# TYPE podroute_ready gauge\npodroute_ready 1\n\
        # HELP podroute_log_lines_dropped Lines.\n# TYPE podroute_log_lines_dropped counter\n\
        # UNIT podroute_log_lines_dropped lines\npodroute_log_lines_dropped_total 3\n# EOF\n";

    #[test]
    fn each_form_has_its_type() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
        assert_eq!(
            negotiated(prometheus, OPEN.to_owned()),
            (OPEN_METRICS, OPEN.to_owned())
        );
        for other in ["", "*/*", "text/plain"] {
            let (kind, text) = negotiated(other, OPEN.to_owned());
            assert_eq!(kind, TEXT);
            assert_eq!(
                text,
                "# HELP podroute_ready Ready.\n# TYPE podroute_ready gauge\npodroute_ready 1\n\
                 # HELP podroute_log_lines_dropped_total Lines.\n# TYPE podroute_log_lines_dropped_total counter\n\
                 podroute_log_lines_dropped_total 3\n"
            );
        }
    }
}
