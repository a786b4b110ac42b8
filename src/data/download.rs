//! Files from the network whose md5 is known: resumed where they broke off, and never under
//! their own name before they are whole and right.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use md5::{Digest, Md5};
use ureq::http::{StatusCode, header};
use ureq::{Agent, Body};

use super::flowers102::{Remote, md5_of};
use crate::error::{Error, Result};
use crate::files::{self, NewFile, parent_of};
use crate::interrupt;
use crate::publish::Lock;

/// Requests in a row that may bring nothing.
const ATTEMPTS: u32 = 5;
/// Longest that one request may take; a longer download goes on with the next one.
const REQUEST: Duration = Duration::from_secs(300);
const CONNECT: Duration = Duration::from_secs(20);
const BUFFER: usize = 1 << 18;

/// Bytes there so far, and in all if the server says.
pub type Progress<'a> = &'a mut dyn FnMut(u64, Option<u64>);

/// Fetch `remote` from below the address `base` into the folder `into`; false if it is there
/// already. What has come of a broken download stays as `NAME.part`, and the next one goes on
/// from there if the server can.
///
/// A proxy is taken from the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`).
///
/// # Errors
/// [`Error::Download`] if the server refuses, breaks off five times in a row without a byte, or
/// sends another file; that is then deleted. [`Error::Format`] if another file has the name here,
/// [`Error::Locked`] if another process is fetching it, [`Error::Io`], [`Error::Interrupted`].
pub fn fetch(base: &str, remote: &Remote, into: &Path, progress: Progress) -> Result<bool> {
    let path = into.join(remote.name);
    files::create_dir_all(into)?;
    let _lock = Lock::take(&path)?;
    if path.exists() {
        let found = md5_of(&path)?;
        return match found == remote.md5 {
            true => Ok(false),
            false => {
                let expected = format!("{}; delete the file to fetch it again", remote.md5);
                Err(Error::format(&path, "md5", found, expected))
            }
        };
    }
    let mut download = Download::begin(base, remote, into)?;
    let mut barren = 0;
    while !download.complete {
        let before = download.length;
        if let Err(failure) = download.request(progress) {
            if let Some(signal) = interrupt::signal() {
                let kept = "what has come is kept: the same command goes on from there".to_string();
                return Err(Error::Interrupted { signal, kept });
            }
            barren = if download.length > before {
                1
            } else {
                barren + 1
            };
            if failure.is_final || barren >= ATTEMPTS {
                return Err(download.error(failure.reason));
            }
            std::thread::sleep(Duration::from_millis(200 << barren));
        }
    }
    download.finish(&path)?;
    Ok(true)
}

/// Why a request ended early, and whether another one is of no use.
struct Failure {
    reason: String,
    is_final: bool,
}

impl Failure {
    fn passing(reason: impl ToString) -> Failure {
        Failure {
            reason: format!(
                "{}; run the command again to go on from here",
                reason.to_string()
            ),
            is_final: false,
        }
    }

    fn last(reason: impl ToString) -> Failure {
        Failure {
            reason: reason.to_string(),
            is_final: true,
        }
    }
}

/// A file on its way.
struct Download<'a> {
    agent: Agent,
    url: String,
    remote: &'a Remote,
    part: PathBuf,
    file: NewFile,
    hash: Md5,
    length: u64,
    complete: bool,
}

impl<'a> Download<'a> {
    fn begin(base: &str, remote: &'a Remote, into: &Path) -> Result<Download<'a>> {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(CONNECT))
            .timeout_recv_body(Some(REQUEST))
            .user_agent(concat!("flowreg/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        let part = into.join(format!("{}.part", remote.name));
        let file = NewFile::resume(&part)?;
        let (mut hash, mut length) = (Md5::new(), 0);
        files::read_pieces(&part, |piece| {
            hash.update(piece);
            length += piece.len() as u64;
        })?;
        Ok(Download {
            agent,
            url: format!("{}/{}", base.trim_end_matches('/'), remote.name),
            remote,
            part,
            file,
            hash,
            length,
            complete: false,
        })
    }

    /// Ask for what is missing and append what comes.
    fn request(&mut self, progress: Progress) -> std::result::Result<(), Failure> {
        let mut request = self.agent.get(&self.url);
        if self.length > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", self.length));
        }
        let response = request.call().map_err(Failure::passing)?;
        let status = response.status();
        match status {
            StatusCode::PARTIAL_CONTENT if starts_at(&response, self.length) => {}
            // The server sends all of it; or it has nothing after what is here, which is then
            // the whole file or not it.
            StatusCode::OK => self.start_over()?,
            StatusCode::RANGE_NOT_SATISFIABLE if self.length > 0 => {
                if super::hex(&self.hash.clone().finalize()) != self.remote.md5 {
                    return self.start_over();
                }
                self.complete = true;
                return Ok(());
            }
            _ if status.is_server_error() => {
                return Err(Failure::passing(format!("the server answered {status}")));
            }
            _ => {
                let reason = format!(
                    "the server answered {status}; fetch the file by hand, or from a mirror"
                );
                return Err(Failure::last(reason));
            }
        }
        let of = response
            .body()
            .content_length()
            .map(|left| self.length.saturating_add(left));
        if of.is_some_and(|of| of > self.remote.max_bytes) {
            return Err(self.too_long());
        }
        self.receive(response.into_body(), of, progress)
    }

    fn receive(
        &mut self,
        body: Body,
        of: Option<u64>,
        progress: Progress,
    ) -> std::result::Result<(), Failure> {
        // The limit is ours: it holds for all requests together.
        let mut body = body.into_with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = body.read(&mut buffer).map_err(Failure::passing)?;
            if read == 0 {
                break;
            }
            self.length += read as u64;
            if self.length > self.remote.max_bytes {
                return Err(self.too_long());
            }
            self.hash.update(&buffer[..read]);
            self.file.append(&buffer[..read]).map_err(Failure::last)?;
            interrupt::check().map_err(Failure::last)?;
            progress(self.length, of);
        }
        match of {
            Some(of) if of != self.length => Err(Failure::passing(format!(
                "the server broke off after {} of {of} bytes",
                self.length
            ))),
            _ => {
                self.complete = true;
                Ok(())
            }
        }
    }

    fn start_over(&mut self) -> std::result::Result<(), Failure> {
        self.hash = Md5::new();
        self.length = 0;
        // It was opened to append, so that the next byte goes to the new end.
        self.file.empty().map_err(Failure::last)
    }

    fn too_long(&self) -> Failure {
        let _ = files::remove_file(&self.part);
        let most = self.remote.max_bytes;
        Failure::last(format!(
            "found more than {most} bytes, expected the official file"
        ))
    }

    /// Whole: let it appear if it is the right one.
    fn finish(self, path: &Path) -> Result<()> {
        let found = super::hex(&self.hash.clone().finalize());
        if found != self.remote.md5 {
            let _ = files::remove_file(&self.part);
            let expected = format!(
                "found md5 {found}, expected {}; it was deleted: fetch it again, or from another place",
                self.remote.md5
            );
            return Err(self.error(expected));
        }
        self.file.finish()?;
        files::rename(&self.part, path)?;
        files::sync_dir(parent_of(path))
    }

    fn error(&self, reason: String) -> Error {
        Error::Download {
            url: self.url.clone(),
            reason: reason.split_whitespace().collect::<Vec<_>>().join(" "),
        }
    }
}

/// Whether a partial answer goes on from byte `length`.
fn starts_at(response: &ureq::http::Response<Body>, length: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE);
    let range = range.and_then(|range| range.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {length}-")))
}
