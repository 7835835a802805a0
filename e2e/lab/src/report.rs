//! The demo's output: one aligned line per step with its time, details indented below.
//!
//! Colour only on a terminal (and never with `NO_COLOR`); the text is the same without it.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};

/// Writes to standard output as the steps come.
#[derive(Debug)]
pub struct Report {
    colour: bool,
    started: Instant,
}

impl Default for Report {
    fn default() -> Self {
        Self::new()
    }
}

impl Report {
    /// A report that starts its clock now.
    pub fn new() -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self {
            colour,
            started: Instant::now(),
        }
    }

    /// A heading line.
    pub fn title(&self, text: &str) {
        println!("{}", self.paint("1", text));
    }

    /// A line as it is.
    pub fn line(&self, text: &str) {
        println!("{text}");
    }

    /// Runs a step, then prints its name, what it answered and how long it took.
    pub fn step<T>(&self, name: &str, job: impl FnOnce() -> Result<(String, T)>) -> Result<T> {
        let start = Instant::now();
        match job() {
            Ok((detail, value)) => {
                self.mark("32", "✓", name, &detail, start.elapsed());
                Ok(value)
            }
            Err(failure) => {
                self.mark("31", "✗", name, failure.summary(), start.elapsed());
                Err(failure.during(name))
            }
        }
    }

    fn mark(&self, colour: &str, sign: &str, name: &str, detail: &str, took: Duration) {
        let width = 80usize.saturating_sub(detail.chars().count()).max(2);
        let seconds = format!("{:.2} s", took.as_secs_f64());
        println!(
            "  {} {name:<9} {detail}{:width$}{}",
            self.paint(colour, sign),
            "",
            self.paint("2", &seconds)
        );
    }

    /// Prints rows with aligned columns, indented below a step.
    pub fn table(&self, rows: &[Vec<String>]) {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| {
            rows.iter()
                .filter_map(|r| r.get(c))
                .map(|t| t.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in rows {
            let cells = row
                .iter()
                .zip(&widths)
                .map(|(text, width)| format!("{text:<width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            println!("      {}", self.paint("2", line.trim_end()));
        }
    }

    /// The last line of a demo that proved everything.
    pub fn success(&self, text: &str) {
        let total = self.started.elapsed().as_secs_f64();
        println!("\n{}", self.paint("1;32", &format!("{text} ({total:.1} s)")));
    }

    /// The last lines of a demo that did not: the check and its evidence.
    pub fn failure(&self, failure: &Failure) {
        println!("\n{} {failure}", self.paint("1;31", "FAILED"));
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}
