//! What a run shows while it goes on and leaves for other tools: TensorBoard, Prometheus, the dashboard.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "helpers of tests are not seen as tests")]

mod common;

use common::{Place, python};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn script(python: &str, name: &str, argument: &Path) -> serde_json::Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let output = Command::new(python).arg(script).arg(argument).output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The lines of a run's metrics of one kind.
fn metrics(place: &Place, run: &str, kind: &str) -> Vec<serde_json::Value> {
    let text = place.read_text(&format!("{run}/metrics.jsonl"));
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter(|line| line["kind"] == kind).collect()
}

#[test]
fn samples_blocks_and_event_files() {
    let place = Place::new();
    let sets = ["--set=sample.every=2", "--set=validation.every=2", "--set=checkpoint.every=2"];
    place.succeed(&[&["train", "tiny.toml", "--out", "run", "--set=steps=5"], &sets[..]].concat());
    place.succeed(&[&["train", "--resume", "run", "--set=steps=7"], &sets[..]].concat());

    // The last sample is the summary's.
    let samples = metrics(&place, "run", "sample");
    assert_eq!(samples.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 4, 6]);
    assert!(samples.iter().all(|line| line["prompt"] == "The " && line["text"].is_string()));
    // A sample changes nothing: the weights are those of a run without.
    let plain = ["train", "tiny.toml", "--out", "plain", "--set=steps=7", "--set=metrics.tensorboard=false"];
    place.succeed(&[&plain[..], &sets[1..]].concat());
    assert_eq!(place.read("run/model/model.safetensors"), place.read("plain/model/model.safetensors"));
    assert!(!place.path("plain/tensorboard").exists());
    compare(&place, ["run", "plain"]);

    let looks = metrics(&place, "run", "blocks");
    let blocks = looks.last().unwrap()["blocks"].as_array().unwrap();
    let names: Vec<&str> = blocks.iter().map(|block| block["block"].as_str().unwrap()).collect();
    assert_eq!(names, ["embedding", "attention 0", "mlp 0", "attention 1", "mlp 1", "head"]);
    let total: u64 = blocks.iter().map(|block| block["parameters"].as_u64().unwrap()).sum();
    assert_eq!(total, place.read_json("run/summary.json")["model"]["parameters"]);
    for block in blocks {
        for field in ["weight_rms", "weight_max", "gradient_rms", "gradient_max", "update_share"] {
            assert!(block[field].as_f64().is_some_and(|value| value > 0.0), "{field} of {block}");
        }
        assert_eq!(block["activation_rms"].is_null(), block["block"] == "head");
    }

    assert_eq!(std::fs::read_dir(place.path("run/tensorboard")).unwrap().count(), 2);
    let Some(python) = python("tensorboard", "that TensorBoard reads a run's event files") else { return };
    let found = script(&python, "read_events.py", &place.path("run/tensorboard"));
    let steps = metrics(&place, "run", "step");
    let expected: Vec<(u64, f64)> = steps.iter().map(|line| (line["step"].as_u64().unwrap(), loss(line))).collect();
    let scalars = found["scalars"]["loss/training"].as_array().unwrap();
    let read: Vec<(u64, f64)> =
        scalars.iter().map(|pair| (pair[0].as_u64().unwrap(), pair[1].as_f64().unwrap())).collect();
    assert_eq!(read.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
    // Event files have f32.
    assert!(
        read.iter().zip(&expected).all(|(a, b)| a.0 == b.0 && a.1 == f64::from(b.1 as f32)),
        "{read:?} {expected:?}"
    );
    let text = found["texts"]["sample"].as_array().unwrap();
    assert_eq!(text.iter().map(|pair| pair[0].as_u64().unwrap()).collect::<Vec<_>>(), [2, 4, 6]);
    assert!(text[0][1].as_str().unwrap().starts_with("    The "), "{text:?}");
    assert!(found["texts"]["run file"][0][1].as_str().unwrap().contains("    [pipeline]\n"));
    let tags = found["plugins"]["scalars"].as_array().unwrap();
    for tag in ["loss/validation", "update over weight/attention 1", "memory/peak bytes of rank 1"] {
        assert!(tags.iter().any(|found| found == tag), "{tag} is missing in {tags:?}");
    }
}

fn loss(line: &serde_json::Value) -> f64 {
    line["loss"].as_f64().unwrap()
}

