//! One stage equals k stages equals the unsplit model equals PyTorch.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod failure;
mod places;
mod plans;
mod post_validation;
mod pytorch;
mod reference;
mod routes;
mod schedules;
mod setup;
mod statistics;
mod tied;
mod updates;
mod vocabulary;
