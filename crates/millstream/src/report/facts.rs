//! A run in a few numbers, against yardsticks, and where it ran.

use super::bars::Bar;
use super::files::RunFiles;
use super::{Machine, ModelSummary, SpeedSummary, StepSummary, Summary};
use crate::speed::median;
use crate::units;
use serde::Serialize;

/// One number of the headline.
#[derive(Serialize)]
pub struct Fact {
    value: String,
    name: &'static str,
    note: String,
}

/// What the validation text costs with and without the model.
#[derive(Serialize)]
pub struct YardstickPart {
    verdict: String,
    text_size: String,
    bars: Vec<Bar>,
}

/// The headline's numbers; those that the run has.
pub fn facts(files: &RunFiles, summary: &Summary, measured: Option<&StepSummary>) -> Vec<Fact> {
    let metrics = &files.metrics;
    let mut facts = Vec::new();
    let mut add = |value: String, name, note: String| facts.push(Fact { value, name, note });
    let validated = metrics.validations.last().map(|last| (last.loss, last.perplexity));
    let validated =
        summary.validation.as_ref().map(|validation| (validation.loss, validation.perplexity)).or(validated);
    if let Some((loss, perplexity)) = validated {
        let note = match perplexity.is_finite() {
            true => format!("nats per token, perplexity {perplexity:.1}"),
            false => "nats per token".to_owned(),
        };
        add(three_digits(loss), "validation loss", note);
    }
    if let Some(loss) = summary.train_loss.or_else(|| metrics.steps.last().map(|step| step.loss)) {
        let of = if summary.train_loss.is_some() { "mean of the last steps" } else { "of the last step" };
        add(three_digits(loss), "training loss", format!("nats per token, {of}"));
    }
    let n_steps = summary.steps.max(metrics.steps.last().map_or(0, |step| step.step));
    if n_steps > 0 {
        let note = match (summary.rows, summary.model.as_ref()) {
            (Some(rows), Some(model)) => format!("of {rows} rows of {} tokens", model.sequence_length),
            _ => String::new(),
        };
        add(n_steps.to_string(), if n_steps == 1 { "step" } else { "steps" }, note);
    }
    if let Some(speed) = median(metrics.steps.iter().map(|step| step.tokens_per_s)) {
        let share = median(metrics.steps.iter().filter_map(|step| step.peak_share));
        let note = share.map(|share| format!("{} of the machine's matrix-product peak", units::percent(share)));
        add(format!("{speed:.0}"), "tokens per second", note.unwrap_or_default());
    }
    if let Some(measured) = measured {
        let note = format!("idle for {} of it", units::percent(measured.bubble));
        add(units::seconds(measured.step_s), "per step", note);
    }
    if let Some(wall_s) = summary.wall_s {
        add(units::seconds(wall_s), "in all", String::new());
    }
    facts
}

fn three_digits(loss: f64) -> String {
    if loss.is_finite() { format!("{loss:.3}") } else { "not finite".to_owned() }
}

/// `None` without a finite validation, or without yardsticks.
pub fn yardsticks(summary: &Summary) -> Option<YardstickPart> {
    let (model, yardsticks) = (summary.validation.as_ref()?.bits_per_byte, summary.yardsticks?);
    if !model.is_finite() {
        return None;
    }
    let (unigram, xz) = (yardsticks.unigram_bits_per_byte, yardsticks.xz_bits_per_byte);
    let against = |other: f64| {
        let percent = 100.0 * (1.0 - model / other);
        format!("{:.0} % {}", percent.abs(), if percent >= 0.0 { "less than" } else { "more than" })
    };
    let verdict = format!(
        "The model needs {model:.2} bits for a byte of text it has not seen: {} token frequencies alone, {} xz\u{a0}-9.",
        against(unigram),
        against(xz)
    );
    let longest = unigram.max(xz).max(model);
    let bars = [("token frequencies", unigram, "other"), ("xz -9", xz, "other"), ("this model", model, "model")];
    let bar = |(name, bits, class): (&str, f64, &str)| {
        let part = (class.to_owned(), bits, format!("{bits:.3} bits per byte"));
        Bar::new(name.to_owned(), format!("{bits:.2}"), longest, [part])
    };
    Some(YardstickPart { verdict, text_size: units::bytes(yardsticks.text_bytes), bars: bars.map(bar).into() })
}

/// Machine, schedule and model, as names and words.
pub fn machine(summary: &Summary) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if let Some(Machine { system, cpu, physical_cores, logical_cores, available_cores, memory_bytes }) =
        &summary.machine
    {
        let physical = physical_cores.map(|cores| format!("{cores} physical, ")).unwrap_or_default();
        rows.push(("Processor", cpu.clone()));
        rows.push(("Cores", format!("{physical}{logical_cores} logical, {available_cores} available to the program")));
        rows.push(("Memory", units::bytes(*memory_bytes)));
        rows.push(("System", system.clone()));
    }
    if let Some(gflops) = summary.matmul_gflops {
        rows.push(("Matrix products, f32", format!("{gflops:.0} GFLOP/s at most")));
    }
    if let Some(SpeedSummary { before_gflops, after_gflops, .. }) = summary.speed {
        rows.push(("Their speed before and after", format!("{before_gflops:.0} and {after_gflops:.0} GFLOP/s")));
    }
    if let Some(cores) = summary.cores {
        rows.push(("Cores used", cores.to_string()));
    }
    if !summary.devices.is_empty() {
        rows.push(("Devices, by rank", summary.devices.join(", ")));
    }
    if let Some(schedule) = &summary.schedule {
        let microbatches = summary.microbatches.map(|n| format!(", {n} microbatches a step")).unwrap_or_default();
        rows.push(("Schedule", format!("{schedule}{microbatches}")));
    }
    if let Some(model) = &summary.model {
        let ModelSummary { blocks, vocabulary, sequence_length, .. } = model;
        let text = format!("{blocks} blocks, vocabulary of {vocabulary}, rows of {sequence_length} tokens");
        rows.push(("Model", text));
    }
    if !summary.version.is_empty() {
        rows.push(("millstream", summary.version.clone()));
    }
    rows
}