/// A run that goes on until it is stopped.
fn endless(place: &Place, rest: &[&str]) -> Child {
    let arguments = ["train", "tiny.toml", "--out", "run", "--set=steps=1000000", "--set=checkpoint.every=end"];
    place.command(&[&arguments[..], rest].concat()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn get(address: &str, request: &str) -> String {
    let mut connection = TcpStream::connect(address).unwrap();
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn metrics_for_prometheus() {
    let place = Place::new();
    let mut run = endless(&place, &["--prometheus", "0"]);
    let mut lines = BufReader::new(run.stdout.take().unwrap()).lines().map(Result::unwrap);
    let url = lines.find_map(|line| Some(line.strip_prefix("metrics    http://")?.to_owned())).unwrap();
    let address = url.strip_suffix("/metrics").unwrap();
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    lines.find(|line| line.starts_with("step ")).unwrap();

    let ask = || get(address, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    // A step may be told before the exporter has it.
    let start = Instant::now();
    while !ask().contains("\nmillstream_training_loss_nats ") {
        assert!(start.elapsed() < Duration::from_secs(20));
    }
    // Others are answered too, and those that say nothing, however many, keep nobody waiting: 2 s are what each may take.
    let start = Instant::now();
    let silent: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(address).unwrap()).collect();
    assert!(get(address, "GET / HTTP/1.1\r\n\r\n").ends_with("/metrics\n"));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    drop(silent);
    assert!(get(address, "DELETE /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    assert!(get(address, "nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
    let answer = ask();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    for line in ["millstream_steps_planned 1000000", "millstream_rank_idle_ratio{rank=\"1\"} 0."] {
        assert!(body.contains(&format!("\n{line}")), "{line} is missing:\n{body}");
    }
    if let Some(python) = python("prometheus_client", "that Prometheus' own parser reads the metrics") {
        place.write("metrics.txt", body);
        let found = script(&python, "read_metrics.py", &place.path("metrics.txt"));
        let value = |name: &str| found[name][0]["value"].as_f64().unwrap();
        assert!(value("millstream_steps_total") >= 1.0 && value("millstream_training_loss_nats") > 0.0, "{found}");
        assert_eq!(found["millstream_run_info"][0]["labels"]["schedule"], "1F1B");
        assert_eq!(found["millstream_rank_peak_bytes"].as_array().unwrap().len(), 2);
    }

    // It ends with the run.
    interrupt(&run);
    lines.for_each(drop);
    assert_eq!(run.wait().unwrap().code(), Some(130));
    assert!(TcpStream::connect(address).is_err());
}

fn interrupt(child: &Child) {
    // SAFETY: a signal to a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id().try_into().unwrap(), libc::SIGINT) }, 0);
}

#[test]
fn an_address_that_cannot_be_served() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (address, problem, hint) in [
        (address.as_str(), "Address already in use", "choose another port"),
        ("192.0.2.1:9464", "Cannot assign requested address", "choose an address of this machine"),
    ] {
        let output = place.run(&["train", "tiny.toml", "--out", "run", "--prometheus", address]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()), (Some(2), ""), "{stderr}");
        assert!(stderr.starts_with(&format!("error: metrics cannot be served on {address}: {problem}")), "{stderr}");
        assert!(stderr.contains(hint), "{stderr}");
        assert!(!place.path("run").exists());
    }
    let output = place.run(&["train", "tiny.toml", "--prometheus", "everywhere"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let wanted = "`metrics.prometheus` is \"everywhere\", but must be a port, an address with a port such as \"127.0.0.1:9464\", or \"off\"";
    assert!(output.status.code() == Some(2) && stderr.contains(wanted), "{stderr}");
}

/// The page of two runs that differ in how often they write samples.
fn compare(place: &Place, [one, two]: [&str; 2]) {
    assert_eq!(place.succeed(&["report", one, two]), "comparison.html\n");
    let page = place.read_text("comparison.html");
    assert!(
        page.contains("2 runs compared") && page.contains("<td>sample.every</td><td>2</td><td>&quot;end&quot;</td>")
    );
    assert_eq!(place.succeed(&["report", one, two, "--out", "page.html"]), "page.html\n");
    assert_eq!(place.succeed(&["report", one]), format!("{one}/report.html\n"));
    let output = place.run(&["report", one, "three"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        (output.status.code(), stderr.contains("three is not the folder of a run")),
        (Some(2), true),
        "{stderr}"
    );
}

/// What enters the dashboard's screen, and what gives the terminal back.
const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?25h\u{1b}[?1049l";

/// The program on a terminal of its own.
struct OnTerminal {
    child: Child,
    terminal: File,
    /// Keeps the terminal there after the program has ended.
    inner: OwnedFd,
    before: libc::termios,
    shown: String,
}

impl OnTerminal {
    fn start(place: &Place, arguments: &[&str]) -> Self {
        let (mut outer, mut inner) = (0, 0);
        let mut size = libc::winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: pointers to two integers and a size; no name and no modes are given.
        let opened = unsafe {
            libc::openpty(&raw mut outer, &raw mut inner, std::ptr::null_mut(), std::ptr::null_mut(), &raw mut size)
        };
        assert_eq!(opened, 0);
        // SAFETY: both were just opened and belong to nobody else.
        let (terminal, inner) = unsafe { (File::from_raw_fd(outer), OwnedFd::from_raw_fd(inner)) };
        let end = || Stdio::from(inner.try_clone().unwrap());
        let mut command = place.command(arguments);
        command.stdin(end()).stdout(end()).stderr(end());
        // SAFETY: between fork and exec, only these two calls are made, both safe in signal handlers.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                Ok(())
            });
        }
        let before = modes(&inner);
        Self { child: command.spawn().unwrap(), terminal, inner, before, shown: String::new() }
    }

    /// Reads until the screen has shown `wanted` since the last time.
    fn wait_for(&mut self, wanted: &str) {
        let start = Instant::now();
        let mut piece = [0; 65_536];
        let from = self.shown.len();
        while !self.shown[from..].contains(wanted) {
            assert!(start.elapsed() < Duration::from_secs(60), "{wanted:?} was not shown: {}", self.shown);
            let n = self.terminal.read(&mut piece).unwrap();
            self.shown += &String::from_utf8_lossy(&piece[..n]);
        }
    }

    /// Reads to the program's end, checks that the terminal is as it was, and yields exit code and all that was shown.
    fn end(mut self) -> (Option<i32>, String) {
        // The terminal's buffer is small: it is emptied while the program may still write.
        let mut reader = self.terminal.try_clone().unwrap();
        let rest = std::thread::spawn(move || {
            let (mut rest, mut piece) = (Vec::new(), [0; 65_536]);
            while let Ok(n) = reader.read(&mut piece) {
                rest.extend(&piece[..n]);
                if rest.ends_with(b"\x04") {
                    break;
                }
            }
            String::from_utf8_lossy(&rest).into_owned()
        });
        let code = self.child.wait().unwrap().code();
        let after = modes(&self.inner);
        assert_eq!((after.c_lflag, after.c_iflag), (self.before.c_lflag, self.before.c_iflag), "modes are as before");
        File::from(self.inner).write_all(b"\x04").unwrap();
        self.shown += &rest.join().unwrap();
        assert_eq!((self.shown.matches(ENTER).count(), self.shown.matches(LEAVE).count()), (1, 1), "{}", self.shown);
        (code, self.shown)
    }
}

fn modes(terminal: &OwnedFd) -> libc::termios {
    use std::os::fd::AsRawFd;
    // SAFETY: a plain struct of integers, filled by tcgetattr, which gets a valid file descriptor.
    unsafe {
        let mut modes: libc::termios = std::mem::zeroed();
        assert_eq!(libc::tcgetattr(terminal.as_raw_fd(), &raw mut modes), 0);
        modes
    }
}

#[test]
fn the_dashboard_gives_the_terminal_back() {
    let place = Place::new();
    let output = place.run(&["train", "tiny.toml", "--out", "run", "--tui"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.starts_with("error: --tui needs a terminal, and the standard output is none"), "{stderr}");
    assert!(!place.path("run").exists());

    // To the end, with what a run says then.
    let run = OnTerminal::start(&place, &["train", "tiny.toml", "--tui", "--out", "whole", "--set=steps=300"]);
    let (code, shown) = run.end();
    assert_eq!(code, Some(0), "{shown}");
    let (live, closing) = shown.rsplit_once(LEAVE).unwrap();
    assert!(live.contains("tokens per second"), "{live}");
    assert!(closing.contains("validation loss ") && closing.contains("whole/report.html"), "{closing}");

    // Ctrl-C: saved, and said so where it can be read.
    let mut run = OnTerminal::start(&place, &["train", "tiny.toml", "--tui", "--out", "run", "--set=steps=1000000"]);
    run.wait_for("of 1000000");
    run.terminal.write_all(b"\x03").unwrap();
    let (code, shown) = run.end();
    assert_eq!(code, Some(130), "{shown}");
    let (_, closing) = shown.rsplit_once(LEAVE).unwrap();
    assert!(closing.contains("interrupted after step ") && place.path("run/checkpoints").exists(), "{closing}");

    // A run that fails: the reason is not lost with the dashboard.
    let diverging = ["--set=optimizer.learning_rate=1e30", "--set=optimizer.minimum_learning_rate=1e30"];
    let arguments = ["train", "tiny.toml", "--tui", "--out", "failed", "--set=steps=50"];
    let (code, shown) = OnTerminal::start(&place, &[&arguments[..], &diverging].concat()).end();
    let (_, closing) = shown.rsplit_once(LEAVE).unwrap();
    assert!(code == Some(2) && closing.contains("error: "), "{code:?}: {shown}");
    let page = place.read_text("failed/report.html");
    assert!(page.contains("Why it failed") && place.read_json("failed/summary.json")["status"]["failed"].is_string());
}
