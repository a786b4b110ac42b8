//! Downloads from a test server on the loopback interface: they resume, verify checksums, retry
//! temporary errors, and use the proxies and certificates of the environment.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::world::{PREP, World};
use flowreg::Cancel;
use flowreg::data::download::fetch;
use flowreg::data::flowers102::Remote;
use md5::{Digest, Md5};

/// Fetch, without progress or a cancel.
fn fetch_quietly(address: &str, remote: &Remote, into: &Path) -> flowreg::Result<bool> {
    fetch(address, remote, into, &Cancel::new(), &mut |_, _| {})
}

/// The behaviour of a test server.
#[derive(Clone, Default)]
struct Manners {
    /// For each request, the bytes of the body after which it closes the connection; then whole bodies.
    cuts: Vec<usize>,
    /// Whether it ignores ranges and sends the whole body.
    ignores_ranges: bool,
    /// Responses to the first requests, instead of the body.
    statuses: Vec<&'static str>,
    /// The first byte of every range that it sends, whatever was requested.
    part_at: Option<usize>,
    /// Whether it answers a request for the whole body with a range.
    only_parts: bool,
    /// The length that it claims.
    claims: Option<usize>,
}

/// Start a server with one body for every name; returns its address and the heads of its requests.
fn serve(body: Vec<u8>, manners: Manners) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    std::thread::spawn(move || {
        let mut cuts = manners.cuts.clone().into_iter();
        let mut statuses = manners.statuses.iter().copied();
        for stream in listener.incoming() {
            let status = statuses.next();
            let _ = answer(stream.unwrap(), &body, &manners, status, &mut cuts, &seen);
        }
    });
    (address, heads)
}

fn answer(
    stream: TcpStream,
    body: &[u8],
    manners: &Manners,
    status: Option<&str>,
    cuts: &mut impl Iterator<Item = usize>,
    seen: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    let mut head = read_head(&mut reader)?;
    if head.starts_with("CONNECT") {
        seen.lock().unwrap().push(head);
        stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
        head = read_head(&mut reader)?;
    }
    let lower = head.to_ascii_lowercase();
    seen.lock().unwrap().push(head);
    let asked = lower.split("range: bytes=").nth(1);
    let start = asked.map_or(0, |range| range.split('-').next().unwrap().parse().unwrap());
    let start = if manners.ignores_ranges { 0 } else { start };
    if let Some(status) = status {
        return write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    if start >= body.len() {
        return write!(
            stream,
            "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    let start = match start {
        0 if !manners.only_parts => 0,
        asked => manners.part_at.unwrap_or(asked),
    };
    let rest = &body[start..];
    let status = match asked {
        None if !manners.only_parts => "200 OK".to_string(),
        _ if manners.ignores_ranges => "200 OK".to_string(),
        _ => format!(
            "206 Partial Content\r\nContent-Range: bytes {start}-{}/{}",
            body.len() - 1,
            body.len()
        ),
    };
    let length = manners.claims.unwrap_or(rest.len());
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    let cut = cuts.next().unwrap_or(rest.len()).min(rest.len());
    stream.write_all(&rest[..cut])
}

fn read_head(reader: &mut impl BufRead) -> std::io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.by_ref().take(1 << 16).read_line(&mut head)? == 0 {
            break;
        }
    }
    Ok(head)
}

fn body() -> Vec<u8> {
    let mut uniform = common::uniform(1);
    (0..300_000).map(|_| (uniform() * 256.0) as u8).collect()
}

