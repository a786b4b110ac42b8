//! Download of files with a known md5. An interrupted download is resumed; a file gets its name only
//! when it is complete and its md5 is right.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use md5::{Digest, Md5};
use ureq::http::{HeaderMap, StatusCode, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::{Agent, Body};

use crate::data::flowers102::{Remote, md5_of};
use crate::data::proxy;
use crate::data::proxy::Forwarding;
use crate::error::{Error, Result};
use crate::io::files::{NewFile, parent_of};
use crate::io::publish::Lock;
use crate::io::{files, publish};
use crate::progress::Cancel;

/// Limit on consecutive requests without progress.
const ATTEMPTS: u32 = 5;
/// Timeout of a request; the next one continues the download.
const REQUEST: Duration = Duration::from_secs(300);
const CONNECT: Duration = Duration::from_secs(20);
/// Limit on a pause that the server requests.
const PAUSE: Duration = Duration::from_secs(60);
/// Limit on restarts from the beginning because the server sends another part.
const RESTARTS: u32 = 2;
const BUFFER: usize = 1 << 18;

/// Called with the number of bytes received, and the total if known.
pub type Progress<'a> = &'a mut dyn FnMut(u64, Option<u64>);

/// Download `remote` from the address `base` (`https://`, `http://` or `file://`) into the folder
/// `into`. Returns false if the file exists. An interrupted download is kept in the directory
/// `.NAME.partial`, and the next one resumes it if the server supports ranges.
///
/// The proxy is that of the environment, as in curl: `HTTPS_PROXY` or `HTTP_PROXY` by the scheme, else
/// `ALL_PROXY`; none for hosts in `NO_PROXY`. Trusted certificates are those of the system, or of
/// `SSL_CERT_FILE` and `SSL_CERT_DIR`; Mozilla's if the system has none.
///
/// A request to a busy server (408, 429, 5xx) is repeated, after the pause in `Retry-After` if it is at
/// most a minute. Other errors that a retry cannot fix end the download.
///
/// # Errors
/// [`Error::Download`] if the server refuses the request, if five consecutive requests bring no byte,
/// or if the md5 is wrong (the file is then deleted); [`Error::Format`] if the name of the file or of
/// the directory is taken; [`Error::Locked`] if another process downloads it; [`Error::Io`];
/// [`Error::Interrupted`] once `cancel` is set.
pub fn fetch(
    base: &str,
    remote: &Remote,
    into: &Path,
    cancel: &Cancel,
    progress: Progress,
) -> Result<bool> {
    let path = into.join(remote.name);
    files::create_dir_all(into)?;
    let _lock = Lock::take(&path)?;
    if path.symlink_metadata().is_ok() {
        let found = md5_of(&path)?;
        return if found == remote.md5 {
            Ok(false)
        } else {
            let expected = format!("{}; delete the file to fetch it again", remote.md5);
            Err(Error::format(&path, "md5", found, expected))
        };
    }
    let mut download = Download::begin(base, remote, &path, cancel)?;
    let mut without_progress = 0;
    while let Err(failure) = download.request(progress) {
        interrupted(cancel)?;
        // Only new bytes are progress: a server may send the same ones again and again.
        without_progress = if download.length > download.most {
            1
        } else {
            without_progress + 1
        };
        download.most = download.most.max(download.length);
        if failure.is_final || without_progress >= ATTEMPTS {
            return Err(download.error(failure.reason));
        }
        let pause = Duration::from_millis(200 << without_progress).max(failure.pause);
        let until = Instant::now() + pause;
        while Instant::now() < until {
            interrupted(cancel)?;
            std::thread::sleep((until - Instant::now()).min(Duration::from_millis(100)));
        }
    }
    download.finish(&path)?;
    Ok(true)
}

fn interrupted(cancel: &Cancel) -> Result<()> {
    cancel.check().map_err(|_| Error::Interrupted {
        kept: "the received part is kept: the same command resumes the download".to_string(),
    })
}

/// Why a request failed, whether a retry is useless, and the pause before it.
struct Failure {
    reason: String,
    is_final: bool,
    pause: Duration,
}

impl Failure {
    fn transient(reason: impl ToString) -> Failure {
        let reason = reason.to_string();
        Failure {
            reason: format!("{reason}; run the command again to resume the download"),
            is_final: false,
            pause: Duration::ZERO,
        }
    }

    fn fatal(reason: impl ToString) -> Failure {
        Failure {
            reason: reason.to_string(),
            is_final: true,
            pause: Duration::ZERO,
        }
    }

    /// The failure of a request without a response.
    fn of(error: ureq::Error) -> Failure {
        let text = error.to_string();
        let fatal = |advice: &str| Failure::fatal(format!("{text}; {advice}"));
        match &error {
            ureq::Error::HostNotFound => fatal(HOST),
            // The standard library has no kind for a failed lookup.
            ureq::Error::Io(_) if text.contains("failed to lookup") => fatal(HOST),
            // The kind of rustls's errors in a handshake.
            ureq::Error::Io(error) if error.kind() == ErrorKind::InvalidData => fatal(CERTIFICATE),
            ureq::Error::Rustls(_) | ureq::Error::Tls(_) => fatal(CERTIFICATE),
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => fatal(ADDRESS),
            ureq::Error::TooManyRedirects | ureq::Error::RedirectFailed => fatal(ADDRESS),
            ureq::Error::ConnectProxyFailed(_) => fatal(
                "check the proxy that HTTPS_PROXY or ALL_PROXY names, or put the host into NO_PROXY",
            ),
            _ => Failure::transient(text),
        }
    }
}

/// Advice for fatal failures.
const ADDRESS: &str = "check the address, or fetch the file by hand, or from a mirror";
const HOST: &str = "check the host's name and the network (a proxy is taken from HTTPS_PROXY, \
                    HTTP_PROXY or ALL_PROXY), or fetch the file by hand, or from a mirror";
const CERTIFICATE: &str = "if the server can be trusted, name a file with its authority's \
                           certificate (PEM) in SSL_CERT_FILE";

/// The source of a file.
enum From {
    Server(Agent),
    /// A local file, by a `file://` address.
    File(PathBuf),
}

/// A download in progress.
struct Download<'a> {
    from: From,
    url: String,
    remote: &'a Remote,
    cancel: &'a Cancel,
    /// The temporary directory.
    dir: PathBuf,
    part: PathBuf,
    file: NewFile,
    hash: Md5,
    length: u64,
    /// Maximum of `length` up to now.
    most: u64,
    restarts: u32,
}

