//! The pages for operators say what is true: links lead somewhere, files pass `podroute check`, commands run, references are whole.
//!
//! How a page marks its blocks stands in docs/README.md, "How these pages are checked".

mod blocks;
mod chart;
mod events;
mod examples;
mod files;
mod links;
mod page_lab;
mod pages;
mod reference;
mod runs;
mod troubleshooting;
mod two_machines;
mod words;
mod workflows;