fn remote(body: &[u8]) -> Remote {
    let md5: String = Md5::digest(body)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Remote {
        name: "file",
        md5: md5.leak(),
        max_bytes: 400_000,
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Write the partial file of an interrupted download.
fn write_part(dir: &Path, bytes: &[u8]) {
    let partial = dir.join(".file.partial");
    std::fs::create_dir(&partial).unwrap();
    std::fs::write(partial.join(".flowreg.json"), b"{").unwrap();
    std::fs::write(partial.join("file"), bytes).unwrap();
}

#[test]
fn an_interrupted_download_resumes() {
    let dir = tempfile::tempdir().unwrap();
    let manners = Manners {
        cuts: vec![100_000, 1, 50_000],
        ..Manners::default()
    };
    let (address, heads) = serve(body(), manners);
    let mut last = 0;
    let fetched = fetch(
        &address,
        &remote(&body()),
        dir.path(),
        &Cancel::new(),
        &mut |bytes, of| {
            assert!(bytes > last && of == Some(300_000), "{bytes} of {of:?}");
            last = bytes;
        },
    );
    assert!(fetched.unwrap());
    assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), body());
    assert_eq!(names(dir.path()), ["file"]);
    let ranges: Vec<bool> = (heads.lock().unwrap().iter())
        .map(|head| head.to_ascii_lowercase().contains("range: bytes="))
        .collect();
    assert_eq!(ranges, [false, true, true, true]);
    // The file exists now: no more requests.
    assert!(!fetch_quietly(&address, &remote(&body()), dir.path()).unwrap());
    assert_eq!(heads.lock().unwrap().len(), 4);
}

#[test]
fn another_process_resumes_a_partial_download() {
    for (ignores_ranges, there) in [
        (false, 120_000),
        (true, 120_000),
        (false, 300_000),
        (false, 350_000),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut part = body();
        part.resize(there, 7);
        write_part(dir.path(), &part);
        let manners = Manners {
            ignores_ranges,
            ..Manners::default()
        };
        let (address, _) = serve(body(), manners);
        assert!(fetch_quietly(&address, &remote(&body()), dir.path()).unwrap());
        assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), body());
    }
}

#[test]
fn files_of_another_checksum_are_refused_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let refusal = |body: Vec<u8>, manners: Manners| {
        let (address, _) = serve(body, manners);
        let error = fetch_quietly(&address, &remote(&self::body()), dir.path());
        error.unwrap_err().to_string()
    };
    let mut wrong = body();
    wrong[77] ^= 1;
    assert!(refusal(wrong, Manners::default()).contains("found md5"));
    assert!(names(dir.path()).is_empty());
    assert!(refusal(vec![0; 500_000], Manners::default()).contains("more than 400000 bytes"));
    assert!(names(dir.path()).is_empty());
    let claims = Manners {
        claims: Some(usize::MAX >> 1),
        ..Manners::default()
    };
    assert!(refusal(body(), claims).contains("more than 400000 bytes"));
    // A foreign file of that name is not replaced.
    std::fs::write(dir.path().join("file"), "mine").unwrap();
    assert!(refusal(body(), Manners::default()).contains("delete the file"));
    assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), b"mine");
}

/// If a server sends another range than was requested, the partial file is deleted and the whole is
/// requested, a limited number of times.
#[test]
fn unrequested_ranges_restart_the_download() {
    let fetch_beside_a_part = |manners: Manners| {
        let dir = tempfile::tempdir().unwrap();
        write_part(dir.path(), &body()[..120_000]);
        let (address, heads) = serve(body(), manners);
        let fetched = fetch_quietly(&address, &remote(&body()), dir.path());
        let heads = heads.lock().unwrap();
        let ranges = heads.iter().map(|head| {
            let head = head.to_ascii_lowercase();
            let range = head
                .lines()
                .find_map(|line| line.strip_prefix("range: bytes="));
            range.map(str::to_string)
        });
        (fetched, ranges.collect::<Vec<_>>())
    };
    for part_at in [0, 119_999, 120_001] {
        let manners = Manners {
            part_at: Some(part_at),
            ..Manners::default()
        };
        let (fetched, ranges) = fetch_beside_a_part(manners.clone());
        assert!(fetched.unwrap(), "{part_at}");
        assert_eq!(ranges, [Some("120000-".to_string()), None], "{part_at}");
        let (fetched, ranges) = fetch_beside_a_part(Manners {
            only_parts: true,
            ..manners
        });
        // A range that begins at 0 is accepted as the whole body.
        assert_eq!(fetched.is_ok(), part_at == 0, "{part_at}");
        assert!(ranges.len() <= 4, "{ranges:?}");
    }
    // Connections that close before the byte that was reached make no progress: an error.
    let manners = Manners {
        cuts: vec![10; 20],
        ignores_ranges: true,
        ..Manners::default()
    };
    let (fetched, ranges) = fetch_beside_a_part(manners);
    assert!(
        fetched
            .unwrap_err()
            .to_string()
            .contains("run the command again")
    );
    assert_eq!(ranges.len(), 5);
}