impl<'a> Download<'a> {
    fn begin(
        base: &str,
        remote: &'a Remote,
        path: &Path,
        cancel: &'a Cancel,
    ) -> Result<Download<'a>> {
        let url = if base.ends_with('/') {
            format!("{base}{}", remote.name)
        } else {
            format!("{base}/{}", remote.name)
        };
        let refused = |reason| Error::Download {
            url: url.clone(),
            reason,
        };
        let from = from(&url).map_err(refused)?;
        let dir = publish::resume_directory(path)?;
        let part = dir.join(remote.name);
        let file = NewFile::resume(&part)?;
        let (mut hash, mut length) = (Md5::new(), 0);
        files::read_pieces(&part, |piece| {
            hash.update(piece);
            length += piece.len() as u64;
        })?;
        Ok(Download {
            from,
            url,
            remote,
            cancel,
            dir,
            part,
            file,
            hash,
            length,
            most: length,
            restarts: 0,
        })
    }

    /// Request the rest of the file and append it. The file is complete if this succeeds.
    fn request(&mut self, progress: Progress) -> std::result::Result<(), Failure> {
        let agent = match &self.from {
            From::Server(agent) => agent,
            From::File(path) => {
                let file = files::open_regular(path, "open").map_err(Failure::fatal)?;
                let of = file.metadata().ok().map(|metadata| metadata.len());
                self.start_over()?;
                return self.receive(file, of, progress);
            }
        };
        let mut request = agent.get(&self.url);
        if self.length > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", self.length));
        }
        let response = request.call().map_err(Failure::of)?;
        let status = response.status();
        let left = response.body().content_length();
        let mut of = left.map(|left| self.length.saturating_add(left));
        match status {
            StatusCode::OK => {
                self.start_over()?;
                of = left;
            }
            StatusCode::PARTIAL_CONTENT => match content_range(response.headers()) {
                Some((start, whole)) if start == self.length => of = whole.or(of),
                _ => {
                    return Err(self.restart("the server sent another part than the requested one"));
                }
            },
            StatusCode::RANGE_NOT_SATISFIABLE if self.length > 0 => {
                if crate::data::hex(&self.hash.clone().finalize()) == self.remote.md5 {
                    return Ok(());
                }
                return Err(self.restart("the server has no bytes after the received part"));
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                return Err(busy(status, response.headers()));
            }
            _ if status.is_server_error() => return Err(busy(status, response.headers())),
            _ => {
                return Err(Failure::fatal(format!(
                    "the server answered {status}; {ADDRESS}"
                )));
            }
        }
        if of.is_some_and(|of| of > self.remote.max_bytes) {
            return Err(self.too_long());
        }
        // The length is limited over all requests, in `receive`.
        let body: Body = response.into_body();
        let body = body.into_with_config().limit(u64::MAX).reader();
        self.receive(body, of, progress)
    }

    fn receive(
        &mut self,
        mut body: impl Read,
        of: Option<u64>,
        progress: Progress,
    ) -> std::result::Result<(), Failure> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = body.read(&mut buffer).map_err(Failure::transient)?;
            if read == 0 {
                break;
            }
            self.length += read as u64;
            if self.length > self.remote.max_bytes {
                return Err(self.too_long());
            }
            self.hash.update(&buffer[..read]);
            self.file.append(&buffer[..read]).map_err(Failure::fatal)?;
            self.cancel.check().map_err(Failure::fatal)?;
            progress(self.length, of);
        }
        match of {
            Some(of) if of > self.length => Err(Failure::transient(format!(
                "the server ended the response after {} of {of} bytes",
                self.length
            ))),
            _ => Ok(()),
        }
    }

    /// Discard the part, so that the next request is for the whole file; fatal after [`RESTARTS`].
    fn restart(&mut self, reason: &str) -> Failure {
        if let Err(failure) = self.start_over() {
            return failure;
        }
        self.most = 0;
        self.restarts += 1;
        if self.restarts > RESTARTS {
            Failure::fatal(format!("{reason}; {ADDRESS}"))
        } else {
            Failure::transient(reason)
        }
    }

    fn start_over(&mut self) -> std::result::Result<(), Failure> {
        self.hash = Md5::new();
        self.length = 0;
        // The file is opened for appending: the next byte is its first.
        self.file.empty().map_err(Failure::fatal)
    }

    fn too_long(&mut self) -> Failure {
        self.length = 0;
        let most = self.remote.max_bytes;
        Failure::fatal(format!(
            "found more than {most} bytes, expected the official file"
        ))
    }

    /// Check the md5 of the complete file, and give it its name.
    fn finish(mut self, path: &Path) -> Result<()> {
        let found = crate::data::hex(&self.hash.clone().finalize());
        if found != self.remote.md5 {
            self.length = 0;
            let expected = format!(
                "found md5 {found}, expected {}; it was deleted: fetch it again, or from another place",
                self.remote.md5
            );
            return Err(self.error(expected));
        }
        self.file.finish()?;
        files::rename_new(&self.part, path)?;
        self.length = 0;
        files::sync_dir(parent_of(path))
    }

    fn error(&self, reason: String) -> Error {
        Error::Download {
            url: self.url.clone(),
            reason: reason.split_whitespace().collect::<Vec<_>>().join(" "),
        }
    }
}

