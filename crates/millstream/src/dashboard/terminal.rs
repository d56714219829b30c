//! The terminal: taken as a whole, and given back as it was.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, TryLockError};
use std::time::Duration;

/// The other screen, without a cursor, and back (xterm's private modes 1049 and 25).
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[2J";
const LEAVE: &[u8] = b"\x1b[?25h\x1b[?1049l";

/// A terminal that is ours until [`Screen::leave`].
pub struct Screen {
    tty: File,
    before: libc::termios,
    left: AtomicBool,
    /// Held by who writes to the screen.
    drawing: Mutex<()>,
}

impl Screen {
    /// Keys come byte by byte and unseen, and what was on the screen comes back at the end.
    ///
    /// # Errors
    /// The process has no terminal, or it cannot be set.
    pub fn enter() -> std::io::Result<Self> {
        let tty = File::options().read(true).write(true).open("/dev/tty")?;
        // SAFETY: a plain struct of integers, filled by tcgetattr, which gets a valid file descriptor.
        let mut before: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        if unsafe { libc::tcgetattr(tty.as_raw_fd(), &raw mut before) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        let mut raw = before;
        // SAFETY: only changes the struct.
        unsafe { libc::cfmakeraw(&raw mut raw) };
        let screen = Self { tty, before, left: AtomicBool::new(false), drawing: Mutex::new(()) };
        screen.set(&raw)?;
        (&screen.tty).write_all(ENTER)?;
        Ok(screen)
    }

    /// Gives the terminal back; again, does nothing.
    pub fn leave(&self) {
        if self.left.swap(true, Ordering::Relaxed) {
            return;
        }
        // Who is drawing finishes first, but a panic within a drawing is not waited for.
        let mut patience = 50;
        while let Err(TryLockError::WouldBlock) = self.drawing.try_lock()
            && patience > 0
        {
            std::thread::sleep(Duration::from_millis(2));
            patience -= 1;
        }
        // Nobody is left to be told.
        self.set(&self.before).and_then(|()| (&self.tty).write_all(LEAVE)).unwrap_or_default();
    }

    /// Draws while the terminal is ours, and yields whether it is.
    ///
    /// # Errors
    /// What `draw` gives.
    pub fn draw(&self, draw: impl FnOnce() -> std::io::Result<()>) -> std::io::Result<bool> {
        let _drawing = self.drawing.lock();
        if self.left.load(Ordering::Relaxed) {
            return Ok(false);
        }
        draw().map(|()| true)
    }

    /// A byte of the keyboard, if one comes in time.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn key(&self, within: Duration) -> std::io::Result<Option<u8>> {
        let mut wanted = libc::pollfd { fd: self.tty.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let timeout_ms = i32::try_from(within.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one valid entry, as said.
        match unsafe { libc::poll(&raw mut wanted, 1, timeout_ms) } {
            0 => Ok(None),
            n if n > 0 => {
                let mut byte = [0];
                match (&self.tty).read(&mut byte)? {
                    0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
                    _ => Ok(Some(byte[0])),
                }
            }
            _ => match std::io::Error::last_os_error() {
                error if error.kind() == std::io::ErrorKind::Interrupted => Ok(None),
                error => Err(error),
            },
        }
    }

    fn set(&self, modes: &libc::termios) -> std::io::Result<()> {
        // SAFETY: a valid file descriptor, and modes that tcgetattr gave.
        match unsafe { libc::tcsetattr(self.tty.as_raw_fd(), libc::TCSADRAIN, modes) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    }
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").field("left", &self.left).finish_non_exhaustive()
    }
}