#[test]
fn temporary_server_errors_are_retried_and_permanent_ones_are_not() {
    let fetch_from = |statuses: &[&'static str]| {
        let dir = tempfile::tempdir().unwrap();
        let manners = Manners {
            statuses: statuses.to_vec(),
            ..Manners::default()
        };
        let (address, heads) = serve(body(), manners);
        let started = Instant::now();
        let fetched = fetch_quietly(&address, &remote(&body()), dir.path());
        let heads = heads.lock().unwrap().len();
        (
            fetched.map_err(|error| error.to_string()),
            heads,
            started.elapsed(),
        )
    };
    for busy in [
        "408 Timeout",
        "429 Too Many",
        "500 Bug",
        "502 Bad",
        "503 Busy",
        "504 Late",
    ] {
        assert_eq!(fetch_from(&[busy]).0, Ok(true), "{busy}");
    }
    let (fetched, heads, took) = fetch_from(&["429 Too Many\r\nRetry-After: 2"]);
    assert_eq!((fetched, heads), (Ok(true), 2));
    assert!((2.0..20.0).contains(&took.as_secs_f64()), "{took:?}");
    let date = httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(3));
    let dated = format!("503 Busy\r\nRetry-After: {date}").leak();
    let (fetched, _, took) = fetch_from(&[dated]);
    assert_eq!(fetched, Ok(true));
    assert!((1.5..20.0).contains(&took.as_secs_f64()), "{took:?}");
    // An invalid Retry-After is ignored.
    assert_eq!(fetch_from(&["503 Busy\r\nRetry-After: -1"]).0, Ok(true));

    for (status, part) in [
        ("404 Not Found", "404"),
        ("403 Forbidden", "403"),
        ("304 Not Modified", "304"),
        ("429 Too Many\r\nRetry-After: 3600", "a pause of 3600 s"),
        (
            "503 Busy\r\nRetry-After: Fri, 31 Dec 9999 23:59:59 GMT",
            "a pause of",
        ),
        ("302 Found\r\nLocation: /again", "redirects"),
    ] {
        let (fetched, heads, took) = fetch_from(&[status; 30]);
        let error = fetched.unwrap_err();
        assert!(error.contains(part), "{error}");
        let most = if status.starts_with("302") { 11 } else { 1 };
        assert!(
            heads <= most && took.as_secs() < 5,
            "{status}: {heads} in {took:?}"
        );
    }
    let (fetched, heads, _) = fetch_from(&["503 Busy"; 30]);
    assert!(fetched.unwrap_err().contains("run the command again"));
    assert_eq!(heads, 5);
}

#[test]
fn invalid_addresses_are_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let there = dir.path().join("a mirror");
    std::fs::create_dir(&there).unwrap();
    std::fs::write(there.join("file"), body()).unwrap();
    let mirror = there.to_str().unwrap().replace(' ', "%20");
    for (i, host) in ["", "localhost"].iter().enumerate() {
        let into = dir.path().join(i.to_string());
        let url = format!("file://{host}{mirror}/");
        assert!(fetch_quietly(&url, &remote(&body()), &into).unwrap());
        assert_eq!(std::fs::read(into.join("file")).unwrap(), body());
    }
    for (url, part) in [
        ("ftp://127.0.0.1/x".to_string(), "expected https://"),
        ("127.0.0.1/x".to_string(), "expected https://"),
        (there.display().to_string(), "file:///FOLDER"),
        ("file://elsewhere/x".to_string(), "another host"),
        (format!("file://{mirror}/absent"), "No such file"),
        ("http://".to_string(), "check the"),
        ("http://a b/".to_string(), "check the address"),
        ("http://no-such-host.invalid".to_string(), "check the host"),
    ] {
        let started = Instant::now();
        let error = fetch_quietly(&url, &remote(&body()), dir.path()).unwrap_err();
        assert!(error.to_string().contains(part), "{url}: {error}");
        assert!(started.elapsed().as_secs() < 5, "{url}");
    }
}

