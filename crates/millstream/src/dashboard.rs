//! A run live in the terminal: curves, ranks, log and samples, drawn again as numbers come.
//!
//! A thread of its own draws, so that the picture follows the terminal's size and the keyboard while a step takes its
//! time. The terminal is given back however the run ends. Does not know about training.

mod course;
mod draw;
mod state;
mod terminal;

pub use state::State;

use crate::interrupt::Interrupt;
use crate::report::Line;
use ratatui::Terminal;
use ratatui::backend::TermionBackend;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use terminal::Screen;

/// Between two looks at keyboard and numbers: as often as a person can tell apart.
const TICK: Duration = Duration::from_millis(100);

/// Ends the run as Ctrl-C does, which the terminal hands on as a byte while the dashboard has it.
const STOP_KEYS: [u8; 2] = [b'q', 3];

/// The dashboard; dropping it gives the terminal back.
#[derive(Debug)]
pub struct Dashboard {
    shared: Arc<Shared>,
    screen: Arc<Screen>,
    thread: Option<JoinHandle<()>>,
}

/// What the run writes and the drawing thread reads.
#[derive(Debug)]
struct Shared {
    /// Held while a line is taken in, or while a picture is made.
    state: Mutex<State>,
    closed: AtomicBool,
}

impl Dashboard {
    /// Takes the terminal. A stop key raises `interrupt`; a second one ends the process as a second Ctrl-C does.
    ///
    /// # Errors
    /// There is no terminal, or it refuses.
    pub fn open(state: State, interrupt: Arc<Interrupt>) -> std::io::Result<Self> {
        let screen = Arc::new(Screen::enter()?);
        let leave = screen.clone();
        interrupt.before_exit(move || leave.leave());
        let leave = screen.clone();
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // First, or the message is lost with the dashboard's screen.
            leave.leave();
            earlier(panic);
        }));
        let shared = Arc::new(Shared { state: Mutex::new(state), closed: AtomicBool::new(false) });
        let thread = std::thread::Builder::new().name("dashboard".to_owned()).spawn({
            let (shared, screen) = (shared.clone(), screen.clone());
            // A terminal that cannot be drawn on any more is no reason to end a run.
            move || run(&shared, &screen, &interrupt).unwrap_or_default()
        })?;
        Ok(Self { shared, screen, thread: Some(thread) })
    }

    /// Shows a line of the metrics.
    pub fn take(&self, line: &Line) {
        self.shared.state().take(line);
    }

    /// Shows a sentence in the log.
    pub fn say(&self, text: &str) {
        self.shared.state().say(text);
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic has been shown by the hook.
            thread.join().unwrap_or_default();
        }
        self.screen.leave();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Draws and listens until the dashboard is closed or the terminal given back.
fn run(shared: &Shared, screen: &Screen, interrupt: &Interrupt) -> std::io::Result<()> {
    let mut terminal = Terminal::new(TermionBackend::new(std::io::stdout()))?;
    while !shared.closed.load(Ordering::Relaxed) {
        let is_ours = screen.draw(|| terminal.draw(|frame| draw::draw(frame, &shared.state())).map(drop))?;
        if !is_ours {
            break;
        }
        if screen.key(TICK)?.is_some_and(|key| STOP_KEYS.contains(&key)) {
            shared.state().stop();
            interrupt.raise();
        }
    }
    Ok(())
}
