//! The user's guide: its pages are where its summary says, and its commands do what it says they do.
//!
//! Pages are followed in order in one folder. Before a page's commands run, its `toml` blocks become the files that their
//! first line names. A `text` block shows lines of the output of the commands above it, in order; `…` stands for anything,
//! and a line of it for any number of lines. `sh exit=2` ends with that code. Blocks in Python run where there is one that
//! has transformers (`common::python`).
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "helpers of tests are not seen as tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn pages() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide/src")
}

/// Files that the summary links, in its order.
fn summary() -> Vec<String> {
    let text = fs::read_to_string(pages().join("SUMMARY.md")).unwrap();
    links(&text)
}

/// Relative links of a page to other pages.
fn links(text: &str) -> Vec<String> {
    let targets = text.split("](").skip(1).map(|rest| rest.split_once(')').unwrap().0.to_owned());
    targets.filter(|target| target.ends_with(".md")).collect()
}

#[test]
fn every_page_is_in_the_summary_and_every_link_leads_to_a_page() {
    let listed = summary();
    let mut files: Vec<String> =
        fs::read_dir(pages()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    files.retain(|file| file != "SUMMARY.md");
    files.sort();
    let mut sorted = listed.clone();
    sorted.sort();
    assert_eq!(sorted, files);
    for page in listed {
        let text = fs::read_to_string(pages().join(&page)).unwrap();
        assert!(text.starts_with("# "), "{page} has no title");
        for link in links(&text) {
            assert!(files.contains(&link), "{page} links to {link}");
        }
    }
}

/// A fenced block: what follows the fence, and its lines.
struct Block<'a> {
    info: &'a str,
    content: String,
}

fn blocks(page: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(info), None) => open = Some(Block { info, content: String::new() }),
            (Some(_), Some(block)) => blocks.push(block),
            (None, Some(block)) => open = Some(Block { content: block.content + line + "\n", ..block }),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// Runs a script and yields all that it printed.
fn run(folder: &Path, interpreter: &[&str], script: &str, exit: i32) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_millstream")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let output = Command::new(interpreter[0])
        .args(&interpreter[1..])
        .arg(script)
        .current_dir(folder.join("work"))
        .env("PATH", path)
        .env("XDG_CACHE_HOME", folder.join("cache"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit), "{script}\n{text}");
    text
}

/// Whether `line` is `wanted`, in which `…` stands for anything; blanks at both ends do not count.
fn matches(wanted: &str, line: &str) -> bool {
    let mut parts = wanted.trim().split('…').map(str::trim);
    let first = parts.next().unwrap();
    let Some(mut rest) = line.trim().strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
        last = Some(part);
    }
    match last {
        None => rest.is_empty(),
        Some("") => true,
        Some(part) => line.trim().ends_with(part),
    }
}

/// The excerpt's lines come in this order in the output.
fn check(page: &str, excerpt: &str, output: &str) {
    let mut lines = output.lines();
    for wanted in excerpt.lines().filter(|wanted| !matches!(wanted.trim(), "" | "…")) {
        assert!(lines.any(|line| matches(wanted, line)), "{page}: no line {wanted:?} where it should be in\n{output}");
    }
}

#[test]
fn every_command_does_what_the_guide_says() {
    let place = tempfile::tempdir().unwrap();
    let work = place.path().join("work");
    fs::create_dir(&work).unwrap();
    let mut n_scripts = 0;
    for page in summary() {
        let text = fs::read_to_string(pages().join(&page)).unwrap();
        let mut output = None;
        for Block { info, content } in blocks(&text) {
            let (language, exit) = info.split_once(" exit=").unwrap_or((info, "0"));
            match language {
                "sh" => {
                    output = Some(run(place.path(), &["sh", "-ec"], &content, exit.parse().unwrap()));
                    n_scripts += 1;
                }
                "toml" => {
                    let name = content.lines().next().unwrap().strip_prefix("# ").unwrap();
                    fs::write(work.join(name), &content).unwrap();
                }
                "text" => check(&page, &content, output.as_deref().unwrap()),
                "python" => {
                    let checks = format!("the Python of the guide's page {page}");
                    if let Some(python) = common::python("transformers", &checks) {
                        run(place.path(), &[&python, "-c"], &content, 0);
                    }
                }
                other => panic!("{page}: nothing is known of blocks in {other:?}"),
            }
        }
    }
    assert!(n_scripts > 15, "the guide lost its commands");
}