/// Files of other programs are neither opened nor removed, whatever their names, nor through links.
#[cfg(unix)]
#[test]
fn downloads_leave_foreign_files_alone() {
    use std::os::unix::fs::symlink;
    let fetch_in = |dir: &Path| {
        let (address, _) = serve(vec![7; 1000], Manners::default());
        let fetched = fetch_quietly(&address, &remote(&body()), dir);
        fetched.unwrap_err().to_string()
    };
    let world = tempfile::tempdir().unwrap();
    let victim = world.path().join("victim");
    std::fs::write(&victim, "somebody else's").unwrap();
    std::fs::create_dir(world.path().join("folder")).unwrap();
    std::fs::write(world.path().join("folder/file"), "somebody else's").unwrap();
    type Make = fn(&Path);
    let made: [(Make, Option<&str>); 8] = [
        (
            |dir| std::fs::write(dir.join("file.part"), "mine").unwrap(),
            None,
        ),
        (
            |dir| symlink("../victim", dir.join("file.part")).unwrap(),
            None,
        ),
        (
            |dir| std::fs::hard_link(dir.join("../victim"), dir.join("file.part")).unwrap(),
            None,
        ),
        (
            |dir| std::fs::write(dir.join(".file.partial"), "mine").unwrap(),
            Some(".file.partial"),
        ),
        (
            |dir| symlink("../folder", dir.join(".file.partial")).unwrap(),
            Some(".file.partial"),
        ),
        (
            |dir| {
                write_part(dir, b"");
                std::fs::remove_file(dir.join(".file.partial/file")).unwrap();
                symlink("../../victim", dir.join(".file.partial/file")).unwrap();
            },
            Some(".file.partial/file"),
        ),
        (
            |dir| {
                write_part(dir, b"");
                std::fs::remove_file(dir.join(".file.partial/file")).unwrap();
                std::fs::hard_link(dir.join("../victim"), dir.join(".file.partial/file")).unwrap();
            },
            Some(".file.partial/file"),
        ),
        (
            |dir| symlink("../victim", dir.join(".file.lock")).unwrap(),
            Some(".file.lock"),
        ),
    ];
    for (i, (make, named)) in made.into_iter().enumerate() {
        let dir = world.path().join(i.to_string());
        std::fs::create_dir(&dir).unwrap();
        make(&dir);
        let before = names(&dir);
        let error = fetch_in(&dir);
        match named {
            Some(name) => assert!(error.contains(&format!("{name}: name: found")), "{error}"),
            None => assert!(error.contains("found md5"), "{error}"),
        }
        assert_eq!(names(&dir), before, "{i}: {error}");
        assert_eq!(std::fs::read(&victim).unwrap(), b"somebody else's", "{i}");
    }
    assert_eq!(names(&world.path().join("folder")), ["file"]);
}

