//! A run's latest numbers over HTTP, in Prometheus' text format, while it goes on.
//!
//! `GET /metrics` from a scraper every few seconds is all that is expected. A client that is slow, talks too long or asks for
//! something else is turned away, and keeps nobody waiting: each has a thread for as long as it takes, at most
//! 2 s, and when there are sixteen, the one that has been there longest has to go. Does not know about runs.

mod exposition;
mod request;

pub use exposition::RunInfo;

use crate::fault::UserFault;
use crate::report::Line;
use exposition::Exposition;
use request::Answer;
use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The address is taken, before anything is known that could be shown there.
#[derive(Debug)]
pub struct Reserved {
    listener: TcpListener,
    address: SocketAddr,
}

/// A server that answers until it is dropped.
#[derive(Debug)]
pub struct Exporter {
    address: SocketAddr,
    /// Held for the time of copying numbers in, or of writing them out as text.
    latest: Arc<Mutex<Exposition>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Longest that one client may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Clients that are listened to at a time. A scraper says at once what it wants and has its answer within milliseconds.
const CLIENTS_MAX: usize = 16;

impl Reserved {
    /// Takes the address; a port of 0 takes a free one.
    ///
    /// # Errors
    /// It is in use, or not this machine's.
    pub fn new(address: SocketAddr) -> Result<Self, UserFault> {
        let taken = TcpListener::bind(address).and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) = taken.map_err(|error| {
            let fault = UserFault::new(format!("metrics cannot be served on {address}: {error}"));
            match error.kind() {
                ErrorKind::AddrInUse => fault.hint("another run or program listens there; choose another port"),
                _ => fault.hint("choose an address of this machine, or \"off\""),
            }
        })?;
        Ok(Self { listener, address })
    }

    /// Where the metrics will be.
    pub fn url(&self) -> String {
        format!("http://{}/metrics", self.address)
    }

    /// Begins to answer.
    ///
    /// # Errors
    /// The system starts no thread.
    pub fn serve(self, run: RunInfo) -> std::io::Result<Exporter> {
        let (latest, stop) = (Arc::new(Mutex::new(Exposition::new(run))), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::Builder::new().name("metrics".to_owned()).spawn({
            let (latest, stop) = (latest.clone(), stop.clone());
            move || answer_all(&self.listener, &latest, &stop)
        })?;
        Ok(Exporter { address: self.address, latest, stop, thread: Some(thread) })
    }
}

impl Exporter {
    /// Shows a line's numbers from now on.
    pub fn take(&self, line: &Line) {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).take(line);
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // The thread waits for a connection: here is one. An address that stands for all is reached at this machine's own.
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let woken = TcpStream::connect_timeout(&SocketAddr::new(ip, self.address.port()), PATIENCE).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            // A panic of the thread is no reason to fail a run.
            thread.join().unwrap_or_default();
        }
    }
}

fn answer_all(listener: &TcpListener, latest: &Arc<Mutex<Exposition>>, stop: &AtomicBool) {
    let mut clients: VecDeque<Client> = VecDeque::new();
    for connection in listener.incoming() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        clients.retain(|client| !client.thread.is_finished());
        if clients.len() == CLIENTS_MAX {
            clients.pop_front().into_iter().for_each(Client::send_away);
        }
        match connection.and_then(|connection| Client::new(connection, latest)) {
            Ok(client) => clients.push_back(client),
            // Out of file descriptors or threads: trying again at once would only take a core from the run.
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
    clients.into_iter().for_each(Client::send_away);
}

/// One that is being answered.
struct Client {
    connection: TcpStream,
    thread: JoinHandle<()>,
}

impl Client {
    fn new(connection: TcpStream, latest: &Arc<Mutex<Exposition>>) -> std::io::Result<Self> {
        let (other, latest) = (connection.try_clone()?, latest.clone());
        // A client that went away has no answer to miss.
        let work = move || answer(other, &latest).unwrap_or_default();
        let thread = std::thread::Builder::new().name("metrics client".to_owned()).spawn(work)?;
        Ok(Self { connection, thread })
    }

    /// Ends its connection, and with that its thread.
    fn send_away(self) {
        // It may have gone by itself.
        self.connection.shutdown(Shutdown::Both).unwrap_or_default();
        self.thread.join().unwrap_or_default();
    }
}

fn answer(mut connection: TcpStream, latest: &Mutex<Exposition>) -> std::io::Result<()> {
    connection.set_write_timeout(Some(PATIENCE))?;
    let asked = request::read(&mut connection, Instant::now() + PATIENCE)?;
    let text = || latest.lock().unwrap_or_else(PoisonError::into_inner).text();
    connection.write_all(Answer::to(&asked, text).bytes().as_slice())?;
    // The other handle of it stays open for a while, and the client reads to the end.
    connection.shutdown(Shutdown::Write)
}