impl Drop for Download<'_> {
    /// Remove the directory, unless it contains a part to resume.
    fn drop(&mut self) {
        if self.length == 0 {
            let _ = publish::remove_all(&self.dir);
        }
    }
}

/// Offset of a partial response, and the length of the whole file if known.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let range = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (part, whole) = range.strip_prefix("bytes ")?.split_once('/')?;
    let start = part.split_once('-')?.0.trim().parse().ok()?;
    Some((start, whole.trim().parse().ok()))
}

/// The failure for a busy server, with the pause that it requests.
fn busy(status: StatusCode, headers: &HeaderMap) -> Failure {
    let after = headers.get(header::RETRY_AFTER);
    let after = after.and_then(|after| after.to_str().ok()).map(str::trim);
    let pause = after.and_then(|after| match after.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let date = httpdate::parse_http_date(after).ok()?;
            Some(date.duration_since(SystemTime::now()).unwrap_or_default())
        }
    });
    let pause = pause.unwrap_or_default();
    let answered = format!("the server answered {status}");
    if pause > PAUSE {
        Failure::fatal(format!(
            "{answered} and requests a pause of {} s; run the command again after it",
            pause.as_secs()
        ))
    } else {
        Failure {
            pause,
            ..Failure::transient(answered)
        }
    }
}

