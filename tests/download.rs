//! Downloads, against a server of our own on the loopback: resumed where they broke off, refused
//! where they are not what they should be, through a proxy where the environment names one.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use common::world::{PREP, World};
use flowreg::data::download::fetch;
use flowreg::data::flowers102::Remote;
use md5::{Digest, Md5};

/// How a server behaves.
#[derive(Clone, Default)]
struct Manners {
    /// Bytes of a body after which it hangs up, request by request; then all.
    cuts: Vec<usize>,
    /// It answers a range with the whole.
    ignores_ranges: bool,
    /// It answers so instead.
    status: Option<&'static str>,
    /// It claims so many bytes.
    claims: Option<usize>,
}

/// A server that has one body for every name; the heads of the requests that it got.
fn serve(body: Vec<u8>, manners: Manners) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    std::thread::spawn(move || {
        let mut cuts = manners.cuts.clone().into_iter();
        for stream in listener.incoming() {
            let _ = answer(stream.unwrap(), &body, &manners, &mut cuts, &seen);
        }
    });
    (address, heads)
}

fn answer(
    stream: TcpStream,
    body: &[u8],
    manners: &Manners,
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
    if let Some(status) = manners.status {
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
    let rest = &body[start..];
    let status = match start {
        0 => "200 OK".to_string(),
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

#[test]
fn a_broken_download_goes_on_where_it_broke_off() {
    let dir = tempfile::tempdir().unwrap();
    let manners = Manners {
        cuts: vec![100_000, 1, 50_000],
        ..Manners::default()
    };
    let (address, heads) = serve(body(), manners);
    let mut last = 0;
    let fetched = fetch(&address, &remote(&body()), dir.path(), &mut |bytes, of| {
        assert!(bytes > last && of == Some(300_000), "{bytes} of {of:?}");
        last = bytes;
    });
    assert!(fetched.unwrap());
    assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), body());
    assert_eq!(names(dir.path()), ["file"]);
    let ranges: Vec<bool> = (heads.lock().unwrap().iter())
        .map(|head| head.to_ascii_lowercase().contains("range: bytes="))
        .collect();
    assert_eq!(ranges, [false, true, true, true]);
    // It is there now: nothing more is asked for.
    assert!(!fetch(&address, &remote(&body()), dir.path(), &mut |_, _| {}).unwrap());
    assert_eq!(heads.lock().unwrap().len(), 4);
}

#[test]
fn another_process_goes_on_with_what_is_there() {
    for (ignores_ranges, there) in [
        (false, 120_000),
        (true, 120_000),
        (false, 300_000),
        (false, 350_000),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut part = body();
        part.resize(there, 7);
        std::fs::write(dir.path().join("file.part"), part).unwrap();
        let manners = Manners {
            ignores_ranges,
            ..Manners::default()
        };
        let (address, _) = serve(body(), manners);
        assert!(fetch(&address, &remote(&body()), dir.path(), &mut |_, _| {}).unwrap());
        assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), body());
    }
}

#[test]
fn what_is_not_the_file_is_refused_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let refusal = |body: Vec<u8>, manners: Manners| {
        let (address, _) = serve(body, manners);
        let error = fetch(&address, &remote(&self::body()), dir.path(), &mut |_, _| {});
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
    let status = |status| Manners {
        status: Some(status),
        ..Manners::default()
    };
    assert!(refusal(body(), status("404 Not Found")).contains("404"));
    assert!(refusal(body(), status("503 Service Unavailable")).contains("run the command again"));
    // Another file of that name is nobody's to replace.
    std::fs::write(dir.path().join("file"), "mine").unwrap();
    assert!(refusal(body(), Manners::default()).contains("delete the file"));
    assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), b"mine");
}

#[test]
fn the_command_refuses_a_wrong_file_and_uses_a_proxy() {
    let world = World::new();
    let run = |name: &str, value: &str, url: &str| {
        let mut command = Command::new(PREP);
        command.args([
            "flowers102",
            "--root",
            "official",
            "--download",
            "--out",
            "flowers",
        ]);
        command.env("FLOWREG_FLOWERS102_URL", url).env(name, value);
        command.env("NO_PROXY", "nowhere").env_remove("no_proxy");
        command.current_dir(world.0.path()).output().unwrap()
    };
    let (address, _) = serve(body(), Manners::default());
    let output = run("UNUSED", "", &address);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(74), "{stderr}");
    assert!(stderr.contains("setid.mat: found md5"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(names(&world.path("official")).is_empty() && !world.path("flowers").exists());

    let (proxy, heads) = serve(body(), Manners::default());
    let output = run("ALL_PROXY", &proxy, "http://mirror.invalid/102");
    assert_eq!(output.status.code(), Some(74));
    let heads = heads.lock().unwrap().concat();
    assert!(
        heads.contains("mirror.invalid") && heads.contains("/setid.mat"),
        "{heads}"
    );
}
