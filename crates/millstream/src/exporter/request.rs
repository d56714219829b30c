//! HTTP/1.1, as far as a scraper needs it: the head of one request, and its answer.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Bytes of a request's head at most; Prometheus sends about 300.
const HEAD_MAX: usize = 8 * 1024;

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A request's first line.
    Request {
        /// `GET`.
        method: String,
        /// Without what follows a question mark.
        path: String,
    },
    /// No HTTP/1.
    Nonsense,
    /// More than a head may have.
    TooMuch,
    /// Less than a head in the time there was.
    TooLittle,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    status: &'static str,
    content_type: &'static str,
    body: String,
    /// `HEAD` asks for everything but it.
    shows_body: bool,
}

/// Reads up to the end of the head; a body is not read.
///
/// # Errors
/// The connection broke.
pub fn read(connection: &mut TcpStream, until: Instant) -> std::io::Result<Asked> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Asked::TooLittle);
        }
        connection.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match connection.read(&mut piece) {
            Ok(0) => return Ok(Asked::TooLittle),
            Ok(n) => head.extend(&piece[..n]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(Asked::TooLittle);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            return Ok(Asked::of(&head[..end]));
        }
        if head.len() > HEAD_MAX {
            return Ok(Asked::TooMuch);
        }
    }
}

impl Asked {
    /// What a head, without the empty line at its end, asks for.
    fn of(head: &[u8]) -> Self {
        if head.len() > HEAD_MAX {
            return Asked::TooMuch;
        }
        let first = std::str::from_utf8(head).ok().and_then(|head| head.split("\r\n").next()).unwrap_or_default();
        let words: Vec<&str> = first.split(' ').collect();
        match words[..] {
            [method, target, "HTTP/1.1" | "HTTP/1.0"]
                if !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase()) && target.starts_with('/') =>
            {
                let path = target.split('?').next().unwrap_or_default();
                Asked::Request { method: method.to_owned(), path: path.to_owned() }
            }
            _ => Asked::Nonsense,
        }
    }
}

impl Answer {
    /// The answer to what was asked; `metrics` is called when it is them.
    pub fn to(asked: &Asked, metrics: impl FnOnce() -> String) -> Self {
        let plain = |status, body: &str| Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body: body.to_owned(),
            shows_body: true,
        };
        let Asked::Request { method, path } = asked else {
            return match asked {
                Asked::TooMuch => plain("431 Request Header Fields Too Large", "the request is too long\n"),
                Asked::TooLittle => plain("408 Request Timeout", "the request did not come in time\n"),
                _ => plain("400 Bad Request", "this is no HTTP/1.1 request\n"),
            };
        };
        if method != "GET" && method != "HEAD" {
            return plain("405 Method Not Allowed", "only GET and HEAD are answered\n");
        }
        let mut answer = match path.as_str() {
            "/metrics" => Self {
                status: "200 OK",
                content_type: "text/plain; version=0.0.4; charset=utf-8",
                body: metrics(),
                shows_body: true,
            },
            "/" => plain("200 OK", "millstream: the metrics of this run are at /metrics\n"),
            _ => plain("404 Not Found", "the metrics are at /metrics\n"),
        };
        answer.shows_body = method == "GET";
        answer
    }

    /// As sent.
    pub fn bytes(&self) -> Vec<u8> {
        let Self { status, content_type, body, shows_body } = self;
        let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n",
            body.len()
        );
        let body = if *shows_body { body.as_bytes() } else { &[] };
        [head.as_bytes(), body].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let request = |method: &str, path: &str| Asked::Request { method: method.to_owned(), path: path.to_owned() };
        for (head, expected) in [
            ("GET /metrics HTTP/1.1\r\nHost: a", request("GET", "/metrics")),
            ("GET /metrics?name[]=x HTTP/1.0", request("GET", "/metrics")),
            ("POST / HTTP/1.1", request("POST", "/")),
            ("GET  /metrics HTTP/1.1", Asked::Nonsense),
            ("GET /metrics HTTP/2", Asked::Nonsense),
            ("get /metrics HTTP/1.1", Asked::Nonsense),
            ("GET metrics HTTP/1.1", Asked::Nonsense),
            ("", Asked::Nonsense),
        ] {
            assert_eq!(Asked::of(head.as_bytes()), expected, "{head:?}");
        }
        assert_eq!(Asked::of(&[0xff; 9]), Asked::Nonsense);
        assert_eq!(Asked::of(&vec![b'a'; HEAD_MAX + 1]), Asked::TooMuch);
    }

    #[test]
    fn answers() {
        let answer = |method: &str, path: &str| {
            let asked = Asked::Request { method: method.to_owned(), path: path.to_owned() };
            String::from_utf8(Answer::to(&asked, || "a 1\n".to_owned()).bytes()).unwrap()
        };
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: 4\r\nConnection: close\r\n\r\n";
        assert_eq!(answer("GET", "/metrics"), format!("{head}a 1\n"));
        assert_eq!(answer("HEAD", "/metrics"), head);
        for (method, path, status) in
            [("GET", "/", "200 OK"), ("GET", "/x", "404 Not Found"), ("DELETE", "/metrics", "405 Method Not Allowed")]
        {
            assert!(answer(method, path).starts_with(&format!("HTTP/1.1 {status}\r\n")), "{method} {path}");
        }
        assert!(answer("PUT", "/").contains("\r\nAllow: GET, HEAD\r\n"));
        for (asked, status) in [(Asked::TooMuch, "431"), (Asked::TooLittle, "408"), (Asked::Nonsense, "400")] {
            let bytes = Answer::to(&asked, String::new).bytes();
            assert!(bytes.starts_with(format!("HTTP/1.1 {status} ").as_bytes()), "{asked:?}");
        }
    }
}