/// The source of an address; `Err` says what is wrong with it.
fn from(url: &str) -> std::result::Result<From, String> {
    let expected = "expected https://HOST/.., http://HOST/.. or file:///FOLDER";
    let (scheme, rest) = (url.split_once("://")).ok_or(format!("found no scheme, {expected}"))?;
    match scheme.to_ascii_lowercase().as_str() {
        "https" | "http" => agent(url).map(From::Server),
        "file" => {
            let path = rest.strip_prefix("localhost").unwrap_or(rest);
            if !path.starts_with('/') {
                return Err(format!("found a file of another host, {expected}"));
            }
            Ok(From::File(decoded(path)))
        }
        _ => Err(format!("found the scheme {scheme:?}, {expected}")),
    }
}

/// Decode the path of an address, in which `%20` is a space.
fn decoded(path: &str) -> PathBuf {
    let bytes: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
    #[cfg(unix)]
    return <std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes).into();
    #[cfg(not(unix))]
    String::from_utf8_lossy(&bytes).into_owned().into()
}

fn agent(url: &str) -> std::result::Result<Agent, String> {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(CONNECT))
        .timeout_recv_body(Some(REQUEST))
        .user_agent(concat!("flowreg/", env!("CARGO_PKG_VERSION")))
        .proxy(proxy::of(url, |name| std::env::var(name).ok())?)
        .tls_config(TlsConfig::builder().root_certs(root_certs()?).build())
        .build();
    let (connector, resolver) = (Forwarding::default(), DefaultResolver::default());
    Ok(Agent::with_parts(config, connector, resolver))
}

/// The trusted certificates of the system or the environment.
fn root_certs() -> std::result::Result<RootCerts, String> {
    let found = rustls_native_certs::load_native_certs();
    let own = ["SSL_CERT_FILE", "SSL_CERT_DIR"]
        .into_iter()
        .find(|name| std::env::var_os(name).is_some());
    match own {
        Some(name) if found.certs.is_empty() => {
            let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
            let found = match errors.join(", ") {
                errors if errors.is_empty() => "no certificate".to_string(),
                errors => errors,
            };
            Err(format!(
                "{name}: found {found}, expected certificates in PEM; correct or unset it"
            ))
        }
        None if found.certs.is_empty() => Ok(RootCerts::WebPki),
        _ => {
            let certs: Vec<Certificate> = (found.certs.iter())
                .map(|cert| Certificate::from_der(cert).to_owned())
                .collect();
            Ok(RootCerts::new_with_certs(&certs))
        }
    }
}
