//! Shares of a device's peaks fitted to a step that was traced.
//!
//! What a prediction counts is linear in the time each class of work takes, so that one number for each class makes the
//! classes, and with them the step, as long as they were. Whether that holds for other shapes is for another trace to say.

use crate::PlanError;
use crate::degrees::{Batch, Degrees};
use crate::machine::Device;
use crate::step::{Checkpointing, Layout, OptimizerState, StagePlan, Task};
use crate::trace::{Class, TracedStep};
use crate::work::{AttentionPass, Clock, Passes, Setting, Stream, Work};
use schedule::{Backward, Kind, Spec};

/// What a fit found.
#[derive(Clone, Debug)]
pub struct Calibration {
    /// The device with fitted shares.
    pub device: Device,
    /// Class by class; classes that the trace does not have are left out and keep their shares.
    pub classes: Vec<FittedClass>,
    /// The step as it was predicted before, in seconds.
    pub before_s: f64,
    /// As it is predicted with the fitted device.
    pub after_s: f64,
    /// As it was.
    pub measured_s: f64,
}

/// A class of work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FittedClass {
    /// Which.
    pub class: Class,
    /// Seconds in a step, as predicted before.
    pub before_s: f64,
    /// As they were.
    pub measured_s: f64,
    /// As they are predicted now.
    pub after_s: f64,
}

/// Fits are repeated because a product is bound by its operations or by its bytes, whichever is longer: near where these
/// meet a share has less effect than it should.
const ROUNDS: usize = 12;

/// Fits the first device of the task's machine to a step of the task on that one device, in microbatches of so many rows,
/// nothing computed again.
///
/// # Errors
/// When the batch does not divide so.
pub fn calibrate(task: &Task, microbatch_rows: usize, step: &TracedStep) -> Result<Calibration, PlanError> {
    let layout = Layout {
        degrees: Degrees::ONE,
        microbatch_rows,
        spec: Spec { kind: Kind::OneFOneB, backward: Backward::Fused },
        chunks: 1,
        recompute: Checkpointing::None,
        optimizer: OptimizerState::Replicated,
        sizes: None,
    };
    let mut fitted = task.clone();
    let before = class_seconds(&fitted, &layout)?;
    let before_s = StagePlan::new(task, &layout)?.predict(crate::Effort::Full)?.step_s;
    for _ in 0..ROUNDS {
        let now = class_seconds(&fitted, &layout)?;
        let device = &mut fitted.machine.nodes[0].device;
        for class in Class::ALL {
            let (seconds, measured_s) = (now[class as usize], step.seconds[class as usize]);
            if seconds > 0.0 && measured_s > 0.0 {
                scale(device, class, seconds / measured_s);
            }
        }
    }
    let after = class_seconds(&fitted, &layout)?;
    let after_s = StagePlan::new(&fitted, &layout)?.predict(crate::Effort::Full)?.step_s;
    let mut device = fitted.machine.nodes.swap_remove(0).device;
    within_peaks(&mut device, task);
    let classes = Class::ALL.into_iter().filter(|&class| step.seconds[class as usize] > 0.0).map(|class| FittedClass {
        class,
        before_s: before[class as usize],
        measured_s: step.seconds[class as usize],
        after_s: after[class as usize],
    });
    Ok(Calibration { device, classes: classes.collect(), before_s, after_s, measured_s: step.step_s })
}

/// Makes `class` faster by `times`.
fn scale(device: &mut Device, class: Class, times: f64) {
    let efficiency = &mut device.efficiency;
    match class {
        Class::Products => {
            // Those of backward are a share of their own from here on.
            efficiency.product_backward = Some(efficiency.backward());
            efficiency.product *= times;
            efficiency.grouped *= times;
        }
        Class::BackwardProducts => efficiency.product_backward = Some(efficiency.backward() * times),
        Class::Attention => efficiency.attention *= times,
        Class::BackwardAttention => efficiency.attention_backward *= times,
        Class::Elementwise => {
            efficiency.elementwise = Some(efficiency.of_elementwise() * times);
            efficiency.permute *= times;
        }
        Class::Loss => efficiency.loss *= times,
        Class::Update => efficiency.update = Some(efficiency.of_update() * times),
        Class::Gaps => efficiency.operation_s /= times,
    }
}

