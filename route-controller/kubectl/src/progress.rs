//! Progress on standard error, where that is a terminal.

use std::io::{IsTerminal, Write};

/// Fewer nodes answer too fast for it to be of use.
const FEW: usize = 10;
const WIDTH: usize = 30;

/// A line that shows how many nodes are done.
pub(crate) struct Progress {
    of: usize,
    shown: bool,
}

impl Progress {
    pub(crate) fn start(of: usize, quiet: bool) -> Self {
        Self {
            of,
            shown: !quiet && of > FEW && std::io::stderr().is_terminal(),
        }
    }

    pub(crate) fn show(&mut self, done: usize) {
        if self.shown {
            // A terminal that is gone is no fault.
            let _ = write!(std::io::stderr(), "\r{}", bar(done, self.of));
        }
    }

    /// Removes the line.
    pub(crate) fn end(self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn bar(done: usize, of: usize) -> String {
    let full = (done * WIDTH).checked_div(of).unwrap_or(WIDTH).min(WIDTH);
    format!(
        "[{}{}] {done} of {of} nodes",
        "#".repeat(full),
        ".".repeat(WIDTH - full)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_full_at_the_end() {
        assert!(bar(0, 1000).starts_with("[...."));
        assert_eq!(bar(500, 1000).matches('#').count(), WIDTH / 2);
        assert!(bar(1000, 1000).ends_with("#] 1000 of 1000 nodes"));
    }
}
