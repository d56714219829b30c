//! The command line: run files, commands, progress and the report around the library crates.

mod allocator;
mod commands;
mod fault;
mod run_file;
mod toml_file;

fn main() {}
