//! The pages for operators say what is true: links lead somewhere, files pass `podroute check`, commands run, references are whole.
//!
//! How a page marks its blocks stands in docs/README.md, "How these pages are checked".

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what is wrong by panicking"
)]

mod blocks;
mod files;
mod lab;
mod links;
mod pages;
mod reference;
mod runs;
mod troubleshooting;
mod two_machines;
