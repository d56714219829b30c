//! Steps of ours and of PyTorch's, one after the other in pairs, by the protocol of docs/benchmarks.md.

use crate::clock::Clock;
use crate::shape::Shape;
use crate::steps::Steps;
use crate::{median, status_mb};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

/// The other program.
const PEER: &str = include_str!("../../../../benchmarks/torch_step.py");

/// Shapes of the table: how they differ from the first.
const SHAPES: [(&str, &[(&str, usize)]); 4] = [
    ("hidden 512, 6 layers, vocabulary 8192, 4 x 512 tokens", &[]),
    ("one row of 2048 tokens", &[("rows", 1), ("tokens", 2048)]),
    ("hidden 256, 4 layers, MLP 704", &[("hidden", 256), ("layers", 4), ("heads", 4), ("kv-heads", 4), ("ff", 704)]),
    ("vocabulary 32000", &[("vocabulary", 32000)]),
];

/// A product that changes by more between begin and end voids a row.
pub const UNSTEADY: f64 = 0.05;

/// Before each step, so that threads of the other program that still wait for work in a loop have gone to sleep.
const PAUSE: Duration = Duration::from_millis(100);

/// A program that answers commands.
struct Program {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Program {
    fn start(command: &mut Command) -> Self {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a program that starts");
        let input = process.stdin.take().expect("invariant: piped");
        let output = BufReader::new(process.stdout.take().expect("invariant: piped"));
        Self { process, input, output }
    }

    /// The first number of its answer.
    fn ask(&mut self, command: &str) -> f64 {
        let mut line = String::new();
        writeln!(self.input, "{command}").expect("a program that listens");
        self.output.read_line(&mut line).expect("a program that answers");
        let number = line.split_whitespace().next().and_then(|word| word.parse().ok());
        number.unwrap_or_else(|| panic!("{command} was answered by {line:?}"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// What was measured of a program.
struct Measured {
    products: [f64; 2],
    steps_s: Vec<f64>,
    growth_mb: f64,
}

/// Prints the table, a row as soon as it is there; a failure when one of them is void.
#[expect(clippy::print_stdout, reason = "a benchmark's output")]
pub fn compare(python: &str, sizes: &[(String, String)]) -> ExitCode {
    let only: Option<usize> = sizes.iter().find(|(name, _)| name == "shape").map(|(_, number)| {
        number.parse().ok().filter(|number| (1..=SHAPES.len()).contains(number)).expect("--shape takes 1 to 4")
    });
    let sizes: Vec<_> = sizes.iter().filter(|(name, _)| name != "shape").cloned().collect();
    let mut n_void = 0;
    for (number, (name, differences)) in SHAPES.into_iter().enumerate() {
        if only.is_some_and(|only| only != number + 1) {
            continue;
        }
        let differences: Vec<_> = differences.iter().map(|(name, n)| ((*name).to_owned(), n.to_string())).collect();
        let shape = Shape::default().with(&differences).with(&sizes);
        assert!(shape.microbatches == 1, "the peer has no microbatches");
        let clock = Clock::of(shape.threads);
        if number == 0 || only.is_some() {
            println!(
                "{} threads, {} time; {} steps of each, in pairs; before them one that is not counted\n\n\
                 | shape | ours, s | PyTorch, s | PyTorch / ours | ours, GFLOP/s | of peak | growth, ours and PyTorch, MB | \
                 products before and after, ours and PyTorch, GFLOP/s |\n| --- | --- | --- | --- | --- | --- | --- | --- |",
                shape.threads,
                clock.name(),
                shape.steps - 1,
            );
        }
        let [ours, peer] = measure(python, &shape, clock);
        let [ours_s, peer_s] = [&ours, &peer].map(|measured| median(&measured.steps_s));
        let peak = ours.products.into_iter().chain(peer.products).fold(0.0, f64::max);
        let gflops = shape.gflop() / ours_s;
        let moved = |[before, after]: [f64; 2]| (after / before - 1.0).abs() > UNSTEADY;
        let is_void = moved(ours.products) || moved(peer.products);
        n_void += usize::from(is_void);
        println!(
            "| {}{name} | {ours_s:.3} | {peer_s:.3} | {:.2} | {gflops:.0} | {:.0} % | {:.0}, {:.0} ({:.2}) | {:.0}, {:.0}; \
             {:.0}, {:.0} |",
            if is_void { "**void:** " } else { "" },
            peer_s / ours_s,
            100.0 * gflops / peak,
            ours.growth_mb,
            peer.growth_mb,
            ours.growth_mb / peer.growth_mb,
            ours.products[0],
            ours.products[1],
            peer.products[0],
            peer.products[1],
        );
    }
    if n_void > 0 {
        println!("\n{n_void} void: a product moved by over {} %; repeat on a quiet machine", 100.0 * UNSTEADY);
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn measure(python: &str, shape: &Shape, clock: Clock) -> [Measured; 2] {
    let sizes = shape.sizes();
    let own = std::env::current_exe().expect("the path of this program");
    let ours = sizes.iter().flat_map(|(name, size)| [format!("--{name}"), size.to_string()]);
    let peers = sizes.iter().map(|(_, size)| size.to_string());
    let mut programs = [
        Program::start(Command::new(own).arg("--answer").args(ours)),
        Program::start(Command::new(python).args(["-c", PEER]).args(peers).arg(clock.name())),
    ];
    let ask = |programs: &mut [Program; 2], what: &str| programs.each_mut().map(|program| program.ask(what));
    // First of all, since a program's first product would be timed while the other one still starts.
    ask(&mut programs, "step");
    let before = ask(&mut programs, "product");
    let mut steps_s = [Vec::new(), Vec::new()];
    for _ in 1..shape.steps {
        for (program, steps_s) in programs.iter_mut().zip(&mut steps_s) {
            std::thread::sleep(PAUSE);
            steps_s.push(program.ask("step"));
        }
    }
    let growth_mb = ask(&mut programs, "memory");
    let after = ask(&mut programs, "product");
    let mut steps_s = steps_s.into_iter();
    std::array::from_fn(|i| Measured {
        products: [before[i], after[i]],
        steps_s: steps_s.next().expect("invariant: of both"),
        growth_mb: growth_mb[i],
    })
}

/// Our end: a line of numbers for each line read.
///
/// # Panics
/// When a line is no command.
#[expect(clippy::print_stdout, reason = "a program's answers")]
pub fn answer(shape: Shape) {
    let (clock, at_start_mb) = (Clock::of(shape.threads), status_mb("VmRSS:"));
    let mut steps = None;
    for line in std::io::stdin().lines() {
        match line.expect("a line of text").trim() {
            "product" => println!("{}", clock.product_gflops(shape.threads)),
            "memory" => println!("{}", status_mb("VmHWM:") - at_start_mb),
            "step" => {
                let n_blocks = shape.architecture().blocks().len();
                let steps = steps.get_or_insert_with(|| Steps::start(shape, &[n_blocks], shape.threads));
                let (step_s, report) = steps.play(clock);
                println!("{step_s} {}", report.loss());
            }
            other => panic!("{other} is no command"),
        }
    }
}