/// Run the command with these environment variables; returns exit code and stderr.
fn download(world: &World, url: &str, env: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(PREP);
    let root = ["--root", "official", "--download", "--out", "flowers"];
    command.arg("flowers102").args(root);
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command
            .env_remove(name)
            .env_remove(name.to_ascii_uppercase());
    }
    command
        .env_remove("SSL_CERT_FILE")
        .env_remove("SSL_CERT_DIR");
    command
        .env("FLOWREG_FLOWERS102_URL", url)
        .envs(env.iter().copied());
    let output = command.current_dir(world.0.path()).output().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn the_command_refuses_a_wrong_file() {
    let world = World::new();
    let (address, _) = serve(body(), Manners::default());
    let (code, stderr) = download(&world, &address, &[]);
    assert_eq!(code, Some(74), "{stderr}");
    assert!(stderr.contains("setid.mat: found md5"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(names(&world.path("official")).is_empty() && !world.path("flowers").exists());
}

/// http is forwarded in the absolute form and https tunnelled, each by the proxy of its variable.
#[test]
fn proxies_are_chosen_as_by_curl() {
    let world = World::new();
    let heads_of = |url: &str, variable: &str, more: &[(&str, &str)]| {
        let (proxy, heads) = serve(body(), Manners::default());
        let proxy = proxy.replace("//", "//user:pass%20word@");
        let env = [&[(variable, proxy.as_str())], more].concat();
        let (code, stderr) = download(&world, url, &env);
        assert_eq!(code, Some(74), "{stderr}");
        heads.lock().unwrap().concat()
    };
    let (http, https) = ("http://mirror.invalid:81/102", "https://mirror.invalid/102");
    for variable in ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"] {
        let heads = heads_of(http, variable, &[("NO_PROXY", "nowhere")]);
        let line = "GET http://mirror.invalid:81/102/setid.mat HTTP/1.1\r\n";
        assert!(heads.starts_with(line), "{variable}: {heads}");
        let lower = heads.to_ascii_lowercase();
        assert!(lower.contains("\r\nhost: mirror.invalid:81\r\n"), "{heads}");
        assert!(heads.contains("Basic dXNlcjpwYXNzIHdvcmQ="), "{heads}");
        assert!(!heads.contains("CONNECT"), "{heads}");
    }
    for variable in ["https_proxy", "HTTPS_PROXY", "ALL_PROXY"] {
        let heads = heads_of(https, variable, &[]);
        assert!(
            heads.starts_with("CONNECT mirror.invalid:443 HTTP/1.1\r\n"),
            "{heads}"
        );
    }
    for (url, variable, no_proxy) in [
        (http, "HTTPS_PROXY", ""),
        (https, "HTTP_PROXY", ""),
        (http, "HTTP_PROXY", "example.org,mirror.invalid"),
        (https, "ALL_PROXY", ".invalid"),
    ] {
        assert_eq!(heads_of(url, variable, &[("NO_PROXY", no_proxy)]), "");
    }
    let (code, stderr) = download(&world, http, &[("ALL_PROXY", "gopher://x")]);
    assert_eq!(code, Some(74));
    assert!(stderr.contains("ALL_PROXY is \"gopher://x\""), "{stderr}");
}

/// The authority of the server is known from `SSL_CERT_FILE` only.
#[test]
fn certificates_are_taken_from_the_environment() {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
    use rustls::{ServerConfig, ServerConnection, StreamOwned};

    let tls = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls");
    let read = |name: &str| std::fs::read(tls.join(name)).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(read("server.key.der")));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(read("server.der"))], key);
    let config = Arc::new(config.unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(config.clone()).unwrap();
            let mut stream = StreamOwned::new(connection, stream.unwrap());
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nhere";
            if read_head(&mut BufReader::new(&mut stream)).is_ok() {
                let _ = stream.write_all(answer);
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        }
    });
    let world = World::new();
    let authority = tls.join("authority.pem");
    let empty = world.path("empty.pem");
    std::fs::write(&empty, "").unwrap();
    for (file, part) in [
        (Some(authority.to_str().unwrap()), "found md5"),
        (None, "SSL_CERT_FILE"),
        (Some(empty.to_str().unwrap()), "SSL_CERT_FILE: found"),
        (Some("/absent.pem"), "/absent.pem"),
    ] {
        let env: Vec<(&str, &str)> = file.iter().map(|file| ("SSL_CERT_FILE", *file)).collect();
        let started = Instant::now();
        let (code, stderr) = download(&world, &address, &env);
        assert_eq!(code, Some(74), "{stderr}");
        assert!(stderr.contains(part), "{file:?}: {stderr}");
        assert!(started.elapsed().as_secs() < 5, "{file:?}: {stderr}");
    }
}