/// A share above 1 says that a peak was set too low: it is raised, and the shares of it fall.
fn within_peaks(device: &mut Device, task: &Task) {
    let efficiency = &mut device.efficiency;
    let raise = |shares: &mut [&mut f64]| {
        let most = shares.iter().map(|share| **share).fold(1.0, f64::max);
        shares.iter_mut().for_each(|share| **share /= most);
        most
    };
    let (mut backward, mut update) = (efficiency.backward(), efficiency.of_update());
    let mut elementwise = efficiency.of_elementwise();
    let times = raise(&mut [
        &mut efficiency.product,
        &mut efficiency.grouped,
        &mut efficiency.attention,
        &mut efficiency.attention_backward,
        &mut backward,
    ]);
    let peak = device.peak.of(task.software.precision) * times;
    device.peak.set(task.software.precision, peak);
    device.memory_bytes_per_s *= raise(&mut [
        &mut efficiency.memory,
        &mut elementwise,
        &mut efficiency.permute,
        &mut efficiency.loss,
        &mut update,
    ]);
    efficiency.product_backward = Some(backward);
    (efficiency.elementwise, efficiency.update) = (Some(elementwise), Some(update));
}

/// Seconds of every class in a step, indexed as [`Class::ALL`].
fn class_seconds(task: &Task, layout: &Layout) -> Result<[f64; Class::ALL.len()], PlanError> {
    let plan = StagePlan::new(task, layout)?;
    let (machine, software) = (&task.machine, &task.software);
    let microbatch = Batch { rows: layout.microbatch_rows, tokens: task.batch.tokens };
    let setting = Setting { software, degrees: layout.degrees, microbatch };
    let alone = machine.path(0, 1, 1);
    let device = &machine.nodes[0].device;
    let clock = Clock { machine, device, software, tensor: alone, context: alone, expert: alone };
    let hidden = task.model.hidden_size;
    let mut seconds = [0.0; Class::ALL.len()];
    let mut add = |passes: &Passes| {
        for (works, is_forward) in [(&passes.forward, true), (&passes.input, false), (&passes.weight, false)] {
            for &work in works {
                let mut work_s = clock.seconds(work);
                let class = match work {
                    Work::Product { .. } | Work::Grouped { .. } if is_forward => Class::Products,
                    Work::Product { .. } | Work::Grouped { .. } => Class::BackwardProducts,
                    Work::Attention { pass: AttentionPass::Forward, .. } => Class::Attention,
                    Work::Attention { pass: AttentionPass::Backward, .. } => Class::BackwardAttention,
                    Work::Stream { kind, .. } => {
                        work_s -= device.efficiency.operation_s;
                        seconds[Class::Gaps as usize] += device.efficiency.operation_s;
                        if kind == Stream::Loss { Class::Loss } else { Class::Elementwise }
                    }
                    // There are no others on one device.
                    Work::Collective { .. } => continue,
                };
                seconds[class as usize] += work_s;
            }
        }
    };
    for layer in &task.model.layers {
        add(&setting.attention(&layer.attention, hidden));
        add(&setting.mlp(&layer.mlp, hidden));
    }
    add(&setting.embedding(hidden));
    add(&setting.head(&task.model));
    let mut of_step = seconds.map(|of_microbatch| of_microbatch * plan.microbatches as f64);
    let operation_s = device.efficiency.operation_s;
    of_step[Class::Update as usize] = plan.data_exchange(0).optimizer_s - operation_s;
    of_step[Class::Gaps as usize] += operation_s;
    Ok(of_step)
}
